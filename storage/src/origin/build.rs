//! From a dataset's settings to an object_store client, and where its credentials come from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Aws};
use object_store::azure::{AzureConfigKey as Azure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as Google};
use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::connect::{Connector, Exchange};
use super::s3::S3;
use super::url::OriginUrl;
use crate::class::Class;

/// A remote origin, ready to be asked.
pub(crate) struct Remote {
    /// Who holds the connections.
    pub(crate) connector: Connector,
    /// Reads.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Lists page by page, where the dialect has pages and object_store reads them.
    pub(crate) pages: Option<Arc<dyn PaginatedListStore>>,
    /// Requests of our own, for what object_store can't say in S3.
    pub(crate) s3: Option<S3>,
    /// What every key begins with at the origin.
    pub(crate) prefix: String,
    /// Where the requests go: `host:port`, for messages and to see whether it is us.
    pub(crate) endpoint: String,
    /// Where the credentials come from, in words.
    pub(crate) credentials: &'static str,
    /// Whether a version can be asked for by its id.
    pub(crate) has_versions: bool,
    /// Writes in parts, where requests of our own do not.
    pub(crate) writes: Option<Arc<dyn ObjectStore>>,
    /// A client for one listing that tells what came back, where object_store's listings can't
    /// carry an exchange themselves: plain HTTP.
    pub(crate) listing: Option<Listing>,
}

/// Makes a client whose requests tell an exchange what came back.
pub(crate) type Listing = Box<dyn Fn(&Exchange) -> Arc<dyn ObjectStore> + Send + Sync>;

/// Retries are ours, at the byte reached and with the pinned version.
fn no_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::from_secs(60),
    }
}

/// Builds the client for a remote `url`. The environment fills what `options` leaves out.
///
/// # Errors
/// A sentence that says which option is wrong.
pub(crate) fn remote(
    url: &OriginUrl,
    options: &BTreeMap<String, String>,
    connector: &Connector,
) -> Result<Remote, String> {
    match url {
        OriginUrl::S3 { bucket, prefix } => s3(bucket, prefix, false, options, connector),
        OriginUrl::Oss { bucket, prefix } => s3(bucket, prefix, true, options, connector),
        OriginUrl::Gcs { bucket, prefix } => gcs(bucket, prefix, options, connector),
        OriginUrl::Azure { container, prefix } => azure(container, prefix, options, connector),
        // Its options are those of object_store's own connections, and are not ours.
        OriginUrl::Http { url } => http(url, connector),
        OriginUrl::Directory { .. } => Err("a directory has no client".to_owned()),
    }
}

/// A connector for uploads in parts, whose requests carry no exchange: all of them are about data, and nobody waits.
fn writing(connector: &Connector) -> Connector {
    connector.telling(&Exchange::of(&Class::Warm.into()))
}

/// What `options` and the environment say together, by parsed key.
struct Merged<K> {
    pairs: Vec<(K, String)>,
    credentials_from_options: bool,
    credentials_from_environment: bool,
}

/// Ends of variables that name a bucket or container: `AWS_BUCKET`, `GOOGLE_BUCKET_NAME` …
const PLACES: [&str; 4] = ["_BUCKET", "_BUCKET_NAME", "_CONTAINER", "_CONTAINER_NAME"];

/// Merges options with the environment's variables that begin with `prefix`. No credential of the
/// environment is used once `options` names any.
fn merge<K: FromStr + PartialEq>(
    prefix: &str,
    options: &BTreeMap<String, String>,
    is_credential: impl Fn(&K) -> bool,
) -> Result<Merged<K>, String> {
    let mut pairs: Vec<(K, String)> = Vec::new();
    for (name, value) in options {
        let key = K::from_str(&name.to_ascii_lowercase());
        let key = key.map_err(|_| format!("`{name}` is not an option of this kind of origin"))?;
        pairs.push((key, value.clone()));
    }
    let named = pairs.iter().any(|(key, _)| is_credential(key));
    let mut from_environment = false;
    for (name, value) in std::env::vars_os() {
        let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else {
            continue;
        };
        // What names the bucket is the dataset's own address and nothing else.
        let place = PLACES.iter().any(|place| name.ends_with(place));
        if !name.starts_with(prefix) || place {
            continue;
        }
        let Ok(key) = K::from_str(&name.to_ascii_lowercase()) else {
            continue;
        };
        let credential = is_credential(&key);
        if (credential && named) || pairs.iter().any(|(known, _)| *known == key) {
            continue;
        }
        from_environment |= credential;
        pairs.push((key, value));
    }
    Ok(Merged {
        pairs,
        credentials_from_options: named,
        credentials_from_environment: from_environment,
    })
}

