//! An origin that is a function: for what no real server does on demand.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// One request, without a body.
#[derive(Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// Fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Asked {
    /// The positions of a single range with a first one; `None` without such a Range.
    #[must_use]
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (_, value) = self.headers.iter().find(|(name, _)| name == "range")?;
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
    pub fn start(script: fn(&Asked) -> Vec<u8>) -> Scripted {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream, script));
            }
        });
        Scripted { address }
    }

    /// `http://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(stream: TcpStream, script: fn(&Asked) -> Vec<u8>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let line = line(&mut reader)?;
        let mut words = line.split(' ').map(str::to_owned);
        let mut asked = Asked {
            method: words.next()?,
            target: words.next()?,
            headers: Vec::new(),
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
        reader.get_mut().write_all(&script(&asked)).ok()?;
    }
}

fn line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = reader.read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}
