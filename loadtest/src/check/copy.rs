//! Copying between two S3 servers: 1 GiB, and ten thousand small objects, beside rclone and s5cmd with as many
//! connections.
//!
//! s5cmd knows one server at a time, so what it copies goes through a directory, as its users do it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::Options;
use crate::gateway::{Gateway, Launch};
use crate::report::{Report, Unit};

/// The large object, and the small ones: how many, and their bytes.
const LARGE: u64 = 1 << 30;
const SMALL: (u64, u64) = (10_000, 16 << 10);

/// Connections of each tool.
const CONNECTIONS: usize = 32;

/// Of the fastest of the others, what a copy has to reach.
const BAR: f64 = 0.9;

/// So many runs, of which the middle one counts.
const RUNS: usize = 3;

/// What both servers take.
const KEYS: (&str, &str) = ("AK", "SK");

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let [rclone, s5cmd] = [
        tool(
            "rclone",
            "https://rclone.org/install/, or `apt-get install rclone`",
        )?,
        tool("s5cmd", "https://github.com/peak/s5cmd/releases")?,
    ];
    let place = Place::new()?;
    let (source, target) = (place.server("source").await?, place.server("target").await?);
    let mut report = Report::new("copy");
    for (bucket, count, size) in [("large", 1, LARGE), ("small", SMALL.0, SMALL.1)] {
        fill(&s5cmd, &place, &source, bucket, (count, size)).await?;
    }
    let gateway = gateway(options, &source, &target).await?;
    for (what, bytes) in [("large", LARGE), ("small", SMALL.0 * SMALL.1)] {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..RUNS {
            for (who, times) in times.iter_mut().enumerate() {
                target.empty(what)?;
                let begun = Instant::now();
                match who {
                    0 => forebay(options, &gateway, what).await?,
                    1 => by_rclone(&rclone, &source, &target, what).await?,
                    _ => by_s5cmd(&s5cmd, &place, &source, &target, what).await?,
                }
                times.push(begun.elapsed().as_secs_f64());
                same(&source.bucket(what), &target.bucket(what))?;
            }
        }
        let [ours, rclone, s5cmd] = times.map(middle);
        for (who, seconds) in [("forebay", ours), ("rclone", rclone), ("s5cmd", s5cmd)] {
            let rate = bytes as f64 / seconds / 1e9;
            report.tell(&format!("{what} {who}"), rate, Unit::Rate);
        }
        let best = rclone.min(s5cmd);
        let name = format!("{what}: ratio to the best");
        report.at_least(&name, best / ours, BAR, Unit::Times);
    }
    gateway.stop().await.context("stop gateway")?;
    Ok(report)
}

/// The middle of some times.
fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A program of the search path.
fn tool(name: &str, how: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|place| place.join(name));
    found
        .into_iter()
        .find(|program| program.is_file())
        .with_context(|| {
            format!("there is no {name} to copy beside: install it ({how}), and put it in PATH")
        })
}

/// A directory for all, gone with this value.
struct Place(PathBuf);

impl Place {
    fn new() -> anyhow::Result<Self> {
        let name = format!("forebay-check-copy-{}", std::process::id());
        let place = std::env::temp_dir().join(name);
        fs::create_dir_all(&place).context("make a directory")?;
        Ok(Self(place))
    }

