//! S3's errors: codes, statuses and the XML that clients take apart.
//!
//! Clients act on the status and `<Code>`, some on more: the C client recognises an empty object by a 416
//! whose content type is exactly `application/xml` and whose `<ActualObjectSize>` is 0.

use http::StatusCode;

use super::xml::Document;
use crate::dialect::head::HeadError;
use crate::dialect::target::TargetError;

/// The content type of every error document, without parameters: the C client compares the whole value.
pub const CONTENT_TYPE: &str = "application/xml";

/// S3's error codes, as far as a gateway that only reads has use for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The client may not do this.
    AccessDenied,
    /// A browser's page may not do this.
    AccessForbidden,
    /// A preflight that lacks a header.
    BadRequest,
    /// The `Authorization` header cannot be read.
    AuthorizationHeaderMalformed,
    /// The parameters of a presigned URL cannot be read.
    AuthorizationQueryParametersError,
    /// The origin answered something that cannot be used. Not one of S3's own codes, which know no 502.
    BadGateway,
    /// A fault of ours.
    InternalError,
    /// Nobody has the access key.
    InvalidAccessKeyId,
    /// A parameter's value is wrong.
    InvalidArgument,
    /// The part number is past the object's last part.
    InvalidPartNumber,
    /// No byte of the range exists.
    InvalidRange,
    /// The request contradicts itself or cannot be understood.
    InvalidRequest,
    /// The request target cannot be decoded.
    InvalidUri,
    /// The key has more than 1024 bytes.
    KeyTooLong,
    /// The resource cannot be written here.
    MethodNotAllowed,
    /// The client may not do this as long as it does not say who it is. To S3's clients `AccessDenied`.
    NoCredentials,
    /// No dataset has this name.
    NoSuchBucket,
    /// The dataset holds no such key.
    NoSuchKey,
    /// The object has no such version.
    NoSuchVersion,
    /// S3 knows the operation; this gateway does not.
    NotImplemented,
    /// A conditional header does not hold.
    PreconditionFailed,
    /// The request's fields are too long together.
    RequestHeaderSectionTooLarge,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The client's clock and ours differ too much.
    RequestTimeTooSkewed,
    /// The origin cannot be reached.
    ServiceUnavailable,
    /// The signature is wrong.
    SignatureDoesNotMatch,
    /// Too many requests; the client should come again later.
    SlowDown,
    /// The request target is too long. Not one of S3's own codes.
    UriTooLong,
    /// The body is another one than was signed.
    XAmzContentSha256Mismatch,
}