impl<K> Merged<K> {
    fn source(&self, unsigned: bool, otherwise: &'static str) -> &'static str {
        if unsigned {
            "none: requests are not signed"
        } else if self.credentials_from_options {
            "the dataset's options"
        } else if self.credentials_from_environment {
            "the environment"
        } else {
            otherwise
        }
    }
}

fn is_aws_credential(key: &Aws) -> bool {
    matches!(
        key,
        Aws::AccessKeyId
            | Aws::SecretAccessKey
            | Aws::Token
            | Aws::SkipSignature
            | Aws::WebIdentityTokenFile
            | Aws::RoleArn
            | Aws::ContainerCredentialsRelativeUri
            | Aws::ContainerCredentialsFullUri
            | Aws::ContainerAuthorizationTokenFile
    )
}

fn s3(
    bucket: &str,
    prefix: &str,
    oss: bool,
    options: &BTreeMap<String, String>,
    connector: &Connector,
) -> Result<Remote, String> {
    let merged = merge("AWS_", options, is_aws_credential)?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        .with_allow_http(true)
        .with_http_connector(connector.clone());
    for (key, value) in &merged.pairs {
        builder = builder.with_config(*key, value);
    }
    let text = |builder: &AmazonS3Builder, key| builder.get_config_value(&key);
    let region = text(&builder, Aws::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = text(&builder, Aws::S3Endpoint).or_else(|| text(&builder, Aws::Endpoint));
    let mut endpoint = endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned());
    let mut virtual_hosted = is_true(text(&builder, Aws::VirtualHostedStyleRequest));
    if oss {
        let style = text(&builder, Aws::VirtualHostedStyleRequest);
        let region = region.strip_prefix("oss-").unwrap_or(&region);
        let given = endpoint
            .take()
            .unwrap_or_else(|| format!("https://oss-{region}.aliyuncs.com"));
        let chose_path_style = style.as_deref() == Some("false");
        virtual_hosted = !chose_path_style && !is_address(&given);
        endpoint = Some(given);
    }
    if virtual_hosted && let Some(given) = endpoint.take() {
        endpoint = Some(with_bucket_host(&given, bucket));
    }
    if let Some(endpoint) = &endpoint {
        // Whatever way the address was given, it is the one that object_store looks at first.
        builder = builder.with_config(Aws::S3Endpoint, endpoint);
    }
    builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    let bucket_endpoint = match (&endpoint, virtual_hosted) {
        (Some(endpoint), true) => endpoint.clone(),
        (Some(endpoint), false) => format!("{endpoint}/{bucket}"),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    };
    let unsigned = is_true(text(&builder, Aws::SkipSignature));
    let payer = is_true(text(&builder, Aws::RequestPayer));
    let store = builder.build().map_err(|error| error.to_string())?;
    let credentials = (!unsigned).then(|| Arc::clone(store.credentials()));
    let client = connector.client();
    Ok(Remote {
        connector: connector.clone(),
        s3: Some(S3::new(
            client,
            &bucket_endpoint,
            region,
            credentials,
            payer,
        )),
        store: Arc::new(store),
        pages: None,
        prefix: prefix.to_owned(),
        endpoint: host_and_port(&bucket_endpoint),
        has_versions: true,
        writes: None,
        listing: None,
        credentials: merged.source(unsigned, "the instance's metadata service"),
    })
}

fn gcs(
    bucket: &str,
    prefix: &str,
    options: &BTreeMap<String, String>,
    connector: &Connector,
) -> Result<Remote, String> {
    let merged = merge("GOOGLE_", options, |key: &Google| {
        matches!(
            key,
            Google::ServiceAccount
                | Google::ServiceAccountKey
                | Google::ApplicationCredentials
                | Google::BearerToken
                | Google::SkipSignature
        )
    })?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        .with_http_connector(connector.clone());
    for (key, value) in &merged.pairs {
        builder = builder.with_config(*key, value);
    }
    let unsigned = is_true(builder.get_config_value(&Google::SkipSignature));
    let base = builder.get_config_value(&Google::BaseUrl);
    let writes = builder.clone().with_http_connector(writing(connector));
    let writes = writes.build().map_err(|error| error.to_string())?;
    let store = Arc::new(builder.build().map_err(|error| error.to_string())?);
    Ok(Remote {
        connector: connector.clone(),
        pages: Some(Arc::clone(&store) as Arc<dyn PaginatedListStore>),
        store,
        s3: None,
        prefix: prefix.to_owned(),
        endpoint: host_and_port(base.as_deref().unwrap_or("https://storage.googleapis.com")),
        has_versions: true,
        writes: Some(Arc::new(writes)),
        listing: None,
        credentials: merged.source(unsigned, "the instance's metadata service"),
    })
}

fn azure(
    container: &str,
    prefix: &str,
    options: &BTreeMap<String, String>,
    connector: &Connector,
) -> Result<Remote, String> {
    let merged = merge("AZURE_", options, |key: &Azure| {
        matches!(
            key,
            Azure::AccessKey
                | Azure::ClientId
                | Azure::ClientSecret
                | Azure::SasKey
                | Azure::Token
                | Azure::FederatedTokenFile
                | Azure::SkipSignature
        )
    })?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_retry(no_retries())
        .with_allow_http(true)
        .with_http_connector(connector.clone());
    for (key, value) in &merged.pairs {
        builder = builder.with_config(*key, value);
    }
    let unsigned = is_true(builder.get_config_value(&Azure::SkipSignature));
    let endpoint = builder.get_config_value(&Azure::Endpoint);
    let account = builder.get_config_value(&Azure::AccountName);
    let endpoint = endpoint.unwrap_or_else(|| {
        let account = account.unwrap_or_default();
        format!("https://{account}.blob.core.windows.net")
    });
    let writes = builder.clone().with_http_connector(writing(connector));
    let writes = writes.build().map_err(|error| error.to_string())?;
    let store = Arc::new(builder.build().map_err(|error| error.to_string())?);
    Ok(Remote {
        connector: connector.clone(),
        pages: Some(Arc::clone(&store) as Arc<dyn PaginatedListStore>),
        store,
        s3: None,
        prefix: prefix.to_owned(),
        endpoint: host_and_port(&endpoint),
        has_versions: true,
        writes: Some(Arc::new(writes)),
        listing: None,
        credentials: merged.source(unsigned, "the managed identity"),
    })
}

fn http(url: &str, connector: &Connector) -> Result<Remote, String> {
    let builder = HttpBuilder::new().with_url(url).with_retry(no_retries());
    let build = |connector: Connector| {
        let store = builder.clone().with_http_connector(connector).build();
        store.map_err(|error| error.to_string())
    };
    let store = Arc::new(build(connector.clone())?);
    let listing = {
        let (builder, connector, otherwise) =
            (builder.clone(), connector.clone(), Arc::clone(&store));
        move |exchange: &Exchange| -> Arc<dyn ObjectStore> {
            let connector = connector.telling(exchange);
            let store = builder.clone().with_http_connector(connector).build();
            // What was built once with the same settings is built again.
            store.map_or_else(
                |_| Arc::clone(&otherwise) as _,
                |store| Arc::new(store) as _,
            )
        }
    };
    Ok(Remote {
        connector: connector.clone(),
        store,
        pages: None,
        s3: None,
        prefix: String::new(),
        endpoint: host_and_port(url),
        has_versions: false,
        writes: None,
        listing: Some(Box::new(listing)),
        credentials: "none: requests are not signed",
    })
}

fn is_true(value: Option<String>) -> bool {
    let value = value.unwrap_or_default().to_ascii_lowercase();
    matches!(value.as_str(), "true" | "1" | "yes" | "on" | "y")
}

/// `HOST:PORT` of a URL, with the port that its scheme implies.
fn host_and_port(url: &str) -> String {
    let host = host_of(url);
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match has_port {
        true => host,
        false if url.starts_with("http://") => format!("{host}:80"),
        false => format!("{host}:443"),
    }
}

/// The authority of a URL, without its userinfo.
fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
        .to_owned()
}

