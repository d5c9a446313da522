//! The address of an origin: what a dataset's `origin` may say, and which options go with it.
//!
//! An address names a place and never a credential. Whatever could carry one (user:password, a
//! query) is refused, and no sentence of this module repeats the address that it refuses.

use std::fmt;
use std::path::PathBuf;

use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use percent_encoding::percent_decode_str;

/// Where a dataset's objects come from.
///
/// A `prefix` has no leading slash, and is empty or ends in `/`: a key of the dataset is appended
/// to it as it is. Prefixes are taken literally, so `%20` in one is those three characters, as in
/// every S3 tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginUrl {
    /// `s3://bucket/prefix`: S3, or any endpoint that speaks its language.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What every key begins with.
        prefix: String,
    },
    /// `oss://bucket/prefix`: Alibaba Cloud OSS through its S3-compatible endpoint.
    Oss {
        /// The bucket's name.
        bucket: String,
        /// What every key begins with.
        prefix: String,
    },
    /// `gs://bucket/prefix`: Google Cloud Storage.
    Gcs {
        /// The bucket's name.
        bucket: String,
        /// What every key begins with.
        prefix: String,
    },
    /// `az://container/prefix`: Azure Blob Storage.
    Azure {
        /// The container's name.
        container: String,
        /// What every key begins with.
        prefix: String,
    },
    /// `http://host/path/` or `https://host/path/`: a plain web server.
    Http {
        /// The whole address, ending in `/`.
        url: String,
    },
    /// `file:///dir`, or a path: a directory of this machine.
    Directory {
        /// The directory, absolute. A relative one was taken from the working directory.
        path: PathBuf,
    },
}

impl OriginUrl {
    /// Reads an address. Nothing is asked of the network or the disk.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "the origin is empty: write s3://BUCKET/PREFIX, another address, or a directory"
                    .into(),
            );
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(
                "the origin holds a control character, or a space at an end: remove it".into(),
            );
        }
        let Some((scheme, rest)) = split_scheme(text)? else {
            return directory(text);
        };
        match scheme.as_str() {
            "s3" => bucket_and_prefix("s3", "bucket", rest)
                .map(|(bucket, prefix)| Self::S3 { bucket, prefix }),
            "oss" => bucket_and_prefix("oss", "bucket", rest)
                .map(|(bucket, prefix)| Self::Oss { bucket, prefix }),
            "gs" => bucket_and_prefix("gs", "bucket", rest)
                .map(|(bucket, prefix)| Self::Gcs { bucket, prefix }),
            "az" => bucket_and_prefix("az", "container", rest)
                .map(|(container, prefix)| Self::Azure { container, prefix }),
            "http" | "https" => web(&scheme, rest),
            "file" => file(rest),
            _ => Err(unknown_scheme(&scheme)),
        }
    }

    /// Whether `key` is an option of this kind of origin: one of object_store's own configuration
    /// keys, or of its HTTP client's. `oss://` takes the `aws_*` keys, a directory takes none.
    ///
    /// # Errors
    /// A sentence that names the key, and the known one nearest to it if one is close.
    pub fn check_option(&self, key: &str) -> Result<(), String> {
        let (prefix, own, known, names_place) = match self {
            Self::S3 { .. } | Self::Oss { .. } => {
                let parsed = key.parse::<AmazonS3ConfigKey>().ok();
                (
                    "aws_",
                    AWS_OPTIONS,
                    parsed.is_some(),
                    parsed == Some(AmazonS3ConfigKey::Bucket),
                )
            }
            Self::Gcs { .. } => {
                let parsed = key.parse::<GoogleConfigKey>().ok();
                (
                    "google_",
                    GOOGLE_OPTIONS,
                    parsed.is_some(),
                    parsed == Some(GoogleConfigKey::Bucket),
                )
            }
            Self::Azure { .. } => {
                let parsed = key.parse::<AzureConfigKey>().ok();
                (
                    "azure_",
                    AZURE_OPTIONS,
                    parsed.is_some(),
                    parsed == Some(AzureConfigKey::ContainerName),
                )
            }
            Self::Http { .. } => ("", &[][..], key.parse::<ClientConfigKey>().is_ok(), false),
            Self::Directory { .. } => {
                return Err(format!("a directory takes no options: remove `{key}`"));
            }
        };
        if names_place {
            // Two places would name it, and one of them would silently lose.
            return Err(format!(
                "`{key}` is not an option here, the origin's address names it already: remove it"
            ));
        }
        if known && is_for_the_connection(key, prefix) {
            return Err(format!(
                "`{key}` is for object_store's own connections, and Forebay has others: remove it"
            ));
        }
        if known {
            return Ok(());
        }
        let kind = self.scheme();
        Err(match nearest_option(key, prefix, own) {
            Some(near) => {
                format!("`{key}` is not an option of {kind} origins: did you mean `{near}`?")
            }
            None => format!("`{key}` is not an option of {kind} origins: remove it"),
        })
    }

    /// The scheme with its `://`, for sentences.
    fn scheme(&self) -> &'static str {
        match self {
            Self::S3 { .. } => "s3://",
            Self::Oss { .. } => "oss://",
            Self::Gcs { .. } => "gs://",
            Self::Azure { .. } => "az://",
            Self::Http { url } if url.starts_with("https:") => "https://",
            Self::Http { .. } => "http://",
            Self::Directory { .. } => "file://",
        }
    }
}

