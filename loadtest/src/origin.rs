//! The one origin model: an S3-compatible store whose objects are patterns, with rates, latency, faults and counters.
//!
//! It speaks HTTP/1.1 and, path style, as much of S3 as a reader needs: GET and HEAD of objects with Range and the
//! conditional headers, HEAD of the bucket, and both listings. It stores no bytes, checks no signatures, and accepts
//! no writes over HTTP: whoever runs it puts, overwrites and deletes from the same process, at any time.
//! An answer under way keeps the version it began with, as S3's do.

mod answer;
mod body;
mod faults;
mod list;
mod objects;
mod pace;
mod tally;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub use self::faults::{Fault, Rule};
pub use self::objects::Object;
use self::pace::Link;
use self::tally::Tally;
pub use self::tally::{Counters, Logged};

/// How the model behaves; [`Settings::default`] is as fast as the machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The only bucket there is.
    pub bucket: String,
    /// Bytes a second of each connection; `None`: unlimited.
    pub connection_rate: Option<u64>,
    /// Bytes a second of all connections together; `None`: unlimited.
    pub total_rate: Option<u64>,
    /// From a request's arrival to the head of its answer.
    pub first_byte: Duration,
    /// Seeds the chance in [`Rule::probability`].
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            bucket: "bucket".to_owned(),
            connection_rate: None,
            total_rate: None,
            first_byte: Duration::ZERO,
            seed: 0,
        }
    }
}

impl Settings {
    /// An object store as a reader in the same region sees it: 100 MB/s a connection, 30 ms to the first byte.
    pub fn remote() -> Self {
        Self {
            connection_rate: Some(100_000_000),
            first_byte: Duration::from_millis(30),
            ..Self::default()
        }
    }
}

/// What the connections share.
#[derive(Debug)]
struct State {
    settings: Settings,
    objects: Mutex<BTreeMap<String, Object>>,
    faults: Mutex<faults::Faults>,
    tally: Arc<Tally>,
    total: Option<Arc<Link>>,
}

impl State {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, faults::Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running model. It stops when this is dropped, and cuts what it was sending.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    listener: JoinHandle<()>,
}

impl Origin {
    /// Starts a model without objects, on the current tokio runtime.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        Self::on(listener, settings)
    }

    /// Starts a model without objects on a socket that listens already, wherever it was made; the settings' own
    /// address counts for nothing then.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn on(listener: TcpListener, settings: Settings) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            objects: Mutex::default(),
            faults: Mutex::new(faults::Faults::new(settings.seed)),
            tally: Arc::default(),
            total: settings.total_rate.map(|rate| Arc::new(Link::new(rate))),
            settings,
        });
        let listener = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            listener,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://HOST:PORT`: the endpoint to give to an S3 client.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `http://HOST:PORT/BUCKET`: what keys are appended to.
    pub fn url(&self) -> String {
        format!("http://{}/{}", self.address, self.state.settings.bucket)
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.state.settings
    }

    /// Creates or replaces an object.
    pub fn put(&self, key: &str, size: u64, version: u64) {
        let object = Object {
            key: key.to_owned(),
            size,
            version,
            modified: SystemTime::now(),
        };
        self.state.objects().insert(key.to_owned(), object);
    }

    /// Replaces an object by its next version, of `size` bytes or as many as before, and says which that is.
    /// A key that was not there begins at version 0, empty unless `size` says otherwise.
    pub fn overwrite(&self, key: &str, size: Option<u64>) -> u64 {
        let mut objects = self.state.objects();
        let (version, before) = objects
            .get(key)
            .map_or((0, 0), |object| (object.version + 1, object.size));
        let size = size.unwrap_or(before);
        let object = Object {
            key: key.to_owned(),
            size,
            version,
            modified: SystemTime::now(),
        };
        objects.insert(key.to_owned(), object);
        version
    }

    /// Deletes an object; false if there was none.
    pub fn delete(&self, key: &str) -> bool {
        self.state.objects().remove(key).is_some()
    }

    /// The current version of an object.
    pub fn object(&self, key: &str) -> Option<Object> {
        self.state.objects().get(key).cloned()
    }

    /// Adds a rule; those there are stay in force.
    pub fn fault(&self, rule: Rule) {
        self.state.faults().add(rule);
    }

    /// Drops all rules.
    pub fn clear_faults(&self) {
        self.state.faults().clear();
    }

    /// The counters now.
    pub fn counters(&self) -> Counters {
        self.state.tally.counters()
    }

    /// Begins or ends the log of requests; it is off at first, and grows without bound while it is on.
    pub fn log_requests(&self, on: bool) {
        self.state.tally.logging(on);
    }

    /// The requests logged since the last call, in order of their answers.
    pub fn take_log(&self) -> Vec<Logged> {
        self.state.tally.take_log()
    }

    /// Stops, and returns once the port is free again.
    pub async fn stop(mut self) {
        self.listener.abort();
        // The only outcome of an aborted task is that it was aborted.
        let _ = (&mut self.listener).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Bytes that the kernel takes from a connection before they can leave. What it takes counts as sent, and without a bound
/// it takes megabytes.
const UNSENT: u32 = 256 << 10;

/// Takes connections until it is aborted; they end with it, because the set that holds them does.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
            // Out of file descriptors, most likely: connections must end before one can be taken.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    state.tally.connection();
    // Without it, small answers wait for the client's delayed acknowledgements; a failure costs only time.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
    let own = state
        .settings
        .connection_rate
        .map(|rate| Arc::new(Link::new(rate)));
    let links: Vec<_> = own.into_iter().chain(state.total.clone()).collect();
    let service =
        service_fn(move |request| answer::answer(Arc::clone(&state), links.clone(), request));
    // Errors here are clients that left and cuts on purpose; both show in the counters and at the other end.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
mod tests;
