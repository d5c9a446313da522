//! A client that asks for ranges and checks every byte of what it gets, as it arrives.
//!
//! One [`Client`] is one connection, kept open between requests; a [`Pool`] is as many as are needed at once. Bodies
//! are compared with the pattern in the pieces that hyper hands out and dropped: nothing is copied or kept.
//! It knows the model's ETags, so an answer alone says which version its bytes must be of.

mod ask;
mod meter;
mod multipart;
mod verify;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

pub use self::ask::{Ask, Want};
pub use self::meter::Meter;
use self::verify::Verifier;
use crate::namespace::Namespace;

/// How long a client waits for the next byte before it gives up, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a read ended. The names exclude one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Every byte that was asked for came, and is of the version that the answer names.
    Whole,
    /// The body ended early, and with an error: what came was right. Carries the error.
    Cut(String),
    /// No body of the object: this status instead.
    Status(u16),
    /// No answer at all: refused, closed, or nothing in time. Carries the error.
    Unanswered(String),
    /// The answer is wrong, in its bytes or in its head. Carries what and where.
    Wrong(String),
    /// The bytes of two versions in one body. Carries which and where.
    Mixed(String),
}

/// What came of one read.
#[derive(Clone, Debug)]
pub struct Read {
    /// How it ended.
    pub outcome: Outcome,
    /// The status, if there was an answer.
    pub status: Option<StatusCode>,
    /// The headers of the answer; empty if there was none.
    pub headers: HeaderMap,
    /// The version of the bytes, if it is known.
    pub version: Option<u64>,
    /// Bytes of the object that came and were right.
    pub bytes: u64,
    /// From the request to the head of the answer.
    pub head_after: Option<Duration>,
    /// From the request to the first piece of the body.
    pub first_byte_after: Option<Duration>,
    /// From the request to the end, whatever it was.
    pub took: Duration,
    /// Whether the client gave up because no byte came for as long as it is patient.
    pub gave_up: bool,
}

impl Read {
    /// Whether the read ended [`Outcome::Whole`].
    pub fn is_whole(&self) -> bool {
        self.outcome == Outcome::Whole
    }

    /// Whether what came was wrong, or of two versions.
    pub fn is_false(&self) -> bool {
        matches!(self.outcome, Outcome::Wrong(_) | Outcome::Mixed(_))
    }
}

/// A URL that is not `http://HOST:PORT/ROOT`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("give the server as http://HOST:PORT/ROOT, not as {0:?}")]
pub struct BadUrl(pub String);

/// One connection to a server, opened when it is needed and kept for the next read.
#[derive(Debug)]
pub struct Client {
    server: Server,
    patience: Duration,
    connection: Option<Connection>,
    /// Where it connects from; `None`: where the program runs.
    namespace: Option<Namespace>,
    meter: Option<Arc<Meter>>,
}

#[derive(Clone, Debug)]
struct Server {
    authority: String,
    root: String,
}

impl Server {
    fn parse(url: &str) -> Result<Self, BadUrl> {
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| BadUrl(url.to_owned()))?;
        let (authority, root) = rest.split_once('/').unwrap_or((rest, ""));
        if !authority.contains(':') {
            return Err(BadUrl(url.to_owned()));
        }
        Ok(Self {
            authority: authority.to_owned(),
            root: format!("/{}", root.trim_end_matches('/')),
        })
    }
}

