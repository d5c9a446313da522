//! Query parameters of S3 requests that are not about listing: sub-resources that are not served, and
//! overrides of response headers.

use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::S3Error;
use crate::dialect::target::{Place, Query};

/// Where a sub-resource of S3's exists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Bucket,
    Object,
    Both,
}

/// What S3 knows and this gateway does not. `location`, `list-type`, `versionId` and `partNumber` are served;
/// names that S3 does not know are ignored, as S3 ignores them.
const SUB_RESOURCES: &[(&str, On)] = &[
    ("abac", On::Bucket),
    ("accelerate", On::Bucket),
    ("acl", On::Both),
    ("analytics", On::Bucket),
    ("attributes", On::Object),
    ("cors", On::Bucket),
    ("delete", On::Bucket),
    ("encryption", On::Both),
    ("intelligent-tiering", On::Bucket),
    ("inventory", On::Bucket),
    ("legal-hold", On::Object),
    ("lifecycle", On::Bucket),
    ("logging", On::Bucket),
    ("metadataConfiguration", On::Bucket),
    ("metadataTable", On::Bucket),
    ("metrics", On::Bucket),
    ("notification", On::Bucket),
    ("object-lock", On::Bucket),
    ("ownershipControls", On::Bucket),
    ("policy", On::Bucket),
    ("policyStatus", On::Bucket),
    ("publicAccessBlock", On::Bucket),
    ("renameObject", On::Object),
    ("replication", On::Bucket),
    ("requestPayment", On::Bucket),
    ("restore", On::Object),
    ("retention", On::Object),
    ("select", On::Object),
    ("session", On::Bucket),
    ("tagging", On::Both),
    ("torrent", On::Object),
    ("uploadId", On::Object),
    ("uploads", On::Both),
    ("versioning", On::Bucket),
    ("versions", On::Bucket),
    ("website", On::Bucket),
];

/// The sub-resource that a request asks for and that is not served here: 501 `NotImplemented`, whose sentence
/// names it.
pub fn unsupported(query: &Query, place: &Place) -> Option<&'static str> {
    let here = match place {
        Place::Dataset { .. } => On::Bucket,
        Place::Object { .. } => On::Object,
        Place::Root | Place::Ours { .. } => return None,
    };
    // What presigned requests carry is no sub-resource; to ask for each by name would cost them most.
    if query.iter().all(|(name, _)| name.starts_with("X-Amz-")) {
        return None;
    }
    let asked = |(name, on): &&(&str, On)| (*on == here || *on == On::Both) && query.has(name);
    SUB_RESOURCES.iter().find(asked).map(|(name, _)| *name)
}

/// Response headers that a client wants to read differently (GetObject's and HeadObject's `response-*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseOverrides {
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// S3's six parameters and their headers.
static OVERRIDES: [(&str, HeaderName); 6] = [
    ("response-cache-control", CACHE_CONTROL),
    ("response-content-disposition", CONTENT_DISPOSITION),
    ("response-content-encoding", CONTENT_ENCODING),
    ("response-content-language", CONTENT_LANGUAGE),
    ("response-content-type", CONTENT_TYPE),
    ("response-expires", EXPIRES),
];

impl ResponseOverrides {
    /// Reads the overrides of a request; one without a value is none.
    ///
    /// # Errors
    /// `InvalidArgument`, when a value cannot stand in a header because it holds control characters.
    pub fn parse(query: &Query) -> Result<Self, S3Error> {
        let mut headers = Vec::new();
        for (parameter, name) in &OVERRIDES {
            let Some(text) = query.get(parameter).filter(|text| !text.is_empty()) else {
                continue;
            };
            let value = HeaderValue::from_str(text).map_err(|_| {
                let message = "A header value cannot hold control characters.";
                S3Error::invalid_argument(message, parameter, text)
            })?;
            headers.push((name.clone(), value));
        }
        Ok(Self { headers })
    }

