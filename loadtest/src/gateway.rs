//! A real `forebay serve` process: started with a settings file, asked, stopped, and cleaned up after.

mod metrics;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

pub use self::metrics::Metrics;
use crate::client::{Connection, Route};

/// The line on standard output that says where the gateway listens, and that it is ready.
const LISTENING: &str = "listening on ";

/// From the start to that line: the demo aside, a gateway has nothing to do before it.
const START: Duration = Duration::from_secs(20);

/// From SIGTERM to the exit: the default `stop_after` is 10 s.
const STOP: Duration = Duration::from_secs(15);

/// The same when the handle is dropped, where nobody waits for bodies to end.
const DROP: Duration = Duration::from_millis(500);

/// How to start a gateway. Without settings no file is given to it.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The program; `None`: see [`program`].
    pub program: Option<PathBuf>,
    /// The text of the settings file.
    pub settings: Option<String>,
    /// More arguments after `serve --config FILE --listen 127.0.0.1:0 --data-dir DIR`.
    pub arguments: Vec<OsString>,
    /// Variables added to the environment.
    pub environment: Vec<(OsString, OsString)>,
    /// How to ask a gateway whose settings have a `[tls]`.
    pub tls: Option<Arc<ClientConfig>>,
}

/// The program to run: `given`, else `$FOREBAY_BIN`, else `forebay` beside the running program (or one directory
/// up, where cargo puts it for tests).
///
/// # Errors
/// There is no such file; the message says how to name or build one.
pub fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let named = given
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("FOREBAY_BIN").map(PathBuf::from));
    if let Some(path) = named {
        if !path.is_file() {
            bail!(
                "{} is not a file; build it with `cargo build -p forebay-gateway`",
                path.display()
            );
        }
        return Ok(path);
    }
    let running = std::env::current_exe().context("find the running program")?;
    let found = running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("forebay"));
    found.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        anyhow!(
            "no `forebay` beside {}; build it in the same profile, or give --forebay PATH or FOREBAY_BIN",
            running.display()
        )
    })
}

/// A running gateway. Dropping it stops the process and removes its directory.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    pid: Pid,
    /// `http://HOST:PORT`, or with https.
    url: String,
    tls: Option<Arc<ClientConfig>>,
    directory: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    /// Starts a gateway on a free port of 127.0.0.1 with a data directory of its own, and waits until it is ready.
    ///
    /// # Errors
    /// There is no program, or it ends or says nothing in time; the message then ends with its standard error.
    pub async fn start(launch: &Launch) -> anyhow::Result<Self> {
        let program = program(launch.program.as_deref())?;
        let directory = fresh_directory()?;
        let started = Self::launch(&program, launch, &directory).await;
        if started.is_err() {
            // What failed matters more than a directory left behind.
            let _ = fs::remove_dir_all(&directory);
        }
        started
    }

    async fn launch(program: &Path, launch: &Launch, directory: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg("serve");
        if let Some(settings) = &launch.settings {
            let file = directory.join("forebay.toml");
            fs::write(&file, settings).context("write settings file")?;
            command.arg("--config").arg(file);
        }
        let errors =
            File::create(directory.join("stderr")).context("create file for standard error")?;
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory.join("data"))
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .context("read process id")?;
        let stdout = child.stdout.take().context("take standard output")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (found, listening) = oneshot::channel();
        tokio::spawn(follow(stdout, Arc::clone(&lines), found));
        // The sender is dropped when standard output ends, so a gateway that ends early is not waited for.
        let Ok(Ok(url)) = timeout(START, listening).await else {
            let ended = child.try_wait().ok().flatten();
            let how = ended.map_or_else(
                || format!("is not ready after {START:?}"),
                |status| format!("ended: {status}"),
            );
            bail!(
                "forebay serve {how}; its standard error:\n{}",
                tail(directory)
            );
        };
        Ok(Self {
            child,
            pid,
            url,
            tls: launch.tls.clone(),
            directory: directory.to_owned(),
            lines,
        })
    }

    /// Ends it at once, as a crash would (SIGKILL).
    ///
    /// # Errors
    /// Its end can't be waited for.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill gateway")
    }

    /// Starts it again over the directory it had, once it was killed; says how long that took.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self, launch: &Launch) -> anyhow::Result<Duration> {
        let program = program(launch.program.as_deref())?;
        let begun = tokio::time::Instant::now();
        let again = Self::launch(&program, launch, &self.directory).await?;
        let took = begun.elapsed();
        let mut gone = std::mem::replace(self, again);
        // The directory is the new one's by now.
        gone.directory = PathBuf::new();
        Ok(took)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// `http://HOST:PORT`, or `https://HOST:PORT` where it speaks TLS.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// `http://HOST:PORT/DATASET`: what keys are appended to.
    pub fn dataset(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        self.url
            .split_once("://")
            .map_or(&*self.url, |(_, authority)| authority)
    }

    /// Seconds of CPU that the process has used, of all its threads; `None` once it has ended.
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(self.pid())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The lines of its standard output so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its standard error so far: at most the last 16 KiB.
    pub fn log(&self) -> String {
        tail(&self.directory)
    }

    /// The most memory the process has held, in bytes: `VmHWM` of `/proc`. `None` once it has ended.
    pub fn peak_memory(&self) -> Option<u64> {
        peak_memory(self.pid())
    }

    /// GETs a path and gives status and body.
    ///
    /// # Errors
    /// No whole answer came.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        self.ask(Method::GET, path).await
    }

    /// POSTs nothing to a path and gives the status.
    ///
    /// # Errors
    /// No whole answer came.
    pub async fn post(&self, path: &str) -> anyhow::Result<StatusCode> {
        Ok(self.ask(Method::POST, path).await?.0)
    }

    /// Sends a request without a body and gives status and body.
    ///
    /// # Errors
    /// No whole answer came.
    pub async fn ask(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let route = Route {
            tls: self.tls.clone(),
            ..Route::default()
        };
        exchange(self.authority(), &route, method, path, Bytes::new()).await
    }

    /// The metrics now.
    ///
    /// # Errors
    /// `/-/metrics` does not answer with 200 and text.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let (status, body) = self.get("/-/metrics").await?;
        if status != StatusCode::OK {
            bail!("/-/metrics answers {status}");
        }
        Ok(Metrics::new(
            String::from_utf8(body.to_vec()).context("read metrics")?,
        ))
    }

    /// Stops it by SIGTERM and waits for its end.
    ///
    /// # Errors
    /// It does not end in time; it is killed then.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        kill_process(self.pid, Signal::TERM).context("send SIGTERM")?;
        match timeout(STOP, self.child.wait()).await {
            Ok(status) => status.context("wait for gateway"),
            Err(_) => bail!(
                "forebay serve does not stop within {STOP:?}; its standard error:\n{}",
                self.log()
            ),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !self.ends_within(Duration::ZERO) {
            // While the child has not been waited for, the id is still its own.
            let _ = kill_process(self.pid, Signal::TERM);
        }
        if !self.ends_within(DROP) {
            // A process that has just ended cannot be killed, and that is all that can go wrong.
            let _ = self.child.start_kill();
            self.ends_within(DROP);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Gateway {
    /// Waits without a runtime, which may be gone when a handle is dropped.
    #[expect(
        clippy::disallowed_methods,
        reason = "a drop cannot await, and the wait is short and bounded"
    )]
    fn ends_within(&mut self, time: Duration) -> bool {
        let step = Duration::from_millis(5);
        let mut left = time;
        while matches!(self.child.try_wait(), Ok(None)) {
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(step);
            left = left.saturating_sub(step);
        }
        true
    }
}