/// Options of object_store's HTTP client, which is not the one in use. `allow_http` says what holds
/// anyway.
fn is_for_the_connection(key: &str, prefix: &str) -> bool {
    let option = key.strip_prefix(prefix).unwrap_or(key);
    let option = option.parse::<ClientConfigKey>();
    option.is_ok_and(|option| option != ClientConfigKey::AllowHttp)
}

/// The address as its owner would write it, without a prefix's last slash. Reading it again gives
/// the same origin.
impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 {
                bucket: place,
                prefix,
            }
            | Self::Oss {
                bucket: place,
                prefix,
            }
            | Self::Gcs {
                bucket: place,
                prefix,
            }
            | Self::Azure {
                container: place,
                prefix,
            } => {
                write!(f, "{}{place}", self.scheme())?;
                match prefix.strip_suffix('/') {
                    Some(prefix) => write!(f, "/{prefix}"),
                    None => Ok(()),
                }
            }
            Self::Http { url } => f.write_str(url),
            Self::Directory { path } => write!(f, "{}", path.display()),
        }
    }
}

const SCHEMES: &[&str] = &["s3", "oss", "gs", "az", "http", "https", "file"];

/// Scheme (in lower case) and what follows `://`, or `None` for a path.
fn split_scheme(text: &str) -> Result<Option<(String, &str)>, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Ok(None);
    };
    let well_formed = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    if !well_formed {
        return Ok(None);
    }
    let scheme = scheme.to_ascii_lowercase();
    match rest.strip_prefix("//") {
        Some(rest) => Ok(Some((scheme, rest))),
        None if SCHEMES.contains(&scheme.as_str()) => Err(format!(
            "after `{scheme}:` two slashes are missing: write {scheme}://…"
        )),
        None => Ok(None),
    }
}

fn unknown_scheme(scheme: &str) -> String {
    match nearest(scheme, SCHEMES.iter().map(ToString::to_string)) {
        Some(near) => {
            format!("`{scheme}://` is not a known kind of origin: did you mean {near}://?")
        }
        None => format!(
            "`{scheme}://` is not a known kind of origin: write s3://, oss://, gs://, az://, \
             http://, https://, file:/// or a directory"
        ),
    }
}

/// Refuses what could carry a credential or change the meaning of keys.
fn refuse_extras(scheme: &str, rest: &str) -> Result<(), String> {
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err(format!(
            "a {scheme}:// origin may not hold a user or password: put credentials in `options`"
        ));
    }
    if rest.contains('?') {
        return Err(format!(
            "a {scheme}:// origin may not hold a query (`?…`): put what it says in `options`"
        ));
    }
    if rest.contains('#') {
        return Err(format!(
            "a {scheme}:// origin may not hold a fragment (`#…`): remove it"
        ));
    }
    Ok(())
}

fn bucket_and_prefix(scheme: &str, noun: &str, rest: &str) -> Result<(String, String), String> {
    refuse_extras(scheme, rest)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(format!(
            "the origin names no {noun}: write {scheme}://{}/PREFIX",
            noun.to_uppercase()
        ));
    }
    if bucket.contains(':') {
        return Err(format!(
            "{scheme}:// is followed by a {noun}, not by a host and a port: put the \
             endpoint in `options`"
        ));
    }
    // Wider than today's naming rules: old buckets have capitals and underscores, Azure has
    // `$root`.
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._$".contains(c);
    if !bucket.chars().all(allowed) || bucket.chars().all(|c| c == '.') {
        return Err(format!(
            "`{bucket}` cannot be the name of a {noun}: use letters, digits, `-`, `_` and `.`"
        ));
    }
    Ok((bucket.to_owned(), normal_prefix(prefix)?))
}

