//! `forebay revision`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;

use super::{exchange, finish, good};
use crate::access::canonical::UNRESERVED;
use crate::cli::{ClientArgs, RevisionArgs, RevisionVerb};
use crate::say::say;
use crate::settings::size::shown;

/// `forebay revision`: 0 only if what was asked holds.
pub async fn revision(args: &RevisionArgs) -> ExitCode {
    let done = async {
        match &args.verb {
            RevisionVerb::Show { client, dataset } => {
                ask(client, Method::GET, dataset, "", Bytes::new()).await
            }
            RevisionVerb::Clear { client, dataset } => {
                ask(client, Method::DELETE, dataset, "", Bytes::new()).await
            }
            RevisionVerb::Switch {
                client,
                dataset,
                file,
                manifest,
                resident,
            } => {
                let body = match file {
                    Some(file) => std::fs::read(file)
                        .with_context(|| format!("read the manifest in {}", file.display()))?,
                    None => Vec::new(),
                };
                let mut query = Vec::new();
                if let Some(key) = manifest {
                    query.push(format!("manifest={}", utf8_percent_encode(key, UNRESERVED)));
                }
                if *resident {
                    query.push("require=resident".to_owned());
                }
                let query = query.join("&");
                ask(client, Method::POST, dataset, &query, body.into()).await
            }
        }
    };
    finish(done.await)
}

async fn ask(
    client: &ClientArgs,
    method: Method,
    dataset: &str,
    query: &str,
    body: Bytes,
) -> Result<()> {
    let dataset = utf8_percent_encode(dataset, UNRESERVED);
    let mut path = format!("/-/revision/{dataset}");
    if !query.is_empty() {
        path = format!("{path}?{query}");
    }
    let (status, body) = exchange(client, method, &path, body).await?;
    let answer: Value =
        serde_json::from_slice(&good(status, body)?).context("read the gateway's answer")?;
    if client.json {
        say!("{answer}");
        return Ok(());
    }
    for which in ["current", "previous"] {
        let revision = &answer[which];
        match revision["id"].as_str() {
            Some(id) => {
                let bytes = revision["bytes"].as_u64().unwrap_or(0);
                say!("{which} {id}: {} keys, {}", revision["keys"], shown(bytes));
            }
            None => say!("{which} none"),
        }
    }
    if let Some(why) = answer["unread"].as_str() {
        say!("{why}: switch it to a revision, or clear it");
    }
    for member in answer["members"].as_array().into_iter().flatten() {
        let name = member["member"].as_str().unwrap_or_default();
        let word = match member["agrees"].as_bool() {
            Some(true) => "agrees",
            Some(false) => "has another",
            None => "does not answer",
        };
        say!("{name} {word}");
    }
    Ok(())
}
