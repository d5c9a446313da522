//! `forebay flow`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;
use tokio::time::Instant;

use super::warm::{LOOK, RESTART};
use super::{ask, exchange, finish, good, print};
use crate::access::canonical::PATH;
use crate::cli::{ClientArgs, FlowArgs, FlowVerb, RunArgs};
use crate::say::say;

/// The states of a flow that is over.
const OVER: [&str; 3] = ["done", "failed", "cancelled"];

/// `forebay flow`, whichever verb.
pub async fn flow(args: &FlowArgs) -> ExitCode {
    finish(match &args.verb {
        FlowVerb::Run(args) => run(args).await,
        FlowVerb::List(args) => list(args).await,
        FlowVerb::Show(args) => show(&args.client, &args.id).await,
        FlowVerb::Cancel(args) => cancel(&args.client, &args.id).await,
    })
}

async fn run(args: &RunArgs) -> Result<()> {
    let text = text_of(&args.file)?;
    let (status, body) = exchange(&args.client, Method::POST, "/-/flow", text.into()).await?;
    let flow = parsed(&good(status, body)?)?;
    let flow = follow(&args.client, id(&flow)?).await?;
    if args.client.json {
        say!("{flow}");
    }
    if flow["state"] == "done" {
        return Ok(());
    }
    bail!("{}", flow["error"].as_str().unwrap_or("it was cancelled"))
}

async fn list(args: &ClientArgs) -> Result<()> {
    let body = ask(args, Method::GET, "/-/flow").await?;
    if args.json {
        return print(&body);
    }
    let answer = parsed(&body)?;
    say!(
        "{:<32} {:<20} {:<9} {:<20} STEPS",
        "FLOW",
        "NAME",
        "STATE",
        "CREATED"
    );
    for flow in answer["flows"].as_array().into_iter().flatten() {
        let text = |field: &str| flow[field].as_str().unwrap_or("-");
        let steps = flow["steps"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let over = |step: &&Value| !["waiting", "running"].contains(&state(step));
        say!(
            "{:<32} {:<20} {:<9} {:<20} {}/{}",
            text("id"),
            text("name"),
            text("state"),
            text("created"),
            steps.iter().filter(over).count(),
            steps.len(),
        );
    }
    Ok(())
}

async fn show(args: &ClientArgs, id: &str) -> Result<()> {
    let body = ask(args, Method::GET, &path(id)).await?;
    if args.json {
        return print(&body);
    }
    let flow = parsed(&body)?;
    drawn(&flow).iter().for_each(|line| say!("{line}"));
    for step in flow["steps"].as_array().into_iter().flatten() {
        if let Some(output) = step["output"].as_str().filter(|output| !output.is_empty()) {
            say!("\n{} wrote:\n{}", name(step), output.trim_end());
        }
    }
    Ok(())
}

async fn cancel(args: &ClientArgs, id: &str) -> Result<()> {
    let before = parsed(&ask(args, Method::GET, &path(id)).await?)?;
    let body = ask(args, Method::DELETE, &path(id)).await?;
    if args.json {
        return print(&body);
    }
    let was = state(&before);
    if OVER.contains(&was) {
        say!("{id} was {was} before: there was nothing to stop");
        return Ok(());
    }
    say!("{id} is stopped; `forebay flow show {id}` tells how its clean-up goes");
    Ok(())
}

/// Shows how a flow goes until it is over; the flow then.
async fn follow(args: &ClientArgs, id: &str) -> Result<Value> {
    let path = path(id);
    let mut heard = Instant::now();
    let mut screen = Screen::default();
    loop {
        let flow = match exchange(args, Method::GET, &path, Bytes::new()).await {
            Ok((status, body)) => parsed(&good(status, body)?)?,
            Err(_) if heard.elapsed() < RESTART => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        heard = Instant::now();
        if !args.json {
            screen.show(&flow);
        }
        if OVER.contains(&state(&flow)) {
            return Ok(flow);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was shown of a flow so far.
#[derive(Default)]
struct Screen {
    /// Lines on a terminal, which the next ones take the place of.
    lines: usize,
    /// How steps did when they were last told of.
    told: BTreeMap<String, String>,
}

impl Screen {
    /// The graph; where nobody looks at a terminal, a line whenever a step goes on.
    fn show(&mut self, flow: &Value) {
        if !std::io::stdout().is_terminal() {
            for step in flow["steps"].as_array().into_iter().flatten() {
                let (name, state) = (name(step).to_owned(), state(step).to_owned());
                let known = self.told.insert(name, state.clone());
                if state != "waiting" && known.as_ref() != Some(&state) {
                    say!("{}", line(step));
                }
            }
            return;
        }
        let mut out = std::io::stdout();
        // Where nobody reads any more, nothing is written and nothing is wrong.
        if self.lines > 0 {
            let _ = write!(out, "\x1b[{}A", self.lines);
        }
        let lines = drawn(flow);
        for line in &lines {
            let _ = writeln!(out, "\r\x1b[K{line}");
        }
        let _ = out.flush();
        self.lines = lines.len();
    }
}

/// The graph of a flow, a line a step, and how the flow does.
fn drawn(flow: &Value) -> Vec<String> {
    let steps = flow["steps"].as_array().into_iter().flatten();
    let mut lines: Vec<String> = steps.map(line).collect();
    let text = |field: &str| flow[field].as_str().unwrap_or("-");
    let mut last = format!("{} {} {}", text("id"), text("name"), text("state"));
    if let Some(error) = flow["error"].as_str() {
        last = format!("{last}: {error}");
    }
    lines.push(last);
    lines
}

fn line(step: &Value) -> String {
    let mark = match state(step) {
        "done" => "+",
        "running" => ">",
        "failed" => "!",
        "cancelled" => "x",
        "skipped" => "-",
        _ => " ",
    };
    let needs = step["needs"].as_array().into_iter().flatten();
    let needs: Vec<&str> = needs.filter_map(Value::as_str).collect();
    let mut line = format!(
        "{mark} {:<20} {:<7} {:<9}",
        name(step),
        step["kind"].as_str().unwrap_or("-"),
        state(step)
    );
    if !needs.is_empty() {
        line = format!("{line} after {}", needs.join(", "));
    }
    match step["error"].as_str().or(step["detail"].as_str()) {
        Some(why) => format!("{line}: {}", why.replace('\n', " ")),
        None => line,
    }
}

fn name(step: &Value) -> &str {
    step["name"].as_str().unwrap_or("-")
}

fn state(value: &Value) -> &str {
    value["state"].as_str().unwrap_or_default()
}

fn id(flow: &Value) -> Result<&str> {
    flow["id"].as_str().context("the flow has no id")
}

fn path(id: &str) -> String {
    format!("/-/flow/{}", utf8_percent_encode(id, PATH))
}

fn parsed(body: &Bytes) -> Result<Value> {
    serde_json::from_slice(body).context("read the gateway's answer")
}

fn text_of(file: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut text),
        false => std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text)),
    };
    read.with_context(|| format!("read the flow in {}", file.display()))?;
    Ok(text)
}
