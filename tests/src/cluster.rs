//! A `forebay serve` process: settings in, answers, metrics and log lines out.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;

use crate::http::{self, Answer};
use crate::process::{self, PATIENCE, Process, Signal};
use crate::scratch::Scratch;
use crate::tools;

/// The origin's secret in every test: it must turn up nowhere.
pub const SECRET: &str = "s3cr3t-never-to-be-seen";

/// A dataset of the settings file.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: String,
    origin: String,
    lines: Vec<String>,
    options: Vec<(String, String)>,
}

impl Dataset {
    /// A dataset with the settings file's own defaults.
    #[must_use]
    pub fn new(name: &str, origin: impl Into<String>) -> Dataset {
        Dataset {
            name: name.to_owned(),
            origin: origin.into(),
            lines: Vec::new(),
            options: Vec::new(),
        }
    }

    /// Adds a line as it stands in the file, such as `immutable = true`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Dataset {
        self.lines.push(line.to_owned());
        self
    }

    /// Adds one of `options`.
    #[must_use]
    pub fn option(mut self, key: &str, value: impl Into<String>) -> Dataset {
        self.options.push((key.to_owned(), value.into()));
        self
    }

    fn text(&self) -> String {
        let mut text = format!(
            "[[datasets]]\nname = {:?}\norigin = {:?}\n",
            self.name, self.origin
        );
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        if !self.options.is_empty() {
            let pairs: Vec<String> = self
                .options
                .iter()
                .map(|(key, value)| format!("{key} = {value:?}"))
                .collect();
            let _ = writeln!(text, "options = {{ {} }}", pairs.join(", "));
        }
        text
    }
}

/// What a gateway is started with.
#[derive(Debug, Default)]
pub struct Setup {
    top: Vec<String>,
    cache: Vec<String>,
    sections: Vec<String>,
    datasets: Vec<Dataset>,
    allowed: Vec<String>,
    tls: Option<Arc<ClientConfig>>,
}

impl Setup {
    /// A gateway of these datasets with 256 MiB of memory.
    #[must_use]
    pub fn of(datasets: impl IntoIterator<Item = Dataset>) -> Setup {
        Setup {
            datasets: datasets.into_iter().collect(),
            ..Setup::default()
        }
    }

    /// Adds a line before the first section, such as `stop_after = "1s"`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Setup {
        self.top.push(line.to_owned());
        self
    }

    /// Adds a line to `[cache]`, which then holds only the lines added.
    #[must_use]
    pub fn cache(mut self, line: &str) -> Setup {
        self.cache.push(line.to_owned());
        self
    }

    /// Adds a whole section, such as `"[log]\naccess = false"`.
    #[must_use]
    pub fn section(mut self, text: &str) -> Setup {
        self.sections.push(text.to_owned());
        self
    }

    /// Allows WARN and ERROR lines that hold `part`; any other fails the test when the gateway stops.
    #[must_use]
    pub fn allow(mut self, part: &str) -> Setup {
        self.allowed.push(part.to_owned());
        self
    }

    /// Asks the gateway through TLS, as this client; its `[tls]` is a section.
    #[must_use]
    pub fn ask_by(mut self, tls: &Arc<ClientConfig>) -> Setup {
        self.tls = Some(Arc::clone(tls));
        self
    }

    /// The settings file's text, with its data directory below `place`.
    #[must_use]
    pub fn text(&self, place: &Path) -> String {
        let mut text = format!(
            "listen = \"127.0.0.1:0\"\ndata_dir = {:?}\n",
            place.join("data")
        );
        for line in &self.top {
            let _ = writeln!(text, "{line}");
        }
        text.push_str("[cache]\n");
        if self.cache.is_empty() {
            text.push_str("memory = \"256MiB\"\n");
        }
        for line in &self.cache {
            let _ = writeln!(text, "{line}");
        }
        for section in &self.sections {
            let _ = writeln!(text, "{section}");
        }
        for dataset in &self.datasets {
            text.push_str(&dataset.text());
        }
        text
    }

    /// Starts the gateway and waits until it says that it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(self) -> Gateway {
        let scratch = Scratch::new("gateway");
        let config = scratch.write("forebay.toml", self.text(scratch.path()));
        let mut gateway = Gateway::start(
            command().arg("serve").arg("--config").arg(&config),
            scratch,
            self.allowed,
        );
        gateway.tls = self.tls;
        gateway
    }
}

/// A running gateway. Dropping it stops it by SIGTERM and asserts that it ended well and logged no WARN or ERROR that was
/// not allowed, so that no test can forget to look; after a panic it is only killed, and its log printed.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    address: SocketAddr,
    scratch: Scratch,
    allowed: Vec<String>,
    tls: Option<Arc<ClientConfig>>,
    over: bool,
}