fn normal_prefix(prefix: &str) -> Result<String, String> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.is_empty() {
        return Ok(String::new());
    }
    if prefix.split('/').any(str::is_empty) {
        return Err("the origin's prefix holds an empty part (`//`): write single slashes".into());
    }
    refuse_dots(prefix)?;
    Ok(format!("{prefix}/"))
}

fn refuse_dots(path: &str) -> Result<(), String> {
    match path.split('/').find(|part| matches!(*part, "." | "..")) {
        Some(part) => Err(format!(
            "the origin's path holds `{part}`: write the path without it"
        )),
        None => Ok(()),
    }
}

fn web(scheme: &str, rest: &str) -> Result<OriginUrl, String> {
    refuse_extras(scheme, rest)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    refuse_dots(path)?;
    let slash = if path.is_empty() || path.ends_with('/') {
        ""
    } else {
        "/"
    };
    let url = format!(
        "{scheme}://{}/{path}{slash}",
        authority.to_ascii_lowercase()
    );
    let wrong = || {
        format!(
            "the {scheme}:// origin is not an address: write {scheme}://HOST[:PORT]/PATH/, \
             percent-encoded"
        )
    };
    if !url.is_ascii() {
        return Err(wrong());
    }
    let parsed: http::Uri = url.parse().map_err(|_| wrong())?;
    let authority = parsed.authority().ok_or_else(wrong)?;
    let port = authority
        .as_str()
        .strip_prefix(authority.host())
        .unwrap_or_default();
    if authority.host().is_empty()
        || !(port.is_empty() || authority.port_u16().is_some_and(|port| port > 0))
    {
        return Err(wrong());
    }
    Ok(OriginUrl::Http { url })
}

/// A file URL is percent-encoded and names no host, or this one (RFC 8089 §2).
fn file(rest: &str) -> Result<OriginUrl, String> {
    refuse_extras("file", rest)?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("a file:// origin needs an absolute path: write file:///DIRECTORY".into());
    }
    let path = percent_decode_str(path).decode_utf8();
    let path =
        path.map_err(|_| "the file:// origin is not UTF-8 once decoded: rename the directory")?;
    if path.chars().any(char::is_control) {
        return Err(
            "the file:// origin holds a control character once decoded: rename the directory"
                .into(),
        );
    }
    directory(&path)
}

fn directory(path: &str) -> Result<OriginUrl, String> {
    if path == "~" || path.starts_with("~/") {
        return Err("`~` is not expanded in an origin: write the directory's whole path".into());
    }
    let path = std::path::absolute(path).map_err(|error| {
        format!("the directory cannot be made absolute ({error}): write its whole path")
    })?;
    // Without the last slash, so that `/a` and `/a/` are one origin.
    Ok(OriginUrl::Directory {
        path: path.components().collect(),
    })
}

/// The name among `names` that a slip of the finger would turn into `word`, if there is one.
fn nearest(word: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let word = word.to_lowercase();
    let near = names
        .map(|name| (strsim::osa_distance(&word, &name), name))
        .min()?;
    // One slip for each six letters, and one for short names.
    (near.0 <= 1 + word.chars().count() / 6).then_some(near.1)
}

fn nearest_option(key: &str, prefix: &str, own: &[&str]) -> Option<String> {
    let own = own.iter().map(|name| format!("{prefix}{name}"));
    let client = CLIENT_OPTIONS.iter().map(ToString::to_string);
    let prefixed = CLIENT_OPTIONS.iter().map(|name| format!("{prefix}{name}"));
    nearest(key, own.chain(client).chain(prefixed))
}

// The names below serve suggestions only; what is accepted is object_store's own reading of a key.
// Its enums cannot be listed, so a test holds these against it.

