//! Why a request may not have what it asks for, with the answer that S3 gives.

use std::time::SystemTime;

use crate::dialect::s3::error::{Code, S3Error};

/// Every reason, as the metric's label has it.
pub const REASONS: [&str; 13] = [
    "no_credentials",
    "malformed",
    "unsupported",
    "in_clear",
    "unknown_key",
    "wrong_secret",
    "bad_signature",
    "not_signed",
    "skewed",
    "expired",
    "payload",
    "dataset",
    "not_admin",
];

/// A refusal: counted by its reason, answered with its error. It names no secret; a signature and
/// what it was made of only to the client that sent them, never in the log.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// The answer.
    pub error: S3Error,
}

impl Refusal {
    fn new(reason: &'static str, code: Code, message: impl Into<String>) -> Self {
        Self {
            reason,
            error: S3Error::new(code, message),
        }
    }

    fn with(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.error = self.error.with(name, text);
        self
    }

    /// No credentials came.
    pub(super) fn no_credentials() -> Self {
        let how =
            "Access Denied: sign the request, or send HTTP Basic or Bearer credentials over TLS";
        Self::new("no_credentials", Code::NoCredentials, how)
    }

    /// The `Authorization` header can't be read.
    pub(super) fn malformed_header(what: &str) -> Self {
        let message = format!("The authorization header is malformed; {what}");
        Self::new("malformed", Code::AuthorizationHeaderMalformed, message)
    }

    /// The parameters of a presigned URL can't be read.
    pub(super) fn malformed_query(message: impl Into<String>) -> Self {
        Self::new(
            "malformed",
            Code::AuthorizationQueryParametersError,
            message,
        )
    }

    /// Credentials came in two ways.
    pub(super) fn twice() -> Self {
        let message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, \
                       Signature query string parameter or the Authorization header should be \
                       specified";
        Self::new("malformed", Code::InvalidArgument, message)
    }

    /// A signature that S3 no longer takes, or takes and we do not.
    pub(super) fn old_signature() -> Self {
        let message = "The authorization mechanism you have provided is not supported. Please use \
                       AWS4-HMAC-SHA256.";
        Self::new("unsupported", Code::InvalidRequest, message)
    }

    /// Credentials of a kind that nobody here knows.
    pub(super) fn unsupported_kind() -> Self {
        let message = "Unsupported Authorization Type: use AWS4-HMAC-SHA256, Basic or Bearer";
        Self::new("unsupported", Code::InvalidArgument, message)
    }

    /// A secret came where others can read it.
    pub(super) fn in_clear() -> Self {
        let message = "Basic and Bearer credentials are taken only over TLS and from this machine \
                       itself: sign the request, or use https";
        Self::new("in_clear", Code::AccessDenied, message)
    }

    /// A Basic or Bearer pair that is not one of ours, whichever half is wrong.
    pub(super) fn wrong_pair() -> Self {
        let message = "The access key id or its secret is wrong";
        Self::new("wrong_secret", Code::AccessDenied, message)
    }

    /// A signature in the name of nobody.
    pub(super) fn unknown_key(id: &str) -> Self {
        let message = "The AWS Access Key Id you provided does not exist in our records.";
        Self::new("unknown_key", Code::InvalidAccessKeyId, message).with("AWSAccessKeyId", id)
    }

    /// The signature is another one than the key's.
    pub(super) fn bad_signature(id: &str, to_sign: &str, signature: &str, canonical: &str) -> Self {
        let message = "The request signature we calculated does not match the signature you \
                       provided. Check your key and signing method.";
        Self::new("bad_signature", Code::SignatureDoesNotMatch, message)
            .with("AWSAccessKeyId", id)
            .with("StringToSign", to_sign)
            .with("SignatureProvided", signature)
            .with("CanonicalRequest", canonical)
    }

    /// A header that has to be signed is not.
    pub(super) fn not_signed(header: &str) -> Self {
        let message = "There were headers present in the request which were not signed";
        Self::new("not_signed", Code::AccessDenied, message).with("HeadersNotSigned", header)
    }

