//! S3 requests of our own, signed with object_store's signer and its credentials.
//!
//! Four things can't be asked through object_store: keys that its paths cannot name (`a//b`,
//! `a/`), listings (one odd key makes it fail the whole page), `partNumber`, and the parts of an upload
//! that another process began.

use std::time::Duration;

use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequestBody, HttpResponse};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer::{bad, of_status};
use super::connect::{Exchange, Seen};
use super::s3_xml;
use super::write::Payload;
use crate::class::Urgency;
use crate::error::OriginError;
use crate::listing::{ListPage, ListRequest, Start};

/// What SigV4 leaves as it is in a path: unreserved characters and the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// The same for a query.
const QUERY: &AsciiSet = &PATH.add(b'/');

/// How long a server may take to make an object of an upload's parts: some copy all of it, and "several minutes" are
/// what S3 says of itself (API reference, CompleteMultipartUpload).
const COMPLETING: Duration = Duration::from_secs(600);

/// What an answer may take to begin beyond what any may.
fn patience(method: &Method, query: &[(&str, &str)]) -> Duration {
    let completes = *method == Method::POST && query.iter().any(|(name, _)| *name == "uploadId");
    if completes {
        COMPLETING
    } else {
        Duration::ZERO
    }
}

/// A bucket that is spoken to directly.
#[derive(Debug)]
pub(crate) struct S3 {
    client: HttpClient,
    endpoint: String,
    region: String,
    /// None: requests are not signed.
    credentials: Option<AwsCredentialProvider>,
    request_payer: bool,
}

/// An answer whose status is a success.
pub(crate) struct S3Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) response: HttpResponse,
}

impl S3 {
    pub(crate) fn new(
        client: HttpClient,
        endpoint: &str,
        region: String,
        credentials: Option<AwsCredentialProvider>,
        request_payer: bool,
    ) -> Self {
        Self {
            client,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            region,
            credentials,
            request_payer,
        }
    }

    /// Asks for `key` of the bucket, or for the bucket itself.
    pub(crate) async fn ask(
        &self,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        headers: HeaderMap,
        urgency: &Urgency,
    ) -> Result<S3Answer, OriginError> {
        self.send(method, key, query, headers, None, urgency).await
    }

    /// The same with a body.
    pub(super) async fn send(
        &self,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        headers: HeaderMap,
        payload: Option<&Payload>,
        urgency: &Urgency,
    ) -> Result<S3Answer, OriginError> {
        let mut uri = self.endpoint.clone();
        uri.push('/');
        if let Some(key) = key {
            uri.extend(utf8_percent_encode(key, PATH));
        }
        for (place, (name, value)) in query.iter().enumerate() {
            uri.push(if place == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            uri.extend(utf8_percent_encode(value, QUERY));
        }
        let exchange = Exchange::of(urgency).patient(patience(&method, query));
        let body = payload.map(Payload::put);
        let mut request = Request::new(match body {
            Some(body) => HttpRequestBody::from(body),
            None => HttpRequestBody::empty(),
        });
        *request.method_mut() = method;
        *request.uri_mut() = uri
            .parse()
            .map_err(|_| bad("the endpoint is not a URL; mend aws_endpoint"))?;
        *request.headers_mut() = headers;
        if let Some(payload) = payload {
            let length = HeaderValue::from(payload.len());
            request.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        *request.extensions_mut() = exchange.extensions();
        self.sign(&mut request, payload).await?;
        let response = self.client.execute(request).await;
        match (exchange.seen(), response) {
            (Some(Seen::Answer { status, headers }), Ok(response)) => match of_status(*status) {
                Some(error) => Err(error),
                None => Ok(S3Answer {
                    status: *status,
                    headers: headers.clone(),
                    response,
                }),
            },
            (Some(Seen::Failed(error)), _) => Err(error.clone()),
            _ => Err(OriginError::Abandoned),
        }
    }

    async fn sign(
        &self,
        request: &mut Request<HttpRequestBody>,
        payload: Option<&Payload>,
    ) -> Result<(), OriginError> {
        let Some(credentials) = &self.credentials else {
            return Ok(());
        };
        let credential = credentials
            .get_credential()
            .await
            .map_err(|_| OriginError::NoCredentials)?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .with_request_payer(self.request_payer)
            .try_authorize(request, payload.map(|payload| &payload.sha256[..]))
            .map_err(|_| OriginError::NoCredentials)
    }

    /// One page of keys, the prefix included.
    pub(crate) async fn list(&self, request: &ListRequest) -> Result<ListPage, OriginError> {
        let max_keys = request.max_keys.to_string();
        let mut query = vec![("encoding-type", "url"), ("max-keys", max_keys.as_str())];
        if !request.prefix.is_empty() {
            query.push(("prefix", &request.prefix));
        }
        if let Some(delimiter) = &request.delimiter {
            query.push(("delimiter", delimiter));
        }
        // V1 only where its marker is asked for: it alone skips what is rolled up into the marker.
        if !matches!(request.start, Start::Marker(_)) {
            query.push(("list-type", "2"));
        }
        match &request.start {
            Start::Beginning => {}
            Start::After(key) => query.push(("start-after", key)),
            Start::Marker(key) => query.push(("marker", key)),
            Start::Token(token) => query.push(("continuation-token", token)),
        }
        let answer = self
            .ask(
                Method::GET,
                None,
                &query,
                HeaderMap::new(),
                &Urgency::default(),
            )
            .await?;
        let body = Limited::new(answer.response.into_body(), s3_xml::MAX_BODY_BYTES);
        let body = body.collect().await.map_err(|_| OriginError::Cut)?;
        let listed = s3_xml::parse_list(&body.to_bytes())
            .map_err(|_| bad("its listing is not S3's ListBucketResult"))?;
        Ok(listed.page)
    }
}

/// The headers of a ranged, pinned GET.
pub(crate) fn range_header(range: &std::ops::Range<u64>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(header::RANGE, value);
    }
    headers
}

/// A response's body as the stream that the rest of the origin module reads.
pub(crate) fn stream(
    response: HttpResponse,
) -> futures::stream::BoxStream<'static, Result<bytes::Bytes, OriginError>> {
    let chunks = response.into_body().bytes_stream();
    chunks
        .map(|chunk| chunk.map_err(|error| super::body_error(&error)))
        .boxed()
}
