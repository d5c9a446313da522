//! Requests to the URLs that the settings allow: short ones, each answered once, whose redirects are not followed.

use std::path::PathBuf;
use std::time::Duration;

use forebay_storage::origin::{self, ClientTls, HttpClient, HttpRequestBody};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use crate::settings::KubernetesSettings;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are looked at.
const LOOKED_AT: usize = 1 << 10;

/// Whoever asks.
#[derive(Debug)]
pub struct Asker {
    transport: HttpClient,
    kubernetes: Option<Kubernetes>,
}

#[derive(Debug)]
struct Kubernetes {
    transport: HttpClient,
    token: Option<PathBuf>,
}

/// An answer, as far as it is looked at.
struct Answer {
    status: StatusCode,
    body: String,
}

impl Asker {
    /// One that may ask Kubernetes too, as these settings say. Blocks on the disk.
    ///
    /// # Errors
    /// If there are no sockets to be had, or the authority's file can't be used.
    pub fn new(kubernetes: Option<&KubernetesSettings>) -> std::io::Result<Self> {
        let kubernetes = kubernetes.map(|settings| {
            let transport = match &settings.ca {
                None => origin::transport()?,
                Some(file) => origin::transport_with(&ClientTls {
                    authorities: Some(std::fs::read(file)?),
                    identity: None,
                })?,
            };
            Ok::<_, std::io::Error>(Kubernetes {
                transport,
                token: settings.token.clone(),
            })
        });
        Ok(Self {
            transport: origin::transport()?,
            kubernetes: kubernetes.transpose()?,
        })
    }

    /// The status that a GET is answered with.
    ///
    /// # Errors
    /// If it is not answered.
    pub async fn status(&self, url: &str) -> Result<u16, String> {
        let request = request(Method::GET, url);
        let answer = ask(&self.transport, request, HttpRequestBody::empty(), url).await?;
        Ok(answer.status.as_u16())
    }

    /// Posts a document.
    ///
    /// # Errors
    /// If the answer is not 2xx.
    pub async fn post(&self, url: &str, document: &Value) -> Result<(), String> {
        let request = request(Method::POST, url).header(header::CONTENT_TYPE, "application/json");
        let body = HttpRequestBody::from(document.to_string());
        good(&ask(&self.transport, request, body, url).await?, url)
    }

    /// Has Kubernetes run so many replicas of what this scale subresource is of.
    ///
    /// # Errors
    /// If the token can't be read, or the answer is not 2xx.
    pub async fn scale(&self, url: &str, replicas: u32) -> Result<(), String> {
        let kubernetes = self
            .kubernetes
            .as_ref()
            .ok_or("the settings name no Kubernetes")?;
        let mut request = request(Method::PATCH, url)
            .header(header::CONTENT_TYPE, "application/merge-patch+json");
        if let Some(file) = &kubernetes.token {
            // It is replaced every hour.
            let token = tokio::fs::read_to_string(file).await;
            let token =
                token.map_err(|error| format!("{} can't be read: {error}", file.display()))?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let patch = json!({ "spec": { "replicas": replicas } });
        let body = HttpRequestBody::from(patch.to_string());
        good(&ask(&kubernetes.transport, request, body, url).await?, url)
    }
}

fn request(method: Method, url: &str) -> http::request::Builder {
    Request::builder().method(method).uri(url)
}

async fn ask(
    transport: &HttpClient,
    request: http::request::Builder,
    body: HttpRequestBody,
    url: &str,
) -> Result<Answer, String> {
    let place = place(url);
    let request = request
        .body(body)
        .map_err(|_| format!("{place} can't be asked"))?;
    let asked = async {
        let response = transport.execute(request).await;
        // What a transport says may hold the whole URL, and a secret in its query.
        let response = response.map_err(|_| format!("{place} can't be reached"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LOOKED_AT)
            .collect()
            .await;
        let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        Ok(Answer {
            status,
            // One that is longer, or broke off, says nothing that is needed.
            body: body.unwrap_or_default(),
        })
    };
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{place} did not answer in {} s", LIMIT.as_secs())),
    }
}

fn good(answer: &Answer, url: &str) -> Result<(), String> {
    if answer.status.is_success() {
        return Ok(());
    }
    let (place, status) = (place(url), answer.status.as_u16());
    match answer.body.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Err(format!("{place} answered {status}: {line}")),
        _ => Err(format!("{place} answered {status}")),
    }
}

/// The URL without its query and without a user, either of which may be a secret.
pub(super) fn place(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let (scheme, rest) = match url.split_once("//") {
        Some((scheme, rest)) => (format!("{scheme}//"), rest),
        None => (String::new(), url),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn what_may_be_a_secret_in_a_url_is_not_told() {
        for (url, told) in [
            ("https://h:1/a/b?token=t", "https://h:1/a/b"),
            ("https://me:t@h/a", "https://h/a"),
            ("https://h?t", "https://h"),
            ("h/a#t", "h/a"),
            ("//me@t@h/a@b", "//h/a@b"),
            ("", ""),
        ] {
            assert_eq!(place(url), told);
        }
    }
}
