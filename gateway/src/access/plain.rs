//! Credentials that are shown rather than used: HTTP Basic (RFC 7617) and Bearer (RFC 6750), for
//! clients that cannot sign.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::settings::Secret;

/// Padding or not: not all clients write it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An id and its secret.
pub(super) struct Pair {
    pub(super) id: String,
    pub(super) secret: Secret,
}

/// The pair of an `Authorization` header's value: `None` if it is of another kind, `Some(None)` if
/// it is of this kind and holds no pair.
pub(super) fn pair(value: &str) -> Option<Option<Pair>> {
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let rest = rest.trim();
    let text = if scheme.eq_ignore_ascii_case("basic") {
        let bytes = BASE64.decode(rest).ok();
        bytes.and_then(|bytes| String::from_utf8(bytes).ok())
    } else if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.to_owned())
    } else {
        return None;
    };
    Some(text.and_then(|text| {
        let (id, secret) = text.split_once(':')?;
        Some(Pair {
            id: id.to_owned(),
            secret: Secret::new(secret),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Option<(String, String)>> {
        let pair = pair(value)?;
        Some(pair.map(|pair| (pair.id, pair.secret.expose().to_owned())))
    }

    #[test]
    fn basic_and_bearer_hold_a_pair() {
        let pair = Some(Some(("ID".to_owned(), "se:cret".to_owned())));
        for value in [
            "Basic SUQ6c2U6Y3JldA==",
            "basic  SUQ6c2U6Y3JldA ",
            "Bearer ID:se:cret",
            "bEARER ID:se:cret",
        ] {
            assert_eq!(read(value), pair, "{value}");
        }
    }

    #[test]
    fn what_holds_no_pair_is_none_and_other_kinds_are_not_ours() {
        for value in [
            "Basic",
            "Basic !",
            "Basic SUQ=",
            "Basic /////w==",
            "Bearer ID",
            "Bearer",
        ] {
            assert_eq!(read(value), Some(None), "{value}");
        }
        for value in ["", "Digest a", "BasicSUQ6eA==", "Negotiate SUQ6eA=="] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
