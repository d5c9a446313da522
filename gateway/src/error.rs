//! Failures, and the one place where they become answers.

use forebay_storage::error::OriginError;
use http::StatusCode;

use crate::dialect::s3::error::{Code, S3Error};

/// What an origin's failure means to a client that asked for `key` of `dataset`.
pub fn of_origin(error: &OriginError, dataset: &str, key: &str, version: Option<&str>) -> S3Error {
    let cause = || error.to_string();
    match error {
        OriginError::NotFound => match version {
            Some(version) => S3Error::no_such_version(dataset, key, version),
            None => S3Error::no_such_key(dataset, key),
        },
        OriginError::Unnameable(reason) => S3Error::new(Code::NoSuchKey, *reason),
        OriginError::SlowDown { .. } => S3Error::new(Code::SlowDown, cause()),
        OriginError::Unreachable(_)
        | OriginError::Down { .. }
        | OriginError::FoundAway
        | OriginError::TimedOut => S3Error::new(Code::ServiceUnavailable, cause()),
        OriginError::Changed => S3Error::new(
            Code::ServiceUnavailable,
            "The object is being replaced at the origin just now; ask again",
        ),
        OriginError::Abandoned => S3Error::new(Code::InternalError, cause()),
        OriginError::Unsupported(reason) => S3Error::new(Code::NotImplemented, reason.to_string()),
        OriginError::PastEnd => S3Error::new(Code::InvalidRange, cause()),
        OriginError::NoSuchPart { count } => S3Error::invalid_part_number(0, u64::from(*count)),
        OriginError::Refused { .. }
        | OriginError::Status { .. }
        | OriginError::NoCredentials
        | OriginError::Cut
        | OriginError::BadAnswer(_) => S3Error::new(Code::BadGateway, cause()),
    }
    .about(dataset, key)
}

/// Whether a client that gets this status should wait before it asks again.
pub fn retry_after(status: StatusCode) -> Option<&'static str> {
    (status == StatusCode::SERVICE_UNAVAILABLE).then_some("1")
}