impl Code {
    /// The text of `<Code>`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied | Self::NoCredentials => "AccessDenied",
            Self::AccessForbidden => "AccessForbidden",
            Self::AuthorizationHeaderMalformed => "AuthorizationHeaderMalformed",
            Self::AuthorizationQueryParametersError => "AuthorizationQueryParametersError",
            Self::BadRequest => "BadRequest",
            Self::BadGateway => "BadGateway",
            Self::InternalError => "InternalError",
            Self::InvalidAccessKeyId => "InvalidAccessKeyId",
            Self::InvalidArgument => "InvalidArgument",
            Self::InvalidPartNumber => "InvalidPartNumber",
            Self::InvalidRange => "InvalidRange",
            Self::InvalidRequest => "InvalidRequest",
            Self::InvalidUri => "InvalidURI",
            Self::KeyTooLong => "KeyTooLongError",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NoSuchBucket => "NoSuchBucket",
            Self::NoSuchKey => "NoSuchKey",
            Self::NoSuchVersion => "NoSuchVersion",
            Self::NotImplemented => "NotImplemented",
            Self::PreconditionFailed => "PreconditionFailed",
            Self::RequestHeaderSectionTooLarge => "RequestHeaderSectionTooLarge",
            Self::RequestTimeout => "RequestTimeout",
            Self::RequestTimeTooSkewed => "RequestTimeTooSkewed",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
            Self::SlowDown => "SlowDown",
            Self::UriTooLong => "URITooLong",
            Self::XAmzContentSha256Mismatch => "XAmzContentSHA256Mismatch",
        }
    }

    /// The status that S3 sends with the code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::AuthorizationHeaderMalformed
            | Self::AuthorizationQueryParametersError
            | Self::BadRequest
            | Self::InvalidArgument
            | Self::InvalidRequest
            | Self::InvalidUri
            | Self::KeyTooLong
            | Self::RequestTimeout
            | Self::XAmzContentSha256Mismatch => StatusCode::BAD_REQUEST,
            // RFC 6585 §5; S3 itself sends 400.
            Self::RequestHeaderSectionTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::NoCredentials => StatusCode::UNAUTHORIZED,
            Self::AccessDenied
            | Self::AccessForbidden
            | Self::InvalidAccessKeyId
            | Self::RequestTimeTooSkewed
            | Self::SignatureDoesNotMatch => StatusCode::FORBIDDEN,
            Self::NoSuchBucket | Self::NoSuchKey | Self::NoSuchVersion => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::InvalidPartNumber | Self::InvalidRange => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::ServiceUnavailable | Self::SlowDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An error on its way to an S3 client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct S3Error {
    /// What went wrong, for programs.
    pub code: Code,
    /// What went wrong, for people. Reaches clients: it holds no secret and no text of an origin's.
    pub message: String,
    /// `<Key>`, the key asked for.
    pub key: Option<String>,
    /// `<BucketName>`, the dataset asked for.
    pub bucket: Option<String>,
    /// Elements that only some codes have, after `<Message>`, in order. The names are XML names.
    pub details: Vec<(&'static str, String)>,
}

impl S3Error {
    /// An error with a message of its own.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            key: None,
            bucket: None,
            details: Vec::new(),
        }
    }

    /// 404: the dataset is there, the key is not.
    pub fn no_such_key(bucket: &str, key: &str) -> Self {
        Self::new(Code::NoSuchKey, "The specified key does not exist.").about(bucket, key)
    }

    /// 404: no dataset has this name.
    pub fn no_such_bucket(bucket: &str) -> Self {
        let error = Self::new(Code::NoSuchBucket, "The specified bucket does not exist");
        Self {
            bucket: Some(bucket.to_owned()),
            ..error
        }
    }

    /// 404: the object has no version of this id.
    pub fn no_such_version(bucket: &str, key: &str, version_id: &str) -> Self {
        Self::new(Code::NoSuchVersion, "The specified version does not exist.")
            .with("VersionId", version_id)
            .about(bucket, key)
    }

    /// 416: `requested` is the `Range` header as it came, `size` the object's size in bytes.
    pub fn invalid_range(requested: &str, size: u64) -> Self {
        Self::new(Code::InvalidRange, "The requested range is not satisfiable")
            .with("RangeRequested", requested)
            .with("ActualObjectSize", size.to_string())
    }

    /// 416: part `requested` of an object that has `count` parts.
    pub fn invalid_part_number(requested: u64, count: u64) -> Self {
        Self::new(
            Code::InvalidPartNumber,
            "The requested partnumber is not satisfiable",
        )
        .with("ActualPartCount", count.to_string())
        .with("PartNumberRequested", requested.to_string())
    }

    /// 412: `condition` names the header that does not hold, such as `If-Match`.
    pub fn precondition_failed(condition: &str) -> Self {
        let message = "At least one of the pre-conditions you specified did not hold";
        Self::new(Code::PreconditionFailed, message).with("Condition", condition)
    }

    /// 405: `resource_type` is S3's word for what was addressed: `SERVICE`, `BUCKET` or `OBJECT`.
    pub fn method_not_allowed(method: &str, resource_type: &str) -> Self {
        let message = "The specified method is not allowed against this resource.";
        Self::new(Code::MethodNotAllowed, message)
            .with("Method", method)
            .with("ResourceType", resource_type)
    }

    /// 501: `what` names the sub-resource, parameter or header.
    pub fn not_implemented(what: &str) -> Self {
        let message = format!("This gateway serves reads and does not implement '{what}'.");
        Self::new(Code::NotImplemented, message)
    }

    /// 400: the parameter `name` has a `value` that it cannot have.
    pub fn invalid_argument(message: impl Into<String>, name: &str, value: &str) -> Self {
        Self::new(Code::InvalidArgument, message)
            .with("ArgumentName", name)
            .with("ArgumentValue", value)
    }

    /// Adds the element `name`, an XML name.
    #[must_use]
    pub fn with(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.details.push((name, text.into()));
        self
    }

    /// Says which object the error is about.
    #[must_use]
    pub fn about(self, bucket: &str, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            bucket: Some(bucket.to_owned()),
            ..self
        }
    }

    /// The object's size, where the error tells it: a 416's.
    pub fn actual_size(&self) -> Option<&str> {
        let mut details = self.details.iter();
        let size = details.find(|(name, _)| *name == "ActualObjectSize");
        size.map(|(_, size)| size.as_str())
    }

    /// The error document. `resource` is the path asked for, `request_id` what the log line carries too,
    /// `host_id` names this gateway.
    pub fn xml(&self, resource: &str, request_id: &str, host_id: &str) -> String {
        let mut document = Document::new();
        document.element("Error", |error| {
            error.leaf("Code", self.code.as_str());
            error.leaf("Message", &self.message);
            for (name, text) in &self.details {
                error.leaf(name, text);
            }
            if let Some(key) = &self.key {
                error.leaf("Key", key);
            }
            if let Some(bucket) = &self.bucket {
                error.leaf("BucketName", bucket);
            }
            error.leaf("Resource", resource);
            error.leaf("RequestId", request_id);
            error.leaf("HostId", host_id);
        });
        document.finish()
    }
}