/// The gateway's program without arguments, in an environment that holds no credentials of the machine's.
#[must_use]
pub fn command() -> Command {
    let mut command = process::command(&tools::forebay());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["AWS_", "GOOGLE_", "AZURE_", "FOREBAY_", "RUST_LOG"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command
}

impl Gateway {
    /// Starts `command` and waits for the line `listening on http://HOST:PORT`. `scratch` lives as long as the gateway.
    ///
    /// # Panics
    /// If the line does not come.
    #[must_use]
    pub fn start(command: &mut Command, scratch: Scratch, allowed: Vec<String>) -> Gateway {
        let process = Process::start("forebay", command);
        let address = process.stdout_line("line `listening on http://…`", |line| {
            line.strip_prefix("listening on http://")
                .or_else(|| line.strip_prefix("listening on https://"))
                .map(|address| address.parse().expect("HOST:PORT after http://"))
        });
        Gateway {
            process,
            address,
            scratch,
            allowed,
            tls: None,
            over: false,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://HOST:PORT`, or with https.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The process, for signals and output.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The settings file it was started with, if [`Setup::start`] did.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("forebay.toml")
    }

    /// Its data directory, if [`Setup::start`] started it.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// A request on a connection of its own.
    #[must_use]
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        match &self.tls {
            None => http::request(self.address, method, target, headers),
            Some(tls) => {
                let mut connection = http::Connection::secure(self.address, tls);
                connection.request(method, target, headers)
            }
        }
    }

    /// GET without a field but Host.
    #[must_use]
    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[])
    }

    /// GET with a Range.
    #[must_use]
    pub fn range(&self, target: &str, range: &str) -> Answer {
        self.request("GET", target, &[("Range", range)])
    }

    /// GET of something of ours under `/-/` that answers with JSON.
    ///
    /// # Panics
    /// If the answer is not 200 with a JSON body.
    #[must_use]
    pub fn json(&self, target: &str) -> Value {
        let answer = self.get(target).expect(200);
        serde_json::from_slice(&answer.body)
            .unwrap_or_else(|error| panic!("{target}: {error}: {}", answer.text()))
    }

    /// The sum of a metric's samples that carry all these labels; 0 when there are none.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.get("/-/metrics").expect(200).text();
        let samples = text.lines().filter_map(|line| line.strip_prefix(name));
        samples
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter(|rest| {
                labels
                    .iter()
                    .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
            })
            .map(|rest| {
                rest.rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok())
                    .expect("a sample ends in a number")
            })
            .sum()
    }

    /// GET requests to the dataset's origin so far.
    #[must_use]
    pub fn origin_gets(&self, dataset: &str) -> f64 {
        self.metric(
            "forebay_origin_requests_total",
            &[("dataset", dataset), ("method", "GET")],
        )
    }

    /// The command line's client side, pointed at this gateway.
    #[must_use]
    pub fn client(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = command();
        command.args(arguments).env("FOREBAY_URL", self.url());
        command.output().expect("forebay runs")
    }

    /// Stops it by SIGTERM; it must end with 0.
    ///
    /// # Panics
    /// If it does not end, ends otherwise, or has logged what no test allows.
    pub fn stop(mut self) -> String {
        self.end();
        self.process.stderr()
    }

    /// The same; what it keeps on its disk, and its log.
    ///
    /// # Panics
    /// As [`Gateway::stop`].
    #[must_use]
    pub fn stop_keeping(mut self) -> (Scratch, String) {
        self.end();
        let log = self.process.stderr();
        (self.take_scratch(), log)
    }

    /// For a gateway that was told to stop already: waits for its end and judges it as [`Gateway::stop`] does.
    ///
    /// # Panics
    /// As [`Gateway::stop`].
    pub fn ended(mut self) {
        self.judge();
    }

    /// Kills it as a crash would.
    #[must_use]
    pub fn kill(mut self) -> Scratch {
        self.over = true;
        self.process.kill();
        self.take_scratch()
    }

    fn take_scratch(&mut self) -> Scratch {
        std::mem::replace(&mut self.scratch, Scratch::new("gone"))
    }

    fn end(&mut self) {
        self.over = true;
        self.process.signal(Signal::TERM);
        self.judge();
    }

    fn judge(&mut self) {
        self.over = true;
        let status = self.process.wait(PATIENCE);
        let log = self.process.stderr();
        assert!(
            status.code() == Some(0),
            "forebay ended with {status} when told to stop:\n{log}"
        );
        for line in log.lines().filter(|line| is_loud(line)) {
            let allowed = self.allowed.iter().any(|part| line.contains(part.as_str()));
            assert!(
                allowed,
                "no test allows this line: {line}\nall of the log:\n{log}"
            );
        }
        assert!(!log.contains(SECRET), "a secret in the log:\n{log}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("forebay's log:\n{}", self.process.stderr());
        } else if !self.over {
            self.end();
        }
    }
}

fn is_loud(line: &str) -> bool {
    // The level stands in the first columns, so that a request's path cannot be taken for one.
    let start: Vec<&str> = line.split_whitespace().take(3).collect();
    start.contains(&"WARN") || start.contains(&"ERROR")
}
