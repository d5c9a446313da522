//! `tls`: what TLS and HTTP/2 cost. CPU is the gateway's own, and nginx's beside it; rates are compared within one run,
//! in turns, so that what else the machine does falls on all of them.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use rustls::ClientConfig;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::{Options, dataset};
use crate::certificate::{Authority, Pair};
use crate::client::{Ask, Client, Connection, Protocol, Route, Want};
use crate::gateway::{Gateway, Launch, cpu_seconds};
use crate::origin::{Origin, Settings};
use crate::report::{Report, Unit, median};

const NGINX: &str = "/usr/sbin/nginx";

const SIZE: u64 = 1 << 30;
const GB: f64 = 1e9;

/// Turns of each row; the median counts.
const TURNS: usize = 5;

/// What a client of ours that means to read fast announces.
const LARGE_FRAME: u32 = 1 << 20;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let authority = Authority::new("forebay-loadtest")?;
    let pair = authority.sign("localhost")?;
    let trust = Arc::new(authority.client(None)?);
    let origin = Origin::start(Settings::default()).await?;
    origin.put("a", SIZE, 0);
    let place = Place::new()?;
    place.write(&pair)?;
    let clear = start(options, &origin, "", None).await?;
    let tls = start(options, &origin, &place.section(), Some(&trust)).await?;
    let nginx = Nginx::start(&place).await?;
    for gateway in [&clear, &tls] {
        fill(gateway, &trust).await?;
    }

    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(turn(&clear, &tls, &nginx, &trust).await?);
    }
    drop(nginx);
    clear.stop().await.context("stop gateway")?;
    tls.stop().await.context("stop gateway")?;
    Ok(judge(&turns))
}

/// One turn of all rows: CPU in seconds a GB, rates in bytes a second.
struct Turn {
    clear: (f64, f64),
    http2: (f64, f64),
    tls: (f64, f64),
    nginx: (f64, f64),
    curl_http1: f64,
    curl_http2: f64,
}

async fn turn(
    clear: &Gateway,
    tls: &Gateway,
    nginx: &Nginx,
    trust: &Arc<ClientConfig>,
) -> anyhow::Result<Turn> {
    let plain = Route::default();
    let frames = Route {
        protocol: Protocol::Http2 { frame: LARGE_FRAME },
        ..Route::default()
    };
    let secure = Route {
        tls: Some(Arc::clone(trust)),
        ..Route::default()
    };
    // What is compared is measured one after the other.
    Ok(Turn {
        clear: cost(clear.pid(), clear.authority(), &plain).await?,
        http2: cost(clear.pid(), clear.authority(), &frames).await?,
        tls: cost(tls.pid(), tls.authority(), &secure).await?,
        nginx: cost(nginx.pid, &nginx.authority, &secure).await?,
        curl_http1: curl(clear, "--http1.1").await?,
        curl_http2: curl(clear, "--http2-prior-knowledge").await?,
    })
}

/// The median of what each turn came to, ratios within one turn.
fn judge(turns: &[Turn]) -> Report {
    let of = |figure: fn(&Turn) -> f64| median(turns.iter().map(figure).collect());
    let mut report = Report::new("tls");
    let adds = of(|turn| 1e3 * (turn.tls.0 - turn.clear.0));
    let unit = Unit::Milliseconds;
    report.at_most("CPU a GB that TLS adds", adds, 300.0, unit);
    let ratio = of(|turn| turn.tls.0 / turn.nginx.0);
    report.at_most("CPU a GB by TLS ÷ nginx's", ratio, 1.0, Unit::Times);
    report.tell("CPU a GB in clear", of(|turn| 1e3 * turn.clear.0), unit);
    report.tell("CPU a GB by TLS", of(|turn| 1e3 * turn.tls.0), unit);
    report.tell(
        "CPU a GB by nginx's TLS",
        of(|turn| 1e3 * turn.nginx.0),
        unit,
    );
    report.tell(
        "CPU a GB by h2, 1 MiB frames",
        of(|turn| 1e3 * turn.http2.0),
        unit,
    );
    let what = "one h2 stream ÷ one HTTP/1.1 connection, 1 MiB frames";
    let ratio = of(|turn| 100.0 * turn.http2.1 / turn.clear.1);
    report.at_least(what, ratio, 80.0, Unit::Percent);
    let what = "the same by curl, 16 KiB frames";
    let ratio = of(|turn| 100.0 * turn.curl_http2 / turn.curl_http1);
    report.at_least(what, ratio, 40.0, Unit::Percent);
    let what = "one HTTP/1.1 connection, a second";
    let mib = f64::from(1 << 20);
    report.tell(what, of(|turn| turn.clear.1) / mib, Unit::Mebibytes);
    let what = "through TLS, a second";
    report.tell(what, of(|turn| turn.tls.1) / mib, Unit::Mebibytes);
    report
}