    async fn server(&self, name: &str) -> anyhow::Result<Server> {
        let root = self.0.join(name);
        for bucket in ["large", "small"] {
            fs::create_dir_all(root.join(bucket)).context("make a bucket")?;
        }
        let running = std::env::current_exe().context("find the running program")?;
        let program = running.with_file_name("s3-origin");
        let mut child = Command::new(&program)
            .arg(&root)
            .args([KEYS.0, KEYS.1])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                let program = program.display();
                format!("start {program}: build it with `cargo build --workspace --bins`")
            })?;
        let out = child.stdout.take().context("read what the server says")?;
        let mut line = String::new();
        let mut out = BufReader::new(out);
        out.read_line(&mut line).await.context("read its address")?;
        let url = line.trim().strip_prefix("listening on ");
        let url = url.context("the server says where it listens")?.to_owned();
        Ok(Server {
            root,
            url,
            _child: child,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// S3 over a directory.
struct Server {
    root: PathBuf,
    url: String,
    _child: Child,
}

impl Server {
    fn bucket(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn empty(&self, bucket: &str) -> anyhow::Result<()> {
        let bucket = self.bucket(bucket);
        fs::remove_dir_all(&bucket).context("empty a bucket")?;
        fs::create_dir_all(bucket).context("make a bucket")
    }

    fn dataset(&self, name: &str, bucket: &str, lines: &str) -> String {
        format!(
            "[[datasets]]\nname = \"{name}-{bucket}\"\norigin = \"s3://{bucket}\"\n\
             origin_connections = {CONNECTIONS}\n{lines}options = {{ aws_endpoint = \"{}\", \
             aws_region = \"us-east-1\", aws_access_key_id = \"{}\", aws_secret_access_key = \"{}\" }}\n",
            self.url, KEYS.0, KEYS.1
        )
    }
}

/// Fills a bucket with objects whose bytes differ. They are uploaded: of a file that came otherwise the server knows no
/// ETag, and reads all of it for one before every answer.
async fn fill(
    s5cmd: &Path,
    place: &Place,
    server: &Server,
    bucket: &str,
    (count, size): (u64, u64),
) -> anyhow::Result<()> {
    let made = place.0.join("made");
    fs::create_dir_all(&made).context("make a directory")?;
    for number in 0..count {
        let seed = number.to_le_bytes();
        let mut bytes = vec![0; usize::try_from(size)?];
        for (place, chunk) in bytes.chunks_mut(8).enumerate() {
            let word =
                (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from_le_bytes(seed);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        fs::write(made.join(format!("{number:05}.bin")), bytes).context("write an object")?;
    }
    let from = format!("{}/", made.display());
    put(s5cmd, server, &from, &format!("s3://{bucket}/")).await?;
    fs::remove_dir_all(&made).context("empty a directory")
}

/// Every object is there, byte for byte.
fn same(source: &Path, target: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(source).context("list what was copied")? {
        let entry = entry.context("list what was copied")?;
        let [one, other] = [entry.path(), target.join(entry.file_name())].map(fs::read);
        if one.context("read an object")? != other.context("read its copy")? {
            bail!("{} was not copied as it is", entry.path().display());
        }
    }
    Ok(())
}

async fn gateway(options: &Options, source: &Server, target: &Server) -> anyhow::Result<Gateway> {
    let mut text = "[cache]\nmemory = \"1GiB\"\n[log]\naccess = false\n".to_owned();
    for bucket in ["large", "small"] {
        text.push_str(&source.dataset("source", bucket, ""));
        text.push_str(&target.dataset("target", bucket, "writable = true\n"));
    }
    let launch = Launch {
        program: options.program.clone(),
        settings: Some(text),
        ..Launch::default()
    };
    Gateway::start(&launch).await
}

/// Copies by `forebay copy`, from a cold cache.
async fn forebay(options: &Options, gateway: &Gateway, what: &str) -> anyhow::Result<()> {
    let program = crate::gateway::program(options.program.as_deref())?;
    let from = format!("source-{what}");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env("FOREBAY_URL", gateway.url());
        command
    };
    done(&mut command(&["purge", &format!("{from}/")])).await?;
    done(&mut command(&["copy", &from, &format!("target-{what}")])).await
}

async fn by_rclone(
    program: &Path,
    source: &Server,
    target: &Server,
    what: &str,
) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    for (name, server) in [("A", source), ("B", target)] {
        for (option, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", "Other"),
            ("ACCESS_KEY_ID", KEYS.0),
            ("SECRET_ACCESS_KEY", KEYS.1),
            ("ENDPOINT", &*server.url),
            ("REGION", "us-east-1"),
            ("FORCE_PATH_STYLE", "true"),
        ] {
            command.env(format!("RCLONE_CONFIG_{name}_{option}"), value);
        }
    }
    let many = CONNECTIONS.to_string();
    command.args(["copy", &format!("a:{what}"), &format!("b:{what}")]);
    command.args(["--transfers", &many, "--checkers", &many]);
    command.args([
        "--s3-upload-concurrency",
        &many,
        "--multi-thread-streams",
        &many,
    ]);
    command.args(["--s3-chunk-size", "8M", "--s3-upload-cutoff", "8M"]);
    done(command.args(["--s3-no-check-bucket", "--config", "/dev/null"])).await
}

async fn by_s5cmd(
    program: &Path,
    place: &Place,
    source: &Server,
    target: &Server,
    what: &str,
) -> anyhow::Result<()> {
    let between = place.0.join("between");
    fs::create_dir_all(&between).context("make a directory")?;
    let local = format!("{}/", between.display());
    put(program, source, &format!("s3://{what}/*"), &local).await?;
    put(program, target, &local, &format!("s3://{what}/")).await?;
    fs::remove_dir_all(&between).context("empty a directory")
}

/// Copies from or to a server.
async fn put(s5cmd: &Path, server: &Server, from: &str, to: &str) -> anyhow::Result<()> {
    let many = CONNECTIONS.to_string();
    let mut command = Command::new(s5cmd);
    command
        .args(["--endpoint-url", &server.url, "--numworkers", &many, "cp"])
        .args(["--concurrency", &many, "--part-size", "8", from, to])
        .env("AWS_ACCESS_KEY_ID", KEYS.0)
        .env("AWS_SECRET_ACCESS_KEY", KEYS.1)
        .env("AWS_REGION", "us-east-1");
    done(&mut command).await
}

/// Runs a command, which has to end well.
async fn done(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.await.context("run a tool")?;
    if !output.status.success() {
        let (out, err) = (&output.stdout, &output.stderr);
        let text = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].concat();
        bail!(
            "{:?} ended with {}: {text}",
            command.as_std(),
            output.status
        );
    }
    Ok(())
}
