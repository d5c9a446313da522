//! A client that asks for ranges and checks every byte of what it gets, as it arrives.
//!
//! One [`Client`] is one connection, kept open between requests; a [`Pool`] is as many as are needed at once. Bodies
//! are compared with the pattern in the pieces that hyper hands out and dropped: nothing is copied or kept.
//! It knows the model's ETags, so an answer alone says which version its bytes must be of.

mod ask;
mod connect;
mod meter;
mod multipart;
mod verify;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ClientConfig;
use serde::Serialize;
use thiserror::Error;
use tokio::time::{Instant, timeout};

pub use self::ask::{Ask, Want};
pub(crate) use self::connect::Connection;
pub use self::connect::{Protocol, Route};
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

/// A URL that is neither `http://HOST:PORT/ROOT` nor `https://…`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("give the server as http://HOST:PORT/ROOT or https://HOST:PORT/ROOT, not as {0:?}")]
pub struct BadUrl(pub String);

/// One connection to a server, opened when it is needed and kept for the next read.
#[derive(Debug)]
pub struct Client {
    server: Server,
    route: Route,
    patience: Duration,
    connection: Option<Connection>,
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
            .or_else(|| url.strip_prefix("https://"))
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

impl Client {
    /// A client of the objects below `url`: `http://HOST:PORT/DATASET`, by HTTP/1.1 in clear; for anything else see
    /// [`Self::route`] and [`Self::trust`]. It connects with the first read.
    ///
    /// # Errors
    /// The URL is of another form.
    pub fn new(url: &str) -> Result<Self, BadUrl> {
        Ok(Self {
            server: Server::parse(url)?,
            route: Route::default(),
            patience: PATIENCE,
            connection: None,
            meter: None,
        })
    }

    /// Connects like this.
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Speaks TLS like this.
    pub fn trust(mut self, tls: Arc<ClientConfig>) -> Self {
        self.route.tls = Some(tls);
        self
    }

    /// Speaks this.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.route.protocol = protocol;
        self
    }

    /// Connects from inside a network namespace. The URL's host must be an address then, for nobody resolves names there.
    pub fn from(mut self, namespace: &Namespace) -> Self {
        self.route.namespace = Some(namespace.clone());
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
        self.opened().await.map(|_| ())
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
            let sent = timeout(patience, self.opened().await?.send(request)).await;
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

    async fn opened(&mut self) -> Result<&mut Connection, String> {
        let open = match &mut self.connection {
            Some(connection) => connection.is_open().await,
            None => false,
        };
        if !open {
            let authority = &self.server.authority;
            let connection = timeout(self.patience, Connection::open(authority, &self.route));
            let connection = connection.await.map_err(|_| "no connection in time")?;
            self.connection = Some(connection?);
        }
        Ok(self.connection.as_mut().expect("just opened"))
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
        if ask.method() == Method::HEAD {
            read.version = verifier.as_ref().and_then(Verifier::version);
            let status = head.status.as_u16();
            return verifier.map_or(Outcome::Status(status), |_| Outcome::Whole);
        }
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
    route: Route,
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
            route: Route::default(),
            idle: Mutex::default(),
        })
    }

    /// Connects like this.
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
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
            route: self.route.clone(),
            patience: PATIENCE,
            connection: None,
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