const AWS_OPTIONS: &[&str] = &[
    "access_key_id",
    "checksum_algorithm",
    "container_authorization_token_file",
    "container_credentials_full_uri",
    "container_credentials_relative_uri",
    "default_region",
    "endpoint",
    "endpoint_url",
    "endpoint_url_s3",
    "endpoint_url_sts",
    "imdsv1_fallback",
    "metadata_endpoint",
    "region",
    "request_payer",
    "role_arn",
    "role_session_name",
    "s3_express",
    "secret_access_key",
    "server_side_encryption",
    "session_token",
    "skip_signature",
    "sse_bucket_key_enabled",
    "sse_customer_key_base64",
    "sse_kms_key_id",
    "unsigned_payload",
    "virtual_hosted_style_request",
    "web_identity_token_file",
];

const GOOGLE_OPTIONS: &[&str] = &[
    "application_credentials",
    "base_url",
    "bearer_token",
    "service_account",
    "service_account_key",
    "service_account_path",
    "skip_signature",
];

const AZURE_OPTIONS: &[&str] = &[
    "authority_host",
    "authority_id",
    "client_id",
    "client_secret",
    "credential_type",
    "endpoint",
    "federated_token_file",
    "identity_endpoint",
    "msi_endpoint",
    "msi_resource_id",
    "object_id",
    "skip_signature",
    "storage_access_key",
    "storage_account_key",
    "storage_account_name",
    "storage_client_id",
    "storage_client_secret",
    "storage_endpoint",
    "storage_sas_key",
    "storage_sas_token",
    "storage_tenant_id",
    "storage_token",
    "storage_use_emulator",
    "tenant_id",
    "use_azure_cli",
];

