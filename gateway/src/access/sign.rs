//! Signing requests to a gateway: what the command line's client side sends, and what measures the
//! door with.

use std::fmt;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use percent_encoding::utf8_percent_encode;

use super::canonical::{
    ALGORITHM, Canonical, SIGNATURE_PARAMETER, Scope, UNRESERVED, UNSIGNED_PAYLOAD, amz_date, hex,
    query,
};
use crate::settings::Secret;

/// A pair of credentials, and the region that its signatures name.
#[derive(Clone)]
pub struct Signer {
    id: String,
    secret: Secret,
    region: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What a signature needs of a request.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// The method.
    pub method: &'a str,
    /// The `Host` that will be sent.
    pub host: &'a str,
    /// The path, percent-encoded as it will travel.
    pub path: &'a str,
    /// The query, without its `?`.
    pub query: &'a str,
}

impl Signer {
    /// A signer in the region `us-east-1`, which is as good as any.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: Secret::new(secret),
            region: "us-east-1".to_owned(),
        }
    }

    /// The one of the environment: Forebay's own variables, else AWS's; `None` if neither pair is
    /// there.
    pub fn of_environment(env: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let value = |name: String| env(&name).filter(|value| !value.is_empty());
        ["FOREBAY", "AWS"].iter().find_map(|prefix| {
            let id = value(format!("{prefix}_ACCESS_KEY_ID"))?;
            let secret = value(format!("{prefix}_SECRET_ACCESS_KEY"))?;
            Some(Self::new(id, secret))
        })
    }

    /// The headers that sign a request at this time; `payload` is its body's SHA-256, as 64
    /// hexadecimal digits, or [`UNSIGNED_PAYLOAD`].
    pub fn headers(
        &self,
        request: &Unsigned<'_>,
        payload: &str,
        now: SystemTime,
    ) -> [(&'static str, String); 3] {
        let date = amz_date(now);
        let signed_headers = "host;x-amz-content-sha256;x-amz-date";
        let canonical = Canonical {
            method: request.method,
            path: request.path,
            query: &query(request.query),
            signed_headers,
            payload,
        };
        let signature = self.signature(&date, &canonical, |name| match name {
            "host" => request.host,
            "x-amz-date" => &date,
            _ => payload,
        });
        let credential = self.credential(&date);
        let authorization = format!(
            "{ALGORITHM} Credential={credential}, SignedHeaders={signed_headers}, \
             Signature={signature}"
        );
        [
            ("x-amz-date", date),
            ("x-amz-content-sha256", payload.to_owned()),
            ("authorization", authorization),
        ]
    }

    /// The query of a URL that whoever has it may use for so long from this time on.
    pub fn presign(&self, request: &Unsigned<'_>, now: SystemTime, expires: Duration) -> String {
        let date = amz_date(now);
        let mut presigned = request.query.to_owned();
        for (name, value) in [
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &self.credential(&date)),
            ("X-Amz-Date", &date),
            ("X-Amz-Expires", &expires.as_secs().to_string()),
            ("X-Amz-SignedHeaders", "host"),
        ] {
            if !presigned.is_empty() {
                presigned.push('&');
            }
            let value = utf8_percent_encode(value, UNRESERVED);
            // Writing to a string can't fail.
            let _ = write!(presigned, "{name}={value}");
        }
        let canonical = Canonical {
            method: request.method,
            path: request.path,
            query: &query(&presigned),
            signed_headers: "host",
            payload: UNSIGNED_PAYLOAD,
        };
        let signature = self.signature(&date, &canonical, |_| request.host);
        format!("{presigned}&{SIGNATURE_PARAMETER}={signature}")
    }

    fn scope<'a>(&'a self, date: &'a str) -> Scope<'a> {
        Scope {
            day: date.split('T').next().unwrap_or_default(),
            region: &self.region,
        }
    }

    fn credential(&self, date: &str) -> String {
        format!("{}/{}", self.id, self.scope(date).text())
    }

    fn signature<'a>(
        &self,
        date: &str,
        canonical: &Canonical<'_>,
        value: impl Fn(&str) -> &'a str,
    ) -> String {
        let hash = canonical.hash(|name, text| text.extend_from_slice(value(name).as_bytes()));
        let scope = self.scope(date);
        let key = scope.signing_key(self.secret.expose());
        hex(scope.sign(&key, date, &hash).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(set: &[(&str, &str)]) -> Option<String> {
        let env = |name: &str| {
            let found = set.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Signer::of_environment(env).map(|signer| signer.id)
    }

    #[test]
    fn our_own_variables_come_before_amazons_and_pairs_stay_pairs() {
        let ours = [
            ("FOREBAY_ACCESS_KEY_ID", "f"),
            ("FOREBAY_SECRET_ACCESS_KEY", "s"),
        ];
        let amazons = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")];
        assert_eq!(id(&[]), None);
        assert_eq!(id(&ours).as_deref(), Some("f"));
        assert_eq!(id(&amazons).as_deref(), Some("a"));
        assert_eq!(id(&[ours, amazons].concat()).as_deref(), Some("f"));
        assert_eq!(id(&[ours[0], amazons[0], amazons[1]]).as_deref(), Some("a"));
        assert_eq!(id(&[ours[0], ("FOREBAY_SECRET_ACCESS_KEY", "")]), None);
    }

    #[test]
    fn a_signer_does_not_show_its_secret() {
        let shown = format!("{:?}", Signer::new("id", "hidden-secret"));
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
