//! `forebay warm`, `forebay wait` and `forebay pin`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Unreachable, exchange, finish, good};
use crate::access::canonical::PATH;
use crate::cli::{ClientArgs, PinArgs, Prefix, WaitArgs, WarmArgs};
use crate::say::say;
use crate::settings::size::shown;

/// Objects of one job, where a list names them: the body of a request has its bound.
const AT_ONCE: usize = 20_000;

/// A line of `forebay export-hot`, as far as it says what to bring.
#[derive(Deserialize)]
struct Hot {
    dataset: String,
    key: String,
    #[serde(default)]
    ranges: Vec<String>,
}

/// Between two looks at a job, and at what is resident.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A job goes on after a restart of its gateway: that is waited for.
pub(super) const RESTART: Duration = Duration::from_secs(60);

/// `forebay warm`: 0 only once everything is resident.
pub async fn warm(args: &WarmArgs) -> ExitCode {
    let warmed = async {
        let mut jobs = Vec::new();
        for Wanted { target, named } in &wanted(args)? {
            let body = body(args, named.as_ref())?;
            let path = path("/-/warm", target);
            let taken = exchange(&args.client, Method::POST, &path, body).await?;
            let job: Value = serde_json::from_slice(&good(taken.0, taken.1)?)
                .context("read the gateway's answer")?;
            let id = job["id"].as_str().context("the job has no id")?;
            jobs.push((target.clone(), id.to_owned()));
        }
        let mut failed = Vec::new();
        for (target, id) in &jobs {
            let job = follow(&args.client, target, id).await?;
            if args.client.json {
                say!("{job}");
            }
            if job["state"] != "done" {
                let why = job["error"].as_str().unwrap_or("it was cancelled");
                failed.push(format!("{}: {why}", name(target)));
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => bail!("{}", failed.join("; ")),
        }
    };
    finish(warmed.await)
}

/// `forebay wait`: 0 once everything is resident.
pub async fn wait(args: &WaitArgs) -> ExitCode {
    let mut said = None;
    let waited = async {
        for target in &args.targets {
            said = None;
            wait_for(args, target, &mut said).await?;
        }
        Ok(())
    };
    let waited = match args.timeout {
        None => Some(waited.await),
        Some(timeout) => tokio::time::timeout(timeout, waited).await.ok(),
    };
    finish(waited.unwrap_or_else(|| late(args, said)))
}

/// That what was waited for did not come in time, and how far it was.
fn late(args: &WaitArgs, said: Option<String>) -> Result<()> {
    let timeout = args.timeout.unwrap_or_default();
    let names: Vec<String> = args.targets.iter().map(name).collect();
    let said = said.unwrap_or_else(|| format!("nothing is known of {}", names.join(", ")));
    bail!("after {timeout:?} {said}")
}

/// What is said on the way is in `said`.
async fn wait_for(args: &WaitArgs, target: &Prefix, said: &mut Option<String>) -> Result<()> {
    let mut path = path("/-/resident", target);
    if let Some(tier) = &args.tier {
        path = format!("{path}?tier={tier}");
    }
    loop {
        let (status, body) = match exchange(&args.client, Method::GET, &path, Bytes::new()).await {
            Ok(answer) => answer,
            // It may be about to start.
            Err(error) if error.downcast_ref::<Unreachable>().is_some() => {
                say_once(said, format!("{error:#}"));
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status == StatusCode::OK {
            if args.client.json {
                say!("{answer}");
            } else {
                let bytes = answer["bytes"].as_u64().unwrap_or(0);
                say!("{} is resident: {}", name(target), shown(bytes));
            }
            return Ok(());
        }
        if status != StatusCode::SERVICE_UNAVAILABLE {
            return good(status, body).map(|_| ());
        }
        let percent = answer["percent"].as_f64();
        let word = match percent {
            Some(percent) => {
                let number = |field: &str| answer[field].as_u64().unwrap_or(0);
                let missing = number("bytes").saturating_sub(number("resident_bytes"));
                let name = name(target);
                format!(
                    "{name} is resident to {percent:.1} %: {} are missing",
                    shown(missing)
                )
            }
            None => answer["detail"].as_str().unwrap_or("not yet").to_owned(),
        };
        say_once(said, word);
        tokio::time::sleep(LOOK).await;
    }
}

/// `forebay pin`.
pub async fn pin(args: &PinArgs) -> ExitCode {
    let pinned = async {
        let mut path = path("/-/pin", &args.target);
        if let Some(expires) = &args.expires {
            let expires = utf8_percent_encode(expires, PATH);
            path = format!("{path}?expires={expires}");
        }
        let method = match args.remove {
            true => Method::DELETE,
            false => Method::POST,
        };
        let (status, body) = exchange(&args.client, method, &path, Bytes::new()).await?;
        let answer: Value =
            serde_json::from_slice(&good(status, body)?).context("read the gateway's answer")?;
        if args.client.json {
            say!("{answer}");
            return Ok(());
        }
        let (name, bytes) = (name(&args.target), answer["bytes"].as_u64().unwrap_or(0));
        match (args.remove, answer["expires"].as_str()) {
            (true, _) => say!("{name} is pinned no more: {}", shown(bytes)),
            (false, Some(time)) => say!("{name} is pinned until {time}: {}", shown(bytes)),
            (false, None) => say!("{name} is pinned: {}", shown(bytes)),
        }
        Ok(())
    };
    finish(pinned.await)
}

/// Says on standard error why it waits, once for each reason.
fn say_once(said: &mut Option<String>, word: String) {
    if said.as_ref() != Some(&word) {
        eprintln!("forebay: waiting: {word}");
        *said = Some(word);
    }
}

/// Shows how a job goes until it is over; the job then.
async fn follow(args: &ClientArgs, target: &Prefix, id: &str) -> Result<Value> {
    let terminal = std::io::stdout().is_terminal();
    let path = format!("/-/warm/{id}");
    let mut heard = Instant::now();
    loop {
        let job: Value = match exchange(args, Method::GET, &path, Bytes::new()).await {
            Ok((status, body)) => {
                serde_json::from_slice(&good(status, body)?).context("read the job")?
            }
            Err(_) if heard.elapsed() < RESTART => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        heard = Instant::now();
        let over = ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap_or(""));
        if !args.json {
            show(&progress(target, &job), terminal, over);
        }
        if over {
            return Ok(job);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One line; on a terminal it takes the place of the one before.
pub(super) fn show(line: &str, terminal: bool, last: bool) {
    if !terminal {
        return say!("{line}");
    }
    let end = if last { "\n" } else { "" };
    let mut out = std::io::stdout();
    // Where nobody reads any more, nothing is written and nothing is wrong.
    let _ = write!(out, "\r\x1b[K{line}{end}");
    let _ = out.flush();
}

fn progress(target: &Prefix, job: &Value) -> String {
    let number = |field: &str| job[field].as_u64();
    let bytes = |field: &str| shown(number(field).unwrap_or(0));
    let name = name(target);
    let percent = job["percent"].as_f64().unwrap_or(0.0);
    let state = job["state"].as_str().unwrap_or_default();
    let bar = "#".repeat((percent / 5.0) as usize);
    let mut line = format!(
        "{name} {state} [{bar:<20}] {percent:.1} % {} of {}",
        bytes("resident_bytes"),
        bytes("bytes")
    );
    if let Some(rate) = number("rate") {
        line = format!("{line}, {}/s", shown(rate));
    }
    if let Some(eta) = number("eta_seconds").filter(|_| state != "done") {
        line = format!("{line}, {eta} s left");
    }
    line
}

pub(super) fn name(target: &Prefix) -> String {
    format!("{}/{}", target.dataset, target.prefix)
}

pub(super) fn path(route: &str, target: &Prefix) -> String {
    let dataset = utf8_percent_encode(&target.dataset, PATH);
    let prefix = utf8_percent_encode(&target.prefix, PATH);
    format!("{route}/{dataset}/{prefix}")
}

/// `forebay export-hot`: a line an object, to be warmed from.
pub async fn export_hot(args: &ClientArgs) -> ExitCode {
    let exported = async {
        let (status, body) = exchange(args, Method::GET, "/-/hot", Bytes::new()).await?;
        let lines = good(status, body)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&lines)
            .and_then(|()| out.flush())
            .context("write the list")
    };
    finish(exported.await)
}

/// What one job is to warm.
struct Wanted {
    target: Prefix,
    /// The field of the request that names what of it: keys, or keys and their ranges. `None`: all.
    named: Option<(&'static str, Value)>,
}

/// What is to be warmed, job by job.
fn wanted(args: &WarmArgs) -> Result<Vec<Wanted>> {
    let Some(file) = args.from.as_deref() else {
        let all = args.targets.iter().cloned();
        let all = all.map(|target| Wanted {
            target,
            named: None,
        });
        return Ok(all.collect());
    };
    let lines = lines_of(file)?;
    if !args.targets.is_empty() {
        let below = args.targets.iter().cloned();
        let below = below.map(|target| Wanted {
            target,
            named: Some(("keys", json!(lines))),
        });
        return Ok(below.collect());
    }
    let mut datasets: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (number, text) in (1..).zip(&lines) {
        let line: Hot = serde_json::from_str(text).with_context(|| {
            format!(
                "line {number} of {} is none of `forebay export-hot`; for a list of keys name the DATASET[/PREFIX] that \
                 they are below",
                file.display()
            )
        })?;
        let part = json!({ "key": line.key, "ranges": line.ranges });
        datasets.entry(line.dataset).or_default().push(part);
    }
    let jobs = datasets.into_iter().flat_map(|(dataset, parts)| {
        let jobs: Vec<Value> = parts.chunks(AT_ONCE).map(|parts| json!(parts)).collect();
        jobs.into_iter().map(move |parts| Wanted {
            target: Prefix {
                dataset: dataset.clone(),
                prefix: String::new(),
            },
            named: Some(("parts", parts)),
        })
    });
    Ok(jobs.collect())
}

/// The lines of a file that are not empty.
fn lines_of(file: &Path) -> Result<Vec<String>> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.with_context(|| format!("read the keys in {}", file.display()))?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    if keys.is_empty() {
        bail!("{} names no keys: write one a line", file.display());
    }
    Ok(keys)
}

fn body(args: &WarmArgs, wanted: Option<&(&'static str, Value)>) -> Result<Bytes> {
    let mut body = serde_json::Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    if let Some((field, names)) = wanted {
        put(field, Some(names.clone()));
    }
    put("index", (!args.index.is_empty()).then(|| json!(args.index)));
    put("glob", args.glob.as_ref().map(|glob| json!(glob)));
    put("tier", args.tier.as_ref().map(|tier| json!(tier)));
    put("copies", args.copies.as_ref().map(|copies| json!(copies)));
    put("rate", args.rate.map(|rate| json!(rate)));
    put("priority", args.priority.map(|priority| json!(priority)));
    let deadline = args
        .deadline
        .map(|time| json!(format!("{}ms", time.as_millis())));
    put("deadline", deadline);
    put("verify", args.verify.then_some(json!(true)));
    let pin = match &args.expires {
        Some(expires) => json!({ "expires": expires }),
        None => json!(true),
    };
    put("pin", args.pin.then_some(pin));
    serde_json::to_vec(&body)
        .map(Bytes::from)
        .context("write the request")
}