/// Whether the URL's host is an IP address or localhost, which no bucket can be put in front of.
fn is_address(url: &str) -> bool {
    let authority = host_of(url);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok()
}

/// `https://host` as `https://bucket.host`, unless the bucket is in front already.
fn with_bucket_host(endpoint: &str, bucket: &str) -> String {
    if host_of(endpoint).starts_with(&format!("{bucket}.")) {
        return endpoint.to_owned();
    }
    match endpoint.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{bucket}.{rest}"),
        None => format!("https://{bucket}.{endpoint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_goes_in_front_of_the_host_once() {
        let url = "https://oss-cn-hangzhou.aliyuncs.com";
        let with = with_bucket_host(url, "w");
        assert_eq!(with, "https://w.oss-cn-hangzhou.aliyuncs.com");
        assert_eq!(with_bucket_host(&with, "w"), with);
    }

    #[test]
    fn an_address_takes_no_bucket_in_front() {
        assert!(is_address("http://127.0.0.1:9000"));
        assert!(is_address("http://[::1]:9000"));
        assert!(!is_address("https://oss-cn-hangzhou.aliyuncs.com"));
    }

    #[test]
    fn no_userinfo_gets_into_an_endpoint() {
        assert_eq!(host_of("https://user:secret@host:1/a"), "host:1");
    }
}
