//! Who may ask what under `/-/`.
//!
//! The gateway judges a request by [`Need`] before a route is looked for, so that a route that
//! nobody thought about is an administrator's. What it found travels with the request; without a
//! verdict nothing is let through.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;

use super::Problem;
use crate::access::Refusal;

/// What a path under `/-/` asks of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: health checks and metrics have no credentials.
    Nothing,
    /// To be allowed to read this dataset.
    Reader(String),
    /// To be an administrator.
    Admin,
}

impl Need {
    /// Of a path as it travels, since that is what routes are found by.
    pub fn of(path: &str) -> Self {
        if matches!(path, "/-/healthz" | "/-/readyz" | "/-/metrics") {
            return Self::Nothing;
        }
        let reader = ["/-/plan/", "/-/resident/"]
            .iter()
            .find_map(|route| path.strip_prefix(route));
        let Some(rest) = reader else {
            return Self::Admin;
        };
        let dataset = rest.split('/').next().unwrap_or_default();
        match percent_decode_str(dataset).decode_utf8() {
            Ok(dataset) if !dataset.is_empty() => Self::Reader(dataset.into_owned()),
            _ => Self::Admin,
        }
    }
}

/// What the gateway found, in the request's extensions.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The client may ask that.
    Admitted,
    /// It may not.
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// Why.
        detail: String,
        /// What a 401 asks for.
        challenge: &'static str,
    },
}

impl Verdict {
    /// That of a refusal.
    pub fn of(refusal: &Refusal, challenge: &'static str) -> Self {
        Self::Refused {
            status: refusal.error.code.status(),
            detail: refusal.error.message.clone(),
            challenge,
        }
    }
}

/// Lets through what was admitted.
pub(super) async fn only_admitted(request: Request, next: Next) -> Response {
    let verdict = request.extensions().get::<Verdict>();
    let (status, detail, challenge) = match verdict {
        Some(Verdict::Admitted) => return next.run(request).await,
        Some(Verdict::Refused {
            status,
            detail,
            challenge,
        }) => (*status, detail.clone(), Some(*challenge)),
        None => (StatusCode::FORBIDDEN, "nobody was asked".to_owned(), None),
    };
    let mut response = Problem::new(status, detail).into_response();
    if let Some(challenge) = challenge.filter(|_| status == StatusCode::UNAUTHORIZED) {
        let challenge = HeaderValue::from_static(challenge);
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_an_administrators() {
        for path in ["/-/healthz", "/-/readyz", "/-/metrics"] {
            assert_eq!(Need::of(path), Need::Nothing, "{path}");
        }
        for path in [
            "/-",
            "/-/",
            "/-/healthz/",
            "/-/metrics/x",
            "/-/%68ealthz",
            "/-/plan",
            "/-/plan/",
            "/-/plan//key",
            "/-/resident/%FF/key",
            "/-/datasets",
            "/-/blocks/models/a",
            "/-/purge/models/a",
            "/-/warm/models/a",
            "/-/whatever/comes/later",
        ] {
            assert_eq!(Need::of(path), Need::Admin, "{path}");
        }
        for path in [
            "/-/plan/models/a/b",
            "/-/resident/models",
            "/-/resident/models/",
            "/-/plan/mod%65ls/a",
        ] {
            assert_eq!(Need::of(path), Need::Reader("models".into()), "{path}");
        }
        // Split before it is decoded, as the route does: such a dataset can't be.
        let odd = Need::Reader("models/other".into());
        assert_eq!(Need::of("/-/plan/models%2Fother/a"), odd);
    }
}
