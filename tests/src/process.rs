//! Child processes: output by lines, signals by pid, dead with their test.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// How long anything may take to start or to end before its test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running child; killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    out: Vec<String>,
    err: Vec<String>,
    open: usize,
}

/// A command whose process dies with the thread that starts it, even when the test is killed: `setpriv` sets the
/// parent-death signal and becomes the program, so the pid is the program's own.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Process {
    /// Starts it with both outputs collected.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command) -> Process {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        let output = Arc::new(Output::default());
        output.lock().open = 2;
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        collect(out, Arc::clone(&output), |lines| &mut lines.out);
        collect(err, Arc::clone(&output), |lines| &mut lines.err);
        Process {
            name: name.to_owned(),
            child,
            output,
        }
    }

    /// Waits for a line on standard output that `accept` takes.
    ///
    /// # Panics
    /// If the process ends first or [`PATIENCE`] does, with what it said on standard error.
    pub fn stdout_line<T>(&self, what: &str, mut accept: impl FnMut(&str) -> Option<T>) -> T {
        self.wait_for(what, |lines| lines.out.iter().find_map(|line| accept(line)))
    }

    /// Waits for a line on standard error that `accept` takes.
    ///
    /// # Panics
    /// As [`Process::stdout_line`].
    pub fn stderr_line<T>(&self, what: &str, mut accept: impl FnMut(&str) -> Option<T>) -> T {
        self.wait_for(what, |lines| lines.err.iter().find_map(|line| accept(line)))
    }

    /// Waits until the server listens on `address`.
    ///
    /// # Panics
    /// If the process ends first or [`PATIENCE`] does.
    pub fn listens(&mut self, address: SocketAddr) {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!(
                    "{} ended with {status} before it listened:\n{}{}",
                    self.name,
                    self.stdout(),
                    self.stderr()
                );
            }
            assert!(
                Instant::now() < end,
                "{} does not listen on {address}:\n{}",
                self.name,
                self.stderr()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has written on standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        joined(&self.output.lock().out)
    }

    /// What it has written on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        joined(&self.output.lock().err)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to this process alone.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Panics
    /// After `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(
                Instant::now() < end,
                "{} still runs after {limit:?}:\n{}",
                self.name,
                self.stderr()
            );
            thread::sleep(Duration::from_millis(5));
        };
        let mut lines = self.output.lock();
        while lines.open > 0 {
            let (guard, _) = self
                .output
                .changed
                .wait_timeout(lines, PATIENCE)
                .unwrap_or_else(PoisonError::into_inner);
            lines = guard;
        }
        status
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&Lines) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.output.lock();
        loop {
            if let Some(found) = find(&lines) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                lines.open > 0 && !left.is_zero(),
                "{} gave no {what}; standard output:\n{}standard error:\n{}",
                self.name,
                joined(&lines.out),
                joined(&lines.err)
            );
            lines = self
                .output
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A wait that failed has left the lines as good as they were.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn collect(
    from: impl Read + Send + 'static,
    output: Arc<Output>,
    side: fn(&mut Lines) -> &mut Vec<String>,
) {
    thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            side(&mut output.lock()).push(text);
            output.changed.notify_all();
            line.clear();
        }
        output.lock().open -= 1;
        output.changed.notify_all();
    });
}

fn joined(lines: &[String]) -> String {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}