    /// Whether nothing is overridden.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// The value that overrides a header, if any.
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
    }

    /// Puts the overrides into the headers of a 200 or 206, in place of what is there.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn query(raw: &str) -> Query {
        Query::parse(raw).unwrap()
    }

    fn dataset() -> Place {
        Place::Dataset {
            name: "m".into(),
            slash: false,
        }
    }

    fn object() -> Place {
        Place::Object {
            dataset: "m".into(),
            key: "k".into(),
        }
    }

    #[test]
    fn sub_resources_are_unsupported_where_s3_has_them() {
        for (raw, on_dataset, on_object) in [
            ("", None, None),
            ("acl", Some("acl"), Some("acl")),
            ("acl=", Some("acl"), Some("acl")),
            ("tagging&versionId=3", Some("tagging"), Some("tagging")),
            ("uploads", Some("uploads"), Some("uploads")),
            ("uploadId=x&partNumber=1", None, Some("uploadId")),
            ("policy", Some("policy"), None),
            ("versions&prefix=a", Some("versions"), None),
            ("versioning", Some("versioning"), None),
            ("object-lock", Some("object-lock"), None),
            ("attributes", None, Some("attributes")),
            ("select&select-type=2", None, Some("select")),
            ("legal-hold", None, Some("legal-hold")),
            ("location", None, None),
            ("list-type=2&prefix=acl", None, None),
            ("partNumber=1", None, None),
            ("versionId=x", None, None),
            ("x-id=GetObject", None, None),
            ("ACL", None, None),
        ] {
            assert_eq!(
                unsupported(&query(raw), &dataset()),
                on_dataset,
                "dataset ?{raw}"
            );
            assert_eq!(
                unsupported(&query(raw), &object()),
                on_object,
                "object ?{raw}"
            );
        }
    }

    #[test]
    fn nothing_is_a_sub_resource_at_the_root_and_below_ours() {
        assert_eq!(unsupported(&query("acl"), &Place::Root), None);
        let ours = Place::Ours {
            rest: "metrics".into(),
        };
        assert_eq!(unsupported(&query("metrics"), &ours), None);
    }

    #[test]
    fn sub_resources_are_sorted_and_unique() {
        assert!(SUB_RESOURCES.is_sorted_by(|a, b| a.0.to_lowercase() < b.0.to_lowercase()));
    }

    #[test]
    fn overrides_replace_headers() {
        let raw = "response-content-type=text/plain%3B+charset%3Dutf-8&response-expires=0\
                   &response-content-disposition=attachment&response-content-language=de\
                   &response-cache-control=no-cache&response-content-encoding=gzip";
        let overrides = ResponseOverrides::parse(&query(raw)).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("a/b"));
        headers.append(CONTENT_TYPE, HeaderValue::from_static("c/d"));
        overrides.apply(&mut headers);
        for (name, value) in [
            (CONTENT_TYPE, "text/plain; charset=utf-8"),
            (EXPIRES, "0"),
            (CONTENT_DISPOSITION, "attachment"),
            (CONTENT_LANGUAGE, "de"),
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_ENCODING, "gzip"),
        ] {
            assert_eq!(overrides.get(&name).unwrap(), value);
            assert_eq!(
                headers.get_all(&name).iter().collect::<Vec<_>>(),
                [value],
                "{name}"
            );
        }
    }

    #[test]
    fn no_overrides_change_nothing() {
        for raw in [
            "",
            "response-content-type=",
            "response-etag=x",
            "Response-Content-Type=x",
        ] {
            let overrides = ResponseOverrides::parse(&query(raw)).unwrap();
            assert!(overrides.is_empty(), "{raw}");
            assert_eq!(overrides.get(&CONTENT_TYPE), None);
        }
    }

    #[test]
    fn override_values_that_no_header_holds_are_invalid_arguments() {
        for value in ["a%0D%0ASet-Cookie:b", "a%0A", "a%00", "a%7F"] {
            let raw = format!("response-content-type={value}");
            let error = ResponseOverrides::parse(&query(&raw)).unwrap_err();
            assert_eq!(error.code.as_str(), "InvalidArgument", "{value}");
            assert_eq!(error.details[0].1, "response-content-type");
        }
    }
}
