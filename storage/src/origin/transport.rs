//! HTTP to the world: hyper's pooled client, and whom it believes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// What one read of an origin's socket may bring. hyper would let the buffer of each connection
/// grow to 400 KiB, and keep it while the connection idles; a segment at a time is as fast.
const READ_BYTES: usize = crate::SEGMENT;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Idle connections are closed by us before most servers do it at a bad moment.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// HTTP to the world: hyper's pooled client, TLS by rustls with the system's roots.
#[derive(Debug)]
struct Transport(Client<HttpsConnector<TcpConnector>, HttpRequestBody>);

/// A transport that all datasets share.
///
/// # Errors
/// If no root certificates are to be had.
pub fn transport() -> std::io::Result<HttpClient> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = hyper_rustls::HttpsConnectorBuilder::new;
    // A machine without a certificate store still reaches public origins.
    let tls = match builder().with_provider_and_native_roots(provider.clone()) {
        Ok(tls) => tls,
        Err(_) => builder()
            .with_provider_and_webpki_roots(provider)
            .map_err(std::io::Error::other)?,
    };
    Ok(transport_over(|tcp| {
        tls.https_or_http().enable_http1().wrap_connector(tcp)
    }))
}

/// Whom a transport believes, and as whom it comes; all of it PEM.
#[derive(Default)]
pub struct ClientTls {
    /// The only authorities that it believes; `None`: the system's.
    pub authorities: Option<Vec<u8>>,
    /// Its certificate, with those between it and an authority, and the certificate's key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A transport that is not for origins: it believes and shows what `tls` says.
///
/// # Errors
/// If something in `tls` can't be used, or no root certificates are to be had.
pub fn transport_with(tls: &ClientTls) -> std::io::Result<HttpClient> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let builder = match &tls.authorities {
        None => builder.with_native_roots()?,
        Some(text) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(text)? {
                roots.add(authority).map_err(std::io::Error::other)?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(std::io::Error::other)?;
            builder
                .with_client_auth_cert(certificates(chain)?, key)
                .map_err(std::io::Error::other)?
        }
    };
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config);
    Ok(transport_over(|tcp| {
        tls.https_or_http().enable_http1().wrap_connector(tcp)
    }))
}

fn certificates(text: &[u8]) -> std::io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certificates = certificates.map_err(std::io::Error::other)?;
    if certificates.is_empty() {
        let sentence = "it holds no certificate; write one in PEM";
        return Err(std::io::Error::other(sentence));
    }
    Ok(certificates)
}

fn transport_over(wrap: impl FnOnce(TcpConnector) -> HttpsConnector<TcpConnector>) -> HttpClient {
    let mut tcp = TcpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let https = wrap(tcp);
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http1_max_buf_size(READ_BYTES)
        .build(https);
    HttpClient::new(Transport(client))
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.request(request).await.map_err(|error| {
            let kind = if error.is_connect() {
                HttpErrorKind::Connect
            } else {
                HttpErrorKind::Interrupted
            };
            HttpError::new(kind, error)
        })?;
        let (parts, body) = response.into_parts();
        let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}
