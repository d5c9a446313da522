//! An origin that is a function: for what no real server does on demand.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::cluster::{Dataset, SECRET};
use crate::process::PATIENCE;

/// Bytes of a request's body that are kept.
const KEPT: u64 = 64 << 10;

/// One request.
#[derive(Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// Fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The beginning of its body, up to 64 KiB.
    pub body: Vec<u8>,
}

impl Asked {
    /// The first value of a field, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The positions of a single range with a first one; `None` without such a Range.
    #[must_use]
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let value = self.header("range")?;
        let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }
}

/// An answer's bytes: status line, Content-Length, `fields` (each with its line end), and the body unless the method is HEAD.
#[must_use]
pub fn answer(asked: &Asked, status: u16, fields: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n{fields}\r\n",
        body.len()
    )
    .into_bytes();
    if asked.method != "HEAD" {
        bytes.extend_from_slice(body);
    }
    bytes
}

/// What a server without faults answers for an object of these bytes with the strong tag `tag`: all of it, or the Range,
/// or that its pin (If-Match) is another one's. `fields`, each with its line end, come on top.
#[must_use]
pub fn object(asked: &Asked, tag: &str, fields: &str, bytes: &[u8]) -> Vec<u8> {
    let known = format!(
        "ETag: {tag}\r\nLast-Modified: Sat, 01 Aug 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n{fields}"
    );
    if asked.header("if-match").is_some_and(|pin| pin != tag) {
        return answer(asked, 412, "", b"");
    }
    match asked.range() {
        None => answer(asked, 200, &known, bytes),
        Some((first, last)) if first < bytes.len() => {
            let last = last.unwrap_or(usize::MAX).min(bytes.len() - 1);
            let range = format!(
                "{known}Content-Range: bytes {first}-{last}/{}\r\n",
                bytes.len()
            );
            answer(asked, 206, &range, &bytes[first..=last])
        }
        Some(_) => answer(asked, 416, "", b""),
    }
}

/// A gate that a script waits at and a test opens: so the test decides what is under way.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    come: usize,
    open: bool,
}

impl Gate {
    /// For the script: returns once the gate is open.
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.come += 1;
        self.changed.notify_all();
        let _open = self
            .changed
            .wait_while(state, |state| !state.open)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// For the test: returns once somebody has come to the gate.
    ///
    /// # Panics
    /// If nobody does within [`PATIENCE`].
    pub fn reached(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.come == 0)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(state.come > 0, "nobody came to the gate in {PATIENCE:?}");
    }

    /// For the test: opens it for good.
    pub fn open(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = true;
        self.changed.notify_all();
    }
}

/// A running server. Its threads end with the test process.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
}

impl Scripted {
    /// Serves `script`, a thread for each connection.
    ///
    /// # Panics
    /// If loopback has no free port.
    #[must_use]
    pub fn start(script: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Scripted {
        Scripted::speaking(move |asked, out| out.write_all(&script(asked)))
    }

    /// The same, where the script itself writes its answer, at whatever pace.
    ///
    /// # Panics
    /// If loopback has no free port.
    #[must_use]
    pub fn speaking(
        script: impl Fn(&Asked, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Scripted {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&script);
                thread::spawn(move || serve(stream, &*script));
            }
        });
        Scripted { address }
    }

    /// `http://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A dataset that takes this for S3, with `bucket` in it.
    #[must_use]
    pub fn s3(&self, name: &str, bucket: &str) -> Dataset {
        Dataset::new(name, format!("s3://{bucket}"))
            .option("aws_endpoint", self.url())
            .option("aws_region", "us-east-1")
            .option("aws_access_key_id", "AK")
            .option("aws_secret_access_key", SECRET)
    }
}

fn serve(
    stream: TcpStream,
    script: &impl Fn(&Asked, &mut TcpStream) -> io::Result<()>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let line = line(&mut reader)?;
        let mut words = line.split(' ').map(str::to_owned);
        let mut asked = Asked {
            method: words.next()?,
            target: words.next()?,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let field = self::line(&mut reader)?;
            if field.is_empty() {
                break;
            }
            let (name, value) = field.split_once(':')?;
            asked
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = asked.header("content-length");
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut rest = reader.by_ref().take(length);
        rest.by_ref().take(KEPT).read_to_end(&mut asked.body).ok()?;
        io::copy(&mut rest, &mut io::sink()).ok()?;
        script(&asked, reader.get_mut()).ok()?;
    }
}

fn line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = reader.read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}