    /// A signed request without a time.
    pub(super) fn no_date() -> Self {
        let message = "AWS authentication requires a valid Date or x-amz-date header";
        Self::new("malformed", Code::AccessDenied, message)
    }

    /// The client's clock and ours differ too much.
    pub(super) fn skewed(request: &str, server: SystemTime) -> Self {
        let message = "The difference between the request time and the current time is too large.";
        Self::new("skewed", Code::RequestTimeTooSkewed, message)
            .with("RequestTime", request)
            .with("ServerTime", iso(server))
            .with("MaxAllowedSkewMilliseconds", "900000")
    }

    /// A presigned URL that was good once.
    pub(super) fn expired(seconds: u64, end: SystemTime, server: SystemTime) -> Self {
        Self::new("expired", Code::AccessDenied, "Request has expired")
            .with("X-Amz-Expires", seconds.to_string())
            .with("Expires", iso(end))
            .with("ServerTime", iso(server))
    }

    /// A presigned URL that will be good one day.
    pub(super) fn not_valid_yet(server: SystemTime) -> Self {
        Self::new("skewed", Code::AccessDenied, "Request is not valid yet")
            .with("ServerTime", iso(server))
    }

    /// The word that stands for the payload is none.
    pub(super) fn bad_payload() -> Self {
        let message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, \
                       STREAMING-AWS4-HMAC-SHA256-PAYLOAD or a valid sha256 value.";
        Self::new("payload", Code::InvalidArgument, message)
    }

    /// A body came without a word on it.
    pub(super) fn no_payload() -> Self {
        let message = "Missing required header for this request: x-amz-content-sha256";
        Self::new("payload", Code::InvalidRequest, message)
    }

    /// A body signed piece by piece.
    pub(super) fn streamed_payload() -> Self {
        let message = "Bodies that are signed in chunks are not taken here: sign the SHA-256 of \
                       the whole body";
        Self::new("payload", Code::NotImplemented, message)
    }

    /// The body is another one than was signed.
    pub(super) fn payload_mismatch(signed: &str, computed: &str) -> Self {
        let message =
            "The provided 'x-amz-content-sha256' header does not match what was computed.";
        Self::new("payload", Code::XAmzContentSha256Mismatch, message)
            .with("ClientComputedContentSHA256", signed)
            .with("S3ComputedContentSHA256", computed)
    }

    /// The body did not come whole, or is longer than any that is meant.
    pub(super) fn payload_unreadable(most: usize) -> Self {
        let message =
            format!("The signed body did not arrive whole, in time, or within {most} bytes");
        Self::new("payload", Code::RequestTimeout, message)
    }

    /// The same for a dataset that the key may not read and for one that does not exist.
    pub(super) fn dataset() -> Self {
        Self::new("dataset", Code::AccessDenied, "Access Denied")
    }

    /// Only signed requests may choose headers of the answer.
    pub(super) fn overrides() -> Self {
        let message = "Request specific response headers cannot be used without a signature: sign \
                       the request, or presign its URL.";
        Self::new("not_signed", Code::InvalidRequest, message)
    }

    /// A key without `admin = true`.
    pub(super) fn not_admin() -> Self {
        let message = "this access key may not ask that: it needs admin = true in its [[access]]";
        Self::new("not_admin", Code::AccessDenied, message)
    }

    /// No `[[access]]`, and not from this machine.
    pub(super) fn not_local() -> Self {
        let message = "only this machine itself may ask that: use a loopback address or localhost, \
                       or a name in hosts or domain, or an access key that is an administrator's \
                       once [[access]] is set";
        Self::new("not_admin", Code::AccessDenied, message)
    }

    /// A page of another site, in a browser that would send credentials for it.
    pub(super) fn foreign_page() -> Self {
        let message = "pages of other sites may not ask that";
        Self::new("not_admin", Code::AccessDenied, message)
    }
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

/// A time as S3's error documents have it.
fn iso(time: SystemTime) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from(time);
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}
