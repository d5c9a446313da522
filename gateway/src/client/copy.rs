//! `forebay copy`.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;

use super::warm::{name, path, show};
use super::{Unreachable, finish, good, send};
use crate::access::canonical::UNRESERVED;
use crate::cli::CopyArgs;
use crate::say::say;
use crate::settings::size::shown;

/// `forebay copy`: 0 only once everything is there.
pub async fn copy(args: &CopyArgs) -> ExitCode {
    finish(follow(args).await)
}

async fn follow(args: &CopyArgs) -> Result<()> {
    let encoded = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    let mut target = format!(
        "{}?to={}",
        path("/-/copy", &args.from),
        encoded(&name(&args.to))
    );
    if let Some(glob) = &args.glob {
        target = format!("{target}&glob={}", encoded(glob));
    }
    if let Some(rate) = args.rate {
        target = format!("{target}&rate={rate}");
    }
    if args.dry {
        target.push_str("&dry=true");
    }
    let response = send(&args.client, Method::POST, &target, Bytes::new()).await?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let text = body.collect().await.context("read the gateway's answer")?;
        return good(status, text.to_bytes()).map(|_| ());
    }
    let terminal = std::io::stdout().is_terminal();
    let (mut text, mut last) = (Vec::new(), Value::Null);
    while let Some(frame) = body.frame().await {
        let lost = || Unreachable(args.client.gateway.clone());
        let frame = frame.map_err(|error| anyhow::Error::new(error).context(lost()))?;
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            last = serde_json::from_slice(&line).context("read the gateway's answer")?;
            if !args.client.json {
                show(&progress(args, &last), terminal, last["state"] != "running");
            }
        }
    }
    if args.client.json {
        say!("{last}");
    }
    match last["state"].as_str() {
        Some("done") => Ok(()),
        Some("failed") => bail!("{}", last["error"].as_str().unwrap_or("no reason given")),
        _ => bail!("the gateway broke off; the same copy again goes on"),
    }
}

fn progress(args: &CopyArgs, told: &Value) -> String {
    let number = |field: &str| told[field].as_u64().unwrap_or(0);
    let places = format!("{} to {}", name(&args.from), name(&args.to));
    let state = told["state"].as_str().unwrap_or_default();
    let verb = match (args.dry, state) {
        (true, _) => "to be copied",
        (false, _) => "copied",
    };
    format!(
        "{places} {state} {:.1} %: {} objects, {} {verb}; {} objects, {} there already",
        told["percent"].as_f64().unwrap_or(0.0),
        number("objects"),
        shown(number("bytes")),
        number("objects_there"),
        shown(number("bytes_there")),
    )
}