/// The most memory that a process has held, in bytes: `VmHWM` of `/proc`. `None` once it has ended.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

/// The memory that a process holds now, in bytes. `None` once it has ended.
pub(crate) fn resident_memory(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

/// The files that a process has open now. `None` once it has ended.
pub(crate) fn open_files(pid: u32) -> Option<usize> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()
        .map(Iterator::count)
}

/// The threads of a process now. `None` once it has ended.
pub(crate) fn threads(pid: u32) -> Option<usize> {
    status(pid, "Threads:")?.parse().ok()
}

fn memory(pid: u32, field: &str) -> Option<u64> {
    let kib: u64 = status(pid, field)?.strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// A field of proc(5)'s `status`.
fn status(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().to_owned())
}

/// One request with this body, and its whole answer, on a connection of its own.
pub(crate) async fn exchange(
    authority: &str,
    route: &Route,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let mut connection = Connection::open(authority, route)
        .await
        .map_err(|error| anyhow!("connect to gateway: {error}"))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        // What `/-/` answers as text or as JSON, a program wants as JSON.
        .header(header::ACCEPT, "application/json")
        .body(Full::new(body))
        .context("make request")?;
    let response = connection.send(request).await.context("send request")?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .context("read answer")?
        .to_bytes();
    Ok((status, body))
}

/// Keeps the pipe empty and its lines; reports the address once.
async fn follow(
    stdout: ChildStdout,
    lines: Arc<Mutex<Vec<String>>>,
    found: oneshot::Sender<String>,
) {
    let mut found = Some(found);
    let mut reader = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        let authority = line.strip_prefix(LISTENING).map(str::to_owned);
        lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
        if let Some(authority) = authority
            && let Some(found) = found.take()
        {
            // Nobody waits any more: the start was given up.
            let _ = found.send(authority);
        }
    }
}

/// Seconds of CPU that a process has used, of all its threads (proc(5), `stat`): Linux counts them
/// in hundredths whatever its clock.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / 100.0)
}

fn fresh_directory() -> anyhow::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "forebay-loadtest-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}

fn tail(directory: &Path) -> String {
    let text = fs::read(directory.join("stderr")).unwrap_or_default();
    let from = text.len().saturating_sub(16 << 10);
    String::from_utf8_lossy(&text[from..]).into_owned()
}

#[cfg(test)]
mod tests;
