//! The client side of `/-/`: what `forebay status`, `datasets`, `ring`, `plan`, `warm`, `wait`, `flow`, `copy`,
//! `revision`, `drain` and `purge` ask and print.

mod copy;
mod flow;
mod revision;
mod warm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use forebay_storage::origin::{self, ClientTls, HttpClient, HttpRequestBody, HttpResponse};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;

pub use self::copy::copy;
pub use self::flow::flow;
pub use self::revision::revision;
pub use self::warm::{export_hot, pin, wait, warm};

use crate::access::canonical::{PATH, sha256_hex};
use crate::access::sign::{Signer, Unsigned};
use crate::cli::{ClientArgs, PlanArgs, PurgeArgs};
use crate::say::say;
use crate::settings::size::shown;

/// `forebay datasets`: one line a dataset.
pub async fn datasets(args: &ClientArgs) -> ExitCode {
    finish(print_datasets(args).await)
}

/// `forebay status`: whether the gateway is ready, then its datasets and who is in its fleet.
pub async fn status(args: &ClientArgs) -> ExitCode {
    let status = async {
        let ready = ask(args, Method::GET, "/-/readyz").await.is_ok();
        if !args.json {
            let word = if ready { "ready" } else { "not ready" };
            say!("{} is {word}", args.gateway);
        }
        print_datasets(args).await?;
        if !args.json {
            print_ring(args, true).await?;
        }
        if !ready {
            bail!("the gateway is not ready");
        }
        Ok(())
    };
    finish(status.await)
}

/// `forebay ring`: one line a member.
pub async fn ring(args: &ClientArgs) -> ExitCode {
    finish(print_ring(args, false).await)
}

/// `forebay plan`: one line an extent.
pub async fn plan(args: &PlanArgs) -> ExitCode {
    let plan = async {
        let dataset = utf8_percent_encode(&args.target.dataset, PATH);
        let key = utf8_percent_encode(&args.target.key, PATH);
        let body = ask(
            &args.client,
            Method::GET,
            &format!("/-/plan/{dataset}/{key}"),
        )
        .await?;
        if args.client.json {
            return print(&body);
        }
        let answer: Value = serde_json::from_slice(&body).context("read the gateway's answer")?;
        say!("{:>14} {:>14}  {:<20} URL", "FIRST", "LAST", "MEMBER");
        for extent in answer["extents"].as_array().into_iter().flatten() {
            say!(
                "{:>14} {:>14}  {:<20} {}",
                extent["first"].as_u64().unwrap_or(0),
                extent["last"].as_u64().unwrap_or(0),
                extent["member"].as_str().unwrap_or("-"),
                extent["url"].as_str().unwrap_or("-"),
            );
        }
        Ok(())
    };
    finish(plan.await)
}

/// `forebay drain`.
pub async fn drain(args: &ClientArgs) -> ExitCode {
    let drain = async {
        let body = ask(args, Method::POST, "/-/drain").await?;
        if args.json {
            return print(&body);
        }
        say!("{} is draining", args.gateway);
        Ok(())
    };
    finish(drain.await)
}