impl From<HeadError> for S3Error {
    fn from(error: HeadError) -> Self {
        let code = match error {
            HeadError::NoHost
            | HeadError::SeveralHosts
            | HeadError::BadHost
            | HeadError::TwoHosts
            | HeadError::CodedBody(_) => Code::InvalidRequest,
            HeadError::TargetTooLong => Code::UriTooLong,
            HeadError::FieldsTooLong => Code::RequestHeaderSectionTooLarge,
        };
        Self::new(code, error.to_string())
    }
}

impl From<TargetError> for S3Error {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::KeyTooLong { bytes } => {
                Self::new(Code::KeyTooLong, "Your key is too long")
                    .with("Size", bytes.to_string())
                    .with(
                        "MaxSizeAllowed",
                        crate::dialect::target::MAX_KEY_BYTES.to_string(),
                    )
            }
            TargetError::NotAPath
            | TargetError::BadEscape
            | TargetError::NotUtf8
            | TargetError::Nul => Self::new(
                Code::InvalidUri,
                format!("Couldn't parse the specified URI: {error}."),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(error: &S3Error) -> String {
        error.xml("/models/a", "R1", "H1")
    }

    /// The elements of an error about `/models/a`, without what all have in common.
    fn own_elements(error: &S3Error) -> String {
        let xml = body(error);
        let inner = xml
            .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>")
            .and_then(|rest| rest.split_once("</Message>"))
            .and_then(|(_, rest)| rest.split_once("<Resource>"));
        inner
            .map(|(own, _)| own.to_owned())
            .expect("an error document")
    }

    #[test]
    fn missing_key_is_s3s_document_to_the_letter() {
        assert_eq!(
            body(&S3Error::no_such_key("models", "a")),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>\
             <Message>The specified key does not exist.</Message><Key>a</Key>\
             <BucketName>models</BucketName><Resource>/models/a</Resource><RequestId>R1</RequestId>\
             <HostId>H1</HostId></Error>"
        );
    }

    #[test]
    fn empty_object_is_recognised_by_its_size() {
        let error = S3Error::invalid_range("bytes=0-8388607", 0);
        assert_eq!(error.code.status(), 416);
        assert_eq!(
            own_elements(&error),
            "<RangeRequested>bytes=0-8388607</RangeRequested><ActualObjectSize>0</ActualObjectSize>"
        );
    }

    #[test]
    fn codes_carry_their_own_elements() {
        for (error, expected) in [
            (
                S3Error::invalid_part_number(3, 2).about("m", "k"),
                "<ActualPartCount>2</ActualPartCount><PartNumberRequested>3</PartNumberRequested>\
                 <Key>k</Key><BucketName>m</BucketName>",
            ),
            (
                S3Error::precondition_failed("If-Match"),
                "<Condition>If-Match</Condition>",
            ),
            (S3Error::no_such_bucket("m"), "<BucketName>m</BucketName>"),
            (
                S3Error::no_such_version("m", "k", "v"),
                "<VersionId>v</VersionId><Key>k</Key><BucketName>m</BucketName>",
            ),
            (
                S3Error::method_not_allowed("PUT", "OBJECT"),
                "<Method>PUT</Method><ResourceType>OBJECT</ResourceType>",
            ),
            (
                S3Error::invalid_argument("no", "max-keys", "x"),
                "<ArgumentName>max-keys</ArgumentName><ArgumentValue>x</ArgumentValue>",
            ),
            (S3Error::not_implemented("acl"), ""),
        ] {
            assert_eq!(own_elements(&error), expected, "{error}");
        }
    }

    #[test]
    fn everything_is_escaped() {
        let error = S3Error::no_such_key("<b>", "a&\u{1}").with("VersionId", "\"v\"");
        let xml = error.xml("/<r>", "<i>", "<h>");
        assert!(xml.contains("<VersionId>&quot;v&quot;</VersionId><Key>a&amp;\u{fffd}</Key>"));
        assert!(xml.contains("<BucketName>&lt;b&gt;</BucketName><Resource>/&lt;r&gt;</Resource>"));
        assert!(xml.contains("<RequestId>&lt;i&gt;</RequestId><HostId>&lt;h&gt;</HostId>"));
    }

    #[test]
    fn codes_have_s3s_names_and_statuses() {
        for (code, name, status) in [
            (Code::AccessDenied, "AccessDenied", 403),
            (Code::AccessForbidden, "AccessForbidden", 403),
            (Code::BadRequest, "BadRequest", 400),
            (Code::NoCredentials, "AccessDenied", 401),
            (
                Code::AuthorizationHeaderMalformed,
                "AuthorizationHeaderMalformed",
                400,
            ),
            (
                Code::AuthorizationQueryParametersError,
                "AuthorizationQueryParametersError",
                400,
            ),
            (Code::InvalidAccessKeyId, "InvalidAccessKeyId", 403),
            (Code::RequestTimeTooSkewed, "RequestTimeTooSkewed", 403),
            (Code::SignatureDoesNotMatch, "SignatureDoesNotMatch", 403),
            (
                Code::XAmzContentSha256Mismatch,
                "XAmzContentSHA256Mismatch",
                400,
            ),
            (Code::BadGateway, "BadGateway", 502),
            (Code::InternalError, "InternalError", 500),
            (Code::InvalidArgument, "InvalidArgument", 400),
            (Code::InvalidPartNumber, "InvalidPartNumber", 416),
            (Code::InvalidRange, "InvalidRange", 416),
            (Code::InvalidRequest, "InvalidRequest", 400),
            (Code::InvalidUri, "InvalidURI", 400),
            (Code::KeyTooLong, "KeyTooLongError", 400),
            (Code::MethodNotAllowed, "MethodNotAllowed", 405),
            (Code::NoSuchBucket, "NoSuchBucket", 404),
            (Code::NoSuchKey, "NoSuchKey", 404),
            (Code::NoSuchVersion, "NoSuchVersion", 404),
            (Code::NotImplemented, "NotImplemented", 501),
            (Code::PreconditionFailed, "PreconditionFailed", 412),
            (
                Code::RequestHeaderSectionTooLarge,
                "RequestHeaderSectionTooLarge",
                431,
            ),
            (Code::RequestTimeout, "RequestTimeout", 400),
            (Code::ServiceUnavailable, "ServiceUnavailable", 503),
            (Code::SlowDown, "SlowDown", 503),
            (Code::UriTooLong, "URITooLong", 414),
        ] {
            assert_eq!((code.as_str(), code.status().as_u16()), (name, status));
        }
    }

    #[test]
    fn unreadable_targets_are_400s() {
        for (error, code) in [
            (TargetError::BadEscape, Code::InvalidUri),
            (TargetError::NotUtf8, Code::InvalidUri),
            (TargetError::Nul, Code::InvalidUri),
            (TargetError::NotAPath, Code::InvalidUri),
            (TargetError::KeyTooLong { bytes: 1025 }, Code::KeyTooLong),
        ] {
            let error = S3Error::from(error);
            assert_eq!(error.code, code);
            assert_eq!(error.code.status(), 400);
        }
    }
}
