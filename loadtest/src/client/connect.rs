//! A connection to a server: in clear or through TLS, HTTP/1.1 or HTTP/2.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::causes;
use crate::namespace::Namespace;

/// Bytes that a server may send ahead of what was read, on a stream and on its connection: more
/// than any loopback or link here has under way.
const WINDOW: u32 = 16 << 20;

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, without asking first where there is no TLS.
    Http2 {
        /// The largest frame that the client takes, in bytes: 16 KiB to 16 MiB − 1.
        frame: u32,
    },
}

/// How connections are opened.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// TLS; `None`: in clear.
    pub tls: Option<Arc<ClientConfig>>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The address that connections come from; `None`: whichever the system takes.
    pub from: Option<IpAddr>,
    /// The network namespace that they are opened in, to an address; `None`: where the program runs.
    pub namespace: Option<Namespace>,
}

/// The sending half, and the task that moves the bytes: it ends with this.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    driver: AbortHandle,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>, &'static str),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Route {
    /// From inside `namespace`, in clear, by HTTP/1.1.
    pub fn within(namespace: &Namespace) -> Self {
        Self {
            namespace: Some(namespace.clone()),
            ..Self::default()
        }
    }
}

impl Connection {
    /// Opens one; what fails is said.
    pub(crate) async fn open(authority: &str, route: &Route) -> Result<Self, String> {
        let stream = match &route.namespace {
            Some(namespace) => {
                let address = authority.parse();
                let address = address.map_err(|_| format!("{authority} is not an address"))?;
                namespace.connect(address).await
            }
            None => connect(authority, route.from).await,
        };
        let stream = stream.map_err(|error| format!("connect: {error}"))?;
        stream
            .set_nodelay(true)
            .map_err(|error| format!("set TCP_NODELAY: {error}"))?;
        let Some(tls) = &route.tls else {
            return Self::speak(stream, route.protocol, "http").await;
        };
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols = match route.protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 { .. } => vec![b"h2".to_vec()],
        };
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream);
        let stream = stream.await.map_err(|error| format!("TLS: {error}"))?;
        Self::speak(stream, route.protocol, "https").await
    }

    async fn speak<S>(stream: S, protocol: Protocol, scheme: &'static str) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // What ends a connection reaches the reader through the body or the next request.
        let stream = TokioIo::new(stream);
        match protocol {
            Protocol::Http1 => {
                let (sender, driver) = http1::handshake(stream)
                    .await
                    .map_err(|error| causes(&error))?;
                Ok(Self {
                    sender: Sender::Http1(sender),
                    driver: tokio::spawn(async move { drop(driver.await) }).abort_handle(),
                })
            }
            Protocol::Http2 { frame } => {
                let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW)
                    .max_frame_size(frame)
                    .handshake(stream)
                    .await
                    .map_err(|error| causes(&error))?;
                Ok(Self {
                    sender: Sender::Http2(sender, scheme),
                    driver: tokio::spawn(async move { drop(driver.await) }).abort_handle(),
                })
            }
        }
    }

    /// Whether another request can be sent.
    pub(crate) async fn is_open(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender, _) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request in origin form with a Host.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender, scheme) => {
                let host = request.headers_mut().remove(header::HOST);
                let host = host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
                let path = request.uri().path_and_query().cloned();
                let uri = Uri::builder().scheme(*scheme).authority(host);
                let uri =
                    uri.path_and_query(path.map_or_else(String::new, |path| path.to_string()));
                // It was a URI already: nothing but its form is another.
                if let Ok(uri) = uri.build() {
                    *request.uri_mut() = uri;
                }
                sender.send_request(request).await
            }
        }
    }
}

async fn connect(authority: &str, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(authority).await;
    };
    let address: SocketAddr = authority.parse().map_err(std::io::Error::other)?;
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(address).await
}