/// The sending half, and the task that moves the bytes: it ends with this.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// A client of the objects below `url`: `http://HOST:PORT/DATASET`. It connects with the first read.
    ///
    /// # Errors
    /// The URL is of another form.
    pub fn new(url: &str) -> Result<Self, BadUrl> {
        Ok(Self {
            server: Server::parse(url)?,
            patience: PATIENCE,
            connection: None,
            namespace: None,
            meter: None,
        })
    }

    /// Connects from inside a network namespace. The URL's host must be an address then, for nobody resolves names there.
    pub fn from(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Counts the bytes of the object on `meter` as they come.
    pub fn metered(mut self, meter: &Arc<Meter>) -> Self {
        self.meter = Some(Arc::clone(meter));
        self
    }

    /// Gives up after this long without a byte.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Connects now, so that the next read's times hold no handshake.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(&mut self) -> Result<(), String> {
        self.sender().await.map(|_| ())
    }

    /// Asks once and reads to the end, or to the first byte that is wrong.
    pub async fn read(&mut self, ask: &Ask) -> Read {
        let started = Instant::now();
        let mut read = Read {
            outcome: Outcome::Whole,
            status: None,
            headers: HeaderMap::new(),
            version: None,
            bytes: 0,
            head_after: None,
            first_byte_after: None,
            took: Duration::ZERO,
            gave_up: false,
        };
        match self.send(ask, &mut read).await {
            Ok(response) => {
                read.head_after = Some(started.elapsed());
                read.outcome = self.receive(ask, response, started, &mut read).await;
            }
            Err(error) => read.outcome = Outcome::Unanswered(error),
        }
        read.took = started.elapsed();
        if !matches!(read.outcome, Outcome::Whole | Outcome::Status(_)) {
            self.connection = None;
        }
        read
    }

    /// Sends the request, and once more on a new connection if the kept one turns out to have been closed.
    async fn send(&mut self, ask: &Ask, read: &mut Read) -> Result<Response<Incoming>, String> {
        let kept = self.connection.is_some();
        let (server, patience) = (self.server.clone(), self.patience);
        let mut again = kept;
        loop {
            let request = ask.request(&server.authority, &server.root)?;
            let sent = timeout(patience, self.sender().await?.send_request(request)).await;
            let error = match sent {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => error,
                Err(_) => {
                    (self.connection, read.gave_up) = (None, true);
                    return Err(format!("no answer for {patience:?}"));
                }
            };
            self.connection = None;
            if !again
                || !(error.is_canceled() || error.is_closed() || error.is_incomplete_message())
            {
                return Err(causes(&error));
            }
            again = false;
        }
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Empty<Bytes>>, String> {
        let open = match &mut self.connection {
            Some(connection) => connection.sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let opening = Connection::open(&self.server.authority, self.namespace.as_ref());
            let opened = timeout(self.patience, opening).await;
            let patience = self.patience;
            self.connection = Some(opened.map_err(|_| format!("no connection for {patience:?}"))??);
        }
        Ok(&mut self.connection.as_mut().expect("just opened").sender)
    }

    async fn receive(
        &mut self,
        ask: &Ask,
        response: Response<Incoming>,
        started: Instant,
        read: &mut Read,
    ) -> Outcome {
        let (head, mut body) = response.into_parts();
        read.status = Some(head.status);
        let verifier = if [StatusCode::OK, StatusCode::PARTIAL_CONTENT].contains(&head.status) {
            Verifier::new(ask, &head).map(Some)
        } else {
            Ok(None)
        };
        read.headers = head.headers;
        let mut verifier = match verifier {
            Ok(verifier) => verifier,
            Err(outcome) => return outcome,
        };
        let ended = loop {
            let piece = match timeout(self.patience, body.frame()).await {
                Ok(None) => break Ok(()),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => break Err(causes(&error)),
                Err(_) => {
                    read.gave_up = true;
                    break Err(format!("no byte for {:?}", self.patience));
                }
            };
            read.first_byte_after
                .get_or_insert_with(|| started.elapsed());
            if let Some(verifier) = &mut verifier
                && let Err(outcome) = verifier.feed(&piece)
            {
                (read.version, read.bytes) = (verifier.version(), verifier.verified());
                return outcome;
            }
            if let Some(meter) = &self.meter
                && verifier.is_some()
            {
                meter.came(piece.len());
            }
        };
        let Some(verifier) = verifier else {
            return Outcome::Status(read.status.map_or(0, |status| status.as_u16()));
        };
        (read.version, read.bytes) = (verifier.version(), verifier.verified());
        match ended {
            Ok(()) => verifier
                .finish()
                .map_or_else(|outcome| outcome, |()| Outcome::Whole),
            Err(error) => Outcome::Cut(error),
        }
    }
}

impl Connection {
    async fn open(authority: &str, from: Option<&Namespace>) -> Result<Self, String> {
        let stream = match from {
            Some(namespace) => {
                let address = authority
                    .parse()
                    .map_err(|_| format!("{authority} is not an address"))?;
                namespace.connect(address).await
            }
            None => TcpStream::connect(authority).await,
        };
        let stream = stream.map_err(|error| format!("connect: {error}"))?;
        stream
            .set_nodelay(true)
            .map_err(|error| format!("set TCP_NODELAY: {error}"))?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| causes(&error))?;
        // What ends the connection reaches the reader through the body or the next request.
        let driver = tokio::spawn(async move { drop(driver.await) }).abort_handle();
        Ok(Self { sender, driver })
    }
}

/// An error with what caused it: hyper's own text says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// As many connections to one server as there are reads at once; each is kept for the next.
#[derive(Debug)]
pub struct Pool {
    server: Server,
    idle: Mutex<Vec<Client>>,
}

impl Pool {
    /// A pool for the objects below `url`: `http://HOST:PORT/DATASET`.
    ///
    /// # Errors
    /// The URL is of another form.
    pub fn new(url: &str) -> Result<Self, BadUrl> {
        Ok(Self {
            server: Server::parse(url)?,
            idle: Mutex::default(),
        })
    }

    /// Asks on an idle connection, or on a new one.
    pub async fn read(&self, ask: &Ask) -> Read {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut client = idle.unwrap_or_else(|| Client {
            server: self.server.clone(),
            patience: PATIENCE,
            connection: None,
            namespace: None,
            meter: None,
        });
        let read = client.read(ask).await;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(client);
        read
    }
}

#[cfg(test)]
mod tests;