const CLIENT_OPTIONS: &[&str] = &["allow_http"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn refusal(text: &str) -> String {
        OriginUrl::parse(text).unwrap_err()
    }

    #[test]
    fn each_scheme_gives_its_kind() {
        let (bucket, prefix) = (String::from("b"), String::from("x/y/"));
        let s3 = |prefix: &str| OriginUrl::S3 {
            bucket: "b".into(),
            prefix: prefix.into(),
        };
        let http = |url: &str| OriginUrl::Http { url: url.into() };
        let directory = |path: &str| OriginUrl::Directory { path: path.into() };
        let oss = OriginUrl::Oss {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
        };
        let gcs = OriginUrl::Gcs {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
        };
        let azure = OriginUrl::Azure {
            container: bucket,
            prefix,
        };
        for (text, origin) in [
            ("s3://b/x/y", s3("x/y/")),
            ("S3://b/x/y/", s3("x/y/")),
            ("s3://b", s3("")),
            ("s3://b/", s3("")),
            ("oss://b/x/y", oss),
            ("gs://b/x/y", gcs),
            ("az://b/x/y", azure),
            ("http://Host:81/a", http("http://host:81/a/")),
            ("https://host", http("https://host/")),
            ("http://[::1]:80/a%20b/", http("http://[::1]:80/a%20b/")),
            ("file:///srv/a%20b/", directory("/srv/a b")),
            ("/srv/we#ird?", directory("/srv/we#ird?")),
        ] {
            assert_eq!(OriginUrl::parse(text).unwrap(), origin, "{text}");
        }
    }

    #[test]
    fn a_relative_directory_becomes_absolute() {
        let path = std::env::current_dir().unwrap().join("models");
        assert_eq!(
            OriginUrl::parse("models").unwrap(),
            OriginUrl::Directory { path: path.clone() }
        );
        assert_eq!(
            OriginUrl::parse("./models/").unwrap(),
            OriginUrl::Directory { path }
        );
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_origin() {
        for text in [
            "s3://b/x/y",
            "s3://b",
            "oss://b/x",
            "gs://b/ü +%20",
            "az://$root/x",
            "https://h:1/a/",
            "/srv/a:b",
        ] {
            let origin = OriginUrl::parse(text).unwrap();
            assert_eq!(origin.to_string(), text);
            assert_eq!(OriginUrl::parse(&origin.to_string()).unwrap(), origin);
        }
    }

    #[test]
    fn what_could_hold_a_credential_is_refused_and_not_repeated() {
        for text in [
            "s3://AK:hunter2@b/x",
            "s3://b/x?secret=hunter2",
            "az://c/x?sig=hunter2",
            "https://me:hunter2@h/",
            "https://h/a?token=hunter2",
            "file://me:hunter2@h/x",
            "http:me:hunter2@h/x",
        ] {
            let sentence = refusal(text);
            assert!(!sentence.contains("hunter2"), "{sentence}");
        }
    }

    #[test]
    fn wrong_addresses_are_refused_with_what_to_do() {
        for (text, part) in [
            ("", "is empty"),
            (" s3://b", "space"),
            ("s3:/b/x", "two slashes"),
            ("s3://", "names no bucket"),
            ("az:///x", "names no container"),
            ("s3://10.0.0.5:9000/b", "endpoint in `options`"),
            ("s3://b b/x", "cannot be the name"),
            ("s3://../x", "cannot be the name"),
            ("s3://b/x//y", "empty part"),
            ("s3://b//x", "empty part"),
            ("s3://b/../x", "`..`"),
            ("s3://b/x#y", "fragment"),
            ("s3a://b/x", "did you mean s3://"),
            ("ftp://h/x", "not a known kind"),
            ("http:///x", "not an address"),
            ("http://h:99999/x", "not an address"),
            ("http://h:/x", "not an address"),
            ("http://h/a b", "not an address"),
            ("http://h/ü", "not an address"),
            ("http://h/a/../b", "`..`"),
            ("file://srv/x", "absolute path"),
            ("~/models", "not expanded"),
            ("file:///x%00", "control character"),
            ("file:///x%FF", "UTF-8"),
        ] {
            let sentence = refusal(text);
            assert!(sentence.contains(part), "{text}: {sentence}");
        }
    }

    #[test]
    fn options_are_those_of_object_store() {
        let s3 = OriginUrl::parse("s3://b").unwrap();
        let oss = OriginUrl::parse("oss://b").unwrap();
        let gs = OriginUrl::parse("gs://b").unwrap();
        let az = OriginUrl::parse("az://c").unwrap();
        let web = OriginUrl::parse("http://h").unwrap();
        for (origin, key) in [
            (&s3, "aws_endpoint"),
            (&s3, "region"),
            (&s3, "aws_allow_http"),
            (&oss, "aws_access_key_id"),
            (&gs, "google_base_url"),
            (&az, "azure_storage_account_key"),
            (&web, "allow_http"),
        ] {
            assert_eq!(origin.check_option(key), Ok(()), "{key}");
        }
        for (origin, key, part) in [
            (&s3, "aws_endpont", "did you mean `aws_endpoint`?"),
            (&s3, "AWS_REGION", "did you mean `aws_region`?"),
            (&oss, "oss_endpoint", "did you mean `aws_endpoint`?"),
            (&s3, "google_base_url", "remove it"),
            (&s3, "aws_bucket", "names it already"),
            (
                &gs,
                "google_service_acount",
                "did you mean `google_service_account`?",
            ),
            (
                &az,
                "azure_storage_acount_key",
                "did you mean `azure_storage_account_key`?",
            ),
            (&az, "container_name", "names it already"),
            (&web, "alow_http", "did you mean `allow_http`?"),
            (&web, "aws_region", "remove it"),
        ] {
            let sentence = origin.check_option(key).unwrap_err();
            assert!(sentence.contains(part), "{key}: {sentence}");
        }
        let here = OriginUrl::parse("/srv").unwrap();
        assert!(
            here.check_option("timeout")
                .unwrap_err()
                .contains("takes no options")
        );
    }

    #[test]
    fn options_of_connections_that_are_not_made_are_refused() {
        let s3 = OriginUrl::parse("s3://b").unwrap();
        for name in [
            "timeout",
            "aws_timeout",
            "proxy_url",
            "allow_invalid_certificates",
        ] {
            let refused = s3.check_option(name).unwrap_err();
            assert!(refused.contains("connections"), "{name}: {refused}");
        }
    }

    #[test]
    fn every_suggestion_is_accepted() {
        for (address, prefix, own) in [
            ("s3://b", "aws_", AWS_OPTIONS),
            ("gs://b", "google_", GOOGLE_OPTIONS),
            ("az://c", "azure_", AZURE_OPTIONS),
            ("http://h", "", &[][..]),
        ] {
            let origin = OriginUrl::parse(address).unwrap();
            for name in own.iter().chain(CLIENT_OPTIONS) {
                assert_eq!(origin.check_option(&format!("{prefix}{name}")), Ok(()));
            }
            for name in CLIENT_OPTIONS {
                assert_eq!(origin.check_option(name), Ok(()));
            }
        }
    }
}