async fn start(
    options: &Options,
    origin: &Origin,
    section: &str,
    trust: Option<&Arc<ClientConfig>>,
) -> anyhow::Result<Gateway> {
    let models = dataset("models", origin, "");
    let text = format!("[cache]\nmemory = \"2GiB\"\n[log]\naccess = false\n{section}{models}");
    let launch = Launch {
        program: options.program.clone(),
        settings: Some(text),
        tls: trust.cloned(),
        ..Launch::default()
    };
    Gateway::start(&launch).await
}

/// Reads the object once, each byte checked: from then on it comes from memory.
async fn fill(gateway: &Gateway, trust: &Arc<ClientConfig>) -> anyhow::Result<()> {
    let mut client = Client::new(&gateway.dataset("models"))?;
    if gateway.url().starts_with("https") {
        client = client.trust(Arc::clone(trust));
    }
    let read = client.read(&Ask::new("a", Want::Whole)).await;
    if !read.is_whole() {
        bail!("the first read ended {:?}", read.outcome);
    }
    Ok(())
}

/// Reads the object on one new connection, and drops what it reads: seconds of CPU a GB that the server took, and bytes
/// a second.
async fn cost(pid: u32, authority: &str, route: &Route) -> anyhow::Result<(f64, f64)> {
    let mut connection = Connection::open(authority, route)
        .await
        .map_err(anyhow::Error::msg)?;
    let request = Request::get("/models/a")
        .header(header::HOST, authority)
        .body(Full::<Bytes>::default())?;
    let before = cpu_seconds(pid).context("read CPU time")?;
    let begun = Instant::now();
    let mut body = connection.send(request).await?.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    let took = begun.elapsed().as_secs_f64();
    if bytes != SIZE {
        bail!("{authority}: {bytes} bytes came of {SIZE}");
    }
    let spent = cpu_seconds(pid).context("read CPU time")? - before;
    Ok((spent / (SIZE as f64 / GB), SIZE as f64 / took))
}

/// curl's own bytes a second.
async fn curl(gateway: &Gateway, protocol: &str) -> anyhow::Result<f64> {
    let url = format!("{}/models/a", gateway.url());
    let curl = Command::new("curl")
        .args([
            "-sS",
            "-f",
            "-o",
            "/dev/null",
            "-w",
            "%{size_download} %{speed_download}",
        ])
        .args([protocol, &url])
        .output();
    let output = curl.await.context("run curl: install it")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.split_once(' ') {
        Some((size, speed)) if size == SIZE.to_string() => Ok(speed.parse()?),
        _ => bail!(
            "curl {protocol}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// A directory of the run's own, in memory where there is such a one: nginx's file must not wait for a disk.
struct Place(PathBuf);

impl Place {
    fn new() -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let path = above.join(format!("forebay-loadtest-tls-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    fn write(&self, pair: &Pair) -> anyhow::Result<()> {
        fs::write(self.0.join("tls.crt"), &pair.cert).context("write certificate")?;
        fs::write(self.0.join("tls.key"), &pair.key).context("write key")?;
        fs::create_dir(self.0.join("models")).context("create directory")?;
        let mut file = File::create(self.0.join("models/a")).context("create nginx's file")?;
        let piece: Vec<u8> = (0..1 << 20)
            .map(|byte: u32| byte.to_le_bytes()[1])
            .collect();
        for _ in 0..SIZE >> 20 {
            file.write_all(&piece).context("write nginx's file")?;
        }
        Ok(())
    }

    fn section(&self) -> String {
        let path = self.0.display();
        format!("[tls]\ncert = \"{path}/tls.crt\"\nkey = \"{path}/tls.key\"\n")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// nginx as one process, with the same certificate.
struct Nginx {
    _child: Child,
    pid: u32,
    authority: String,
}

impl Nginx {
    async fn start(place: &Place) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let authority = format!("127.0.0.1:{port}");
        let path = place.0.display();
        let text = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {path}/pid;\nerror_log stderr warn;\n\
             events {{}}\nhttp {{\naccess_log off;\nsendfile on;\ntcp_nopush on;\n\
             open_file_cache max=10;\ndefault_type application/octet-stream;\n\
             client_body_temp_path {path}/1;\nproxy_temp_path {path}/2;\nfastcgi_temp_path {path}/3;\n\
             uwsgi_temp_path {path}/4;\nscgi_temp_path {path}/5;\n\
             server {{ listen {authority} ssl;\nssl_certificate {path}/tls.crt;\n\
             ssl_certificate_key {path}/tls.key;\nssl_protocols TLSv1.2 TLSv1.3;\nroot {path};\n}}\n}}\n"
        );
        let config = place.0.join("nginx.conf");
        fs::write(&config, text).context("write nginx.conf")?;
        let child = Command::new(NGINX)
            .arg("-c")
            .arg(config)
            .arg("-p")
            .arg(&place.0)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {NGINX}: install nginx-light"))?;
        let pid = child.id().context("read nginx's process id")?;
        let listens = async {
            while tokio::net::TcpStream::connect(&authority).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), listens)
            .await
            .context("nginx does not listen")?;
        Ok(Self {
            _child: child,
            pid,
            authority,
        })
    }
}
