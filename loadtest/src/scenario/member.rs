//! A gateway, or what stands in for one, as a process in a namespace.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::client::Route;
use crate::gateway::{self, Metrics, exchange};
use crate::namespace::Namespace;

/// From the start to "listening on".
const START: Duration = Duration::from_secs(30);

/// From SIGTERM to the end: bodies that still stream are cut after 1 s, as its settings say.
const STOP: Duration = Duration::from_secs(10);

/// For one request of the control routes.
const CONTROL: Duration = Duration::from_secs(10);

/// A running gateway. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Member {
    child: Child,
    namespace: Namespace,
    directory: PathBuf,
    /// Kept so that its standard output stays open.
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Member {
    /// Starts `forebay serve` with these settings, its data below `directory`; it is not ready yet.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) async fn start(
        program: &Path,
        namespace: &Namespace,
        directory: PathBuf,
        settings: &str,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let file = directory.join("forebay.toml");
        fs::write(&file, settings).context("write settings file")?;
        let mut command = Command::new(program);
        command.args(["serve", "--config"]).arg(file);
        Self::spawn(command, namespace, directory).await
    }

    /// Starts any server.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) async fn spawn(
        mut command: Command,
        namespace: &Namespace,
        directory: PathBuf,
    ) -> anyhow::Result<Self> {
        let errors = File::options()
            .create(true)
            .append(true)
            .open(directory.join("stderr"))
            .context("create file for standard error")?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true);
        let program = command.as_std().get_program().to_owned();
        let mut child = namespace
            .spawn(command)
            .await
            .with_context(|| format!("start {}", program.display()))?;
        let lines = child
            .stdout
            .take()
            .map(|stdout| BufReader::new(stdout).lines());
        Ok(Self {
            child,
            namespace: namespace.clone(),
            directory,
            lines,
        })
    }

    /// Waits for the line that says that it serves.
    ///
    /// # Errors
    /// It ends, or does not say so in time; the message ends with its standard error.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let Some(lines) = &mut self.lines else {
            bail!("its standard output was not kept");
        };
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("listening on ") {
                    return Ok(());
                }
            }
            bail!("it ended")
        };
        match timeout(START, listening).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => bail!(
                "a gateway is not ready: {error:#}; its log:\n{}",
                self.log()
            ),
            Err(_) => bail!(
                "a gateway is not ready in {START:?}; its log:\n{}",
                self.log()
            ),
        }
    }

    /// Waits until it takes connections, for servers that say nothing.
    ///
    /// # Errors
    /// It does not in time.
    pub(crate) async fn listens(&self) -> anyhow::Result<()> {
        let taken = async {
            while self.namespace.connect(local()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(START, taken)
            .await
            .with_context(|| format!("a server does not listen; its log:\n{}", self.log()))
    }

    /// Asks for a path from its own host, so that every route is open; where there is a choice, for JSON.
    ///
    /// # Errors
    /// No whole answer came in time.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        self.tell(method, path, Bytes::new()).await
    }

    /// The same with a body.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn tell(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (authority, route) = (local().to_string(), Route::within(&self.namespace));
        let asked = Box::pin(exchange(&authority, &route, method, path, body));
        timeout(CONTROL, asked)
            .await
            .with_context(|| format!("{path}: no answer in {CONTROL:?}"))?
            .with_context(|| path.to_owned())
    }

    /// A JSON answer.
    ///
    /// # Errors
    /// No whole answer came, or none with 200 and JSON.
    pub(crate) async fn json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let (status, body) = self.ask(Method::GET, path).await?;
        if status != StatusCode::OK {
            bail!("{path} answers {status}");
        }
        serde_json::from_slice(&body).with_context(|| format!("read {path}"))
    }

    /// The metrics now.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let (_, body) = self.ask(Method::GET, "/-/metrics").await?;
        Ok(Metrics::new(String::from_utf8_lossy(&body).into_owned()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid
            .and_then(Pid::from_raw)
            .context("the gateway has ended")?;
        kill_process(pid, signal).context("send a signal")
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    /// Its end cannot be waited for.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill a gateway")
    }

    /// Stops it by SIGTERM, and kills it if that takes too long. One that has ended already is left alone.
    ///
    /// # Errors
    /// It had to be killed, or ended with an error.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Ok(Some(_)) = self.child.try_wait() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        match timeout(STOP, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
            Ok(status) => bail!("a gateway ended with {status:?}; its log:\n{}", self.log()),
            Err(_) => bail!("a gateway does not stop; its log:\n{}", self.log()),
        }
    }

    /// The most memory that it has held, in bytes; `None` once it has ended.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        gateway::peak_memory(self.child.id()?)
    }

    /// The end of its standard error.
    pub(crate) fn log(&self) -> String {
        let text = fs::read(self.directory.join("stderr")).unwrap_or_default();
        let from = text.len().saturating_sub(4 << 10);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }

    /// The namespace that it runs in.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// The address at which its own host reaches it.
fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7070))
}