async fn print_ring(args: &ClientArgs, only_a_fleet: bool) -> Result<()> {
    let body = ask(args, Method::GET, "/-/ring").await?;
    if args.json {
        return print(&body);
    }
    let answer: Value = serde_json::from_slice(&body).context("read the gateway's answer")?;
    let Some(fleet) = answer["fleet"].as_str() else {
        if !only_a_fleet {
            say!("a fleet of one: there is no [fleet] in its settings");
        }
        return Ok(());
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let epoch = text(&answer["epoch"]);
    say!("fleet {fleet}, epoch {epoch}");
    say!(
        "{:<20} {:<9} {:<7} {:>6} {:>7} {:<16} {:<22} CLIENTS",
        "MEMBER",
        "STATE",
        "ROLE",
        "WEIGHT",
        "SHARE",
        "ZONE",
        "ADDRESS"
    );
    for member in answer["members"].as_array().into_iter().flatten() {
        say!(
            "{:<20} {:<9} {:<7} {:>6} {:>6.1}% {:<16} {:<22} {}",
            text(&member["name"]),
            text(&member["state"]),
            text(&member["role"]),
            member["weight"].as_u64().unwrap_or(0),
            member["share"].as_f64().unwrap_or(0.0) * 100.0,
            text(&member["zone"]),
            text(&member["address"]),
            text(&member["client_url"]),
        );
    }
    Ok(())
}

/// `forebay purge`.
pub async fn purge(args: &PurgeArgs) -> ExitCode {
    let purge = async {
        let dataset = utf8_percent_encode(&args.target.dataset, PATH);
        let key = utf8_percent_encode(&args.target.key, PATH);
        let part = [("tier", &args.tier), ("version", &args.version)];
        let part = part.into_iter().filter_map(|(name, value)| {
            let value = utf8_percent_encode(value.as_ref()?, PATH);
            Some(format!("{name}={value}"))
        });
        let part: Vec<String> = part.collect();
        let mut path = format!("/-/purge/{dataset}/{key}");
        if !part.is_empty() {
            path = format!("{path}?{}", part.join("&"));
        }
        let body = ask(&args.client, Method::POST, &path).await?;
        if args.client.json {
            return print(&body);
        }
        let answer: Value = serde_json::from_slice(&body).context("read the gateway's answer")?;
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        say!(
            "purged {} blocks, {}",
            number("blocks"),
            shown(number("bytes"))
        );
        let absent = answer["absent_members"].as_array();
        let absent: Vec<&str> = absent
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !absent.is_empty() {
            let absent = absent.join(", ");
            bail!("these members did not answer and may hold it still: {absent}");
        }
        Ok(())
    };
    finish(purge.await)
}

fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn print_datasets(args: &ClientArgs) -> Result<()> {
    let body = ask(args, Method::GET, "/-/datasets").await?;
    if args.json {
        return print(&body);
    }
    let answer: Value = serde_json::from_slice(&body).context("read the gateway's answer")?;
    let datasets = answer["datasets"].as_array().cloned().unwrap_or_default();
    say!(
        "{:<20} {:<8} {:>10} {:>12} {:>10} {:>7}  ORIGIN",
        "DATASET",
        "ORIGIN",
        "CACHED",
        "READ",
        "REQUESTS",
        "HITS"
    );
    for dataset in datasets {
        let hits = dataset["hit_ratio"].as_f64();
        say!(
            "{:<20} {:<8} {:>10} {:>12} {:>10} {:>7}  {}",
            dataset["name"].as_str().unwrap_or_default(),
            dataset["origin_state"].as_str().unwrap_or_default(),
            shown(dataset["resident_bytes"].as_u64().unwrap_or(0)),
            shown(dataset["origin_bytes_read"].as_u64().unwrap_or(0)),
            dataset["origin_requests"].as_u64().unwrap_or(0),
            hits.map_or("-".to_owned(), |hits| format!("{:.1}%", hits * 100.0)),
            dataset["origin"].as_str().unwrap_or_default(),
        );
    }
    Ok(())
}

fn print(body: &Bytes) -> Result<()> {
    say!("{}", String::from_utf8_lossy(body));
    Ok(())
}

/// The way to the gateway, which may have a certificate that no system knows, and want ours.
fn transport(args: &ClientArgs) -> Result<HttpClient> {
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let tls = ClientTls {
        authorities: args.ca.as_ref().map(read).transpose()?,
        identity: match (&args.cert, &args.key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        },
    };
    if tls.authorities.is_none() && tls.identity.is_none() {
        return origin::transport().context("prepare a connection");
    }
    origin::transport_with(&tls).context("use the files of --ca, --cert and --key")
}

/// The `Host` that is sent: with a port only if it is not the scheme's own (RFC 9110 §7.2).
fn host(uri: &Uri) -> String {
    let name = uri.host().unwrap_or_default();
    let own = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    match uri.port_u16().filter(|port| *port != own) {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

/// What a gateway could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("reach the gateway at {0}; is it running? name another with --gateway")]
struct Unreachable(String);

/// Asks the gateway; an answer other than 2xx is an error that says what the gateway said.
async fn ask(args: &ClientArgs, method: Method, path: &str) -> Result<Bytes> {
    let (status, body) = exchange(args, method, path, Bytes::new()).await?;
    good(status, body)
}

/// The body of an answer that is 2xx; of any other, what the gateway says is wrong.
fn good(status: StatusCode, body: Bytes) -> Result<Bytes> {
    if status.is_success() {
        return Ok(body);
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("no reason given");
    bail!("the gateway answered {status}: {detail}")
}

/// Sends a request, and has all of its answer.
async fn exchange(
    args: &ClientArgs,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes)> {
    let response = send(args, method, path, body).await?;
    let status = response.status();
    let body = response.into_body().collect().await;
    let unreachable = || Unreachable(args.gateway.clone());
    let body = body.map_err(|error| anyhow::Error::new(error).context(unreachable()))?;
    Ok((status, body.to_bytes()))
}

/// Sends a request to the gateway, in the name of the access key that the environment holds, if it holds one. The
/// error of a gateway that gives no answer is caused by [`Unreachable`].
async fn send(args: &ClientArgs, method: Method, path: &str, body: Bytes) -> Result<HttpResponse> {
    let url = format!("{}{path}", args.gateway);
    let transport = transport(args)?;
    let mut request = Request::builder()
        .method(method.clone())
        .uri(&url)
        .header(header::ACCEPT, "application/json");
    if let Some(signer) = Signer::of_environment(|name| std::env::var(name).ok()) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let uri: Uri = url.parse().with_context(|| format!("ask {url}"))?;
        let unsigned = Unsigned {
            method: method.as_str(),
            // What the connection sends as Host: the port only if it is not the scheme's own.
            host: &host(&uri),
            path,
            query,
        };
        for (name, value) in signer.headers(&unsigned, &sha256_hex(&body), SystemTime::now()) {
            request = request.header(name, value);
        }
    }
    let request = request
        .body(HttpRequestBody::from(body))
        .with_context(|| format!("ask {url}"))?;
    let unreachable = || Unreachable(args.gateway.clone());
    let response = transport.execute(request).await;
    response.map_err(|error| anyhow::Error::new(error).context(unreachable()))
}
