//! Answers that no dialect gives: on a connection that has only a spare seat, and hyper's own.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::account::Account;
use crate::body::{Body, Content};
use crate::dialect::Reply;
use crate::dialect::s3::error::{CONTENT_TYPE, Code, S3Error};
use crate::error;
use crate::gateway::Gateway;

/// The status that hyper has answered by itself before the connection ended with this error, if it did.
pub fn by_parser(error: &(dyn Error + Send + Sync + 'static)) -> Option<StatusCode> {
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_parse_too_large() {
        // hyper tells the two apart in words only.
        let target = error.to_string() == "URI too long";
        return Some(match target {
            true => StatusCode::URI_TOO_LONG,
            false => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        });
    }
    (error.is_parse() && !error.is_parse_version_h2()).then_some(StatusCode::BAD_REQUEST)
}

/// Whether this is answered on every connection.
pub fn always_answered(path: &str) -> bool {
    matches!(path, "/-/healthz" | "/-/readyz" | "/-/metrics")
}

/// 503, for the `reason` that the connection was given.
pub fn refuse<B>(
    gateway: &Gateway,
    remote: SocketAddr,
    reason: &'static str,
    request: &Request<B>,
) -> Response<Body> {
    gateway.metrics.shed.with_label_values(&[reason]).inc();
    let sentence = if reason == "per_address" {
        "This address has per_address connections open; use them, or come again later"
    } else {
        "The gateway has max_connections connections open; come again later"
    };
    let id = gateway.request_id();
    let method = request.method().clone();
    let mut account = Box::new(Account::open(
        Arc::clone(&gateway.metrics),
        false,
        id,
        method,
    ));
    account.api = "s3";
    let error = S3Error::new(Code::SlowDown, sentence);
    let status = error.code.status();
    account.status = status.as_u16();
    let path = request.uri().path();
    tracing::debug!(%remote, id = id.as_str(), path, reason, "turned away");
    let xml = error.xml(path, id.as_str(), &gateway.state.name);
    let mut reply = Reply::text(status, CONTENT_TYPE, xml.into());
    if *request.method() == Method::HEAD {
        reply.content = Content::Empty;
        reply.left = Some(0);
    }
    let headers = &mut reply.headers;
    if let Some(seconds) = error::retry_after(status) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    id.tell(headers);
    let mut response = Response::new(Body::new(reply.content, reply.left, account));
    *response.status_mut() = status;
    *response.headers_mut() = reply.headers;
    response
}
