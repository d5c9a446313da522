//! Running a program: its arguments as they are and never a shell, none of our environment, and its end when its step's is.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::Told;
use super::record::Process;

/// What is kept of what a program wrote: its end.
const KEPT: usize = 4 << 10;

/// Where programs look for others. Nothing of the gateway's own environment is theirs: credentials are in it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long what a program wrote last is waited for: what it left behind may hold the pipes open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A group of processes, killed with this unless they have ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs a program to its end. If the future is dropped before, the program and all that it began in its group are
/// killed.
///
/// # Errors
/// If it can't be begun, or ends otherwise than with 0.
pub async fn run(command: &[String], told: &Told) -> Result<(), String> {
    let [program, arguments @ ..] = command else {
        return Err("there is no program".into());
    };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("FOREBAY_FLOW", told.flow_id())
        .env("FOREBAY_STEP", told.step_name())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| format!("{program} can't be run: {error}"))?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let mut group = Group(pid);
    if let Some(pid) = pid {
        told.process(pid.as_raw_pid(), began(pid).unwrap_or_default());
    }
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut tail = VecDeque::new();
    let mut words = Box::pin(listen(out, err, &mut tail, told));
    let mut heard = false;
    let status = tokio::select! {
        status = child.wait() => status,
        () = &mut words => {
            heard = true;
            child.wait().await
        }
    };
    group.0 = None;
    if !heard {
        let _ = tokio::time::timeout(LAST_WORDS, &mut words).await;
    }
    drop(words);
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {}{}", ending(status), last_line(&tail))),
        Err(error) => Err(format!("how {program} ended is not known: {error}")),
    }
}

/// Kills the group of a process that an earlier run of this gateway began, if it is still that one.
pub fn kill_left(process: &Process) {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return;
    };
    if began(pid).is_some_and(|began| began == process.started) {
        tracing::info!(
            pid = process.pid,
            "a program that an earlier run left behind is killed"
        );
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// When a process began, as the kernel counts (proc_pid_stat(5), field 22).
pub(super) fn began(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // Its name stands in brackets and may hold spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended otherwise than well".into(),
    }
}

fn last_line(tail: &VecDeque<u8>) -> String {
    let text = text(tail);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(String::new, |line| format!(": {}", line.trim()))
}

fn text(tail: &VecDeque<u8>) -> String {
    let bytes: Vec<u8> = tail.iter().copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Keeps the end of what is written until both pipes are closed.
async fn listen<A, B>(mut out: Option<A>, mut err: Option<B>, tail: &mut VecDeque<u8>, told: &Told)
where
    A: AsyncRead + Unpin,
    B: AsyncRead + Unpin,
{
    let (mut first, mut second) = ([0; 1024], [0; 1024]);
    while out.is_some() || err.is_some() {
        let more = tokio::select! {
            read = from(&mut out, &mut first) => &first[..read],
            read = from(&mut err, &mut second) => &second[..read],
        };
        tail.extend(more);
        tail.drain(..tail.len().saturating_sub(KEPT));
        told.output(text(tail));
    }
}

/// Bytes read from a pipe that is open; at its end it is closed.
async fn from(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    let Some(open) = pipe else {
        return std::future::pending().await;
    };
    let read = open.read(buffer).await.unwrap_or(0);
    if read == 0 {
        *pipe = None;
    }
    read
}
