//! An HTTP/1.1 client that hides nothing: raw bytes out, what came back in.
//!
//! Not hyper: a client that refuses to send malformed requests, or hides how a body ended, cannot test a server.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::net::TcpSocket;

use crate::process::PATIENCE;
use crate::secure::Stream;

/// One answer, as it came.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Fields in order, names as written.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// False when the connection ended before the body did.
    pub whole: bool,
}

impl Answer {
    /// The field's value, if it came exactly once.
    ///
    /// # Panics
    /// If it came several times.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str());
        let first = values.next();
        assert!(
            values.next().is_none(),
            "{name} came twice: {:?}",
            self.headers
        );
        first
    }

    /// As [`Answer::header`], for a field that must be there.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn need(&self, name: &str) -> &str {
        self.header(name)
            .unwrap_or_else(|| panic!("no {name} in {} {:?}", self.status, self.headers))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text between `<tag>` and `</tag>`, the first time they stand in the body.
    #[must_use]
    pub fn xml(&self, tag: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        let (inner, _) = rest.split_once(&format!("</{tag}>"))?;
        Some(inner.to_owned())
    }

    /// Fails unless the status is `status`, showing the answer.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        if self.status != status {
            let body: String = self.text().chars().take(600).collect();
            panic!(
                "{} instead of {status}: {:?}\n{body}",
                self.status, self.headers
            );
        }
        assert!(
            self.whole,
            "the body of this {status} was cut after {} bytes: {:?}",
            self.body.len(),
            self.headers
        );
        self
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<Stream>,
    host: SocketAddr,
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address);
        Connection::over(
            stream.unwrap_or_else(|error| panic!("connect to {address}: {error}")),
            address,
        )
    }

    /// Connects with the smallest receive buffer that the kernel gives: what is not read here soon waits at the server.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn narrow(address: SocketAddr) -> Connection {
        Connection::holding(address, 1)
    }

    /// Connects with a receive buffer of so many bytes, or about twice as many, as the system counts them: it does not
    /// grow as others do.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn holding(address: SocketAddr, bytes: u32) -> Connection {
        // Only tokio's sockets can be told before they connect, when the window is agreed upon.
        let stream = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .and_then(|runtime| {
                runtime.block_on(async {
                    let socket = TcpSocket::new_v4()?;
                    socket.set_recv_buffer_size(bytes)?;
                    socket.connect(address).await?.into_std()
                })
            });
        let stream = stream.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream
            .set_nonblocking(false)
            .expect("a socket can be blocking");
        Connection::over(stream, address)
    }

    fn over(stream: TcpStream, address: SocketAddr) -> Connection {
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout above zero can be set");
        Connection {
            reader: BufReader::new(Stream::Clear(stream)),
            host: address,
        }
    }

    /// Connects through TLS.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn secure(address: SocketAddr, tls: &Arc<ClientConfig>) -> Connection {
        let stream = TcpStream::connect(address);
        let stream = stream.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout above zero can be set");
        Connection {
            reader: BufReader::new(Stream::secure(stream, tls)),
            host: address,
        }
    }

    /// The certificate that the server has shown, in DER; `None` in clear.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.reader.get_ref().certificate()
    }

    /// Sends bytes as they are. A server that has closed already is not an error here: what it said first can still be read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// Tells the server that nothing more will be sent.
    pub fn finish(&mut self) {
        self.reader.get_mut().finish();
    }

    /// Sends a request and reads its answer.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(method, target, headers);
        self.answer(method == "HEAD")
            .unwrap_or_else(|| panic!("{method} {target}: closed without an answer"))
    }

    /// Sends a request's head.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes());
    }

    /// Sends a request with a body and reads its answer.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn upload(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        all.push(("Content-Length", &length));
        self.ask(method, target, &all);
        self.send(body);
        self.answer(false)
            .unwrap_or_else(|| panic!("{method} {target}: closed without an answer"))
    }

    /// Reads one answer; `None` when the connection ends before its status line does.
    pub fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut answer = self.head()?;
        let bodiless = head_only || answer.status == 204 || answer.status == 304;
        if bodiless {
            return Some(answer);
        }
        if answer
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            answer.whole = self.chunks(&mut answer.body).is_some();
        } else if let Some(length) = answer.header("content-length") {
            let length: u64 = length
                .parse()
                .unwrap_or_else(|_| panic!("Content-Length {length}"));
            let read = self
                .reader
                .by_ref()
                .take(length)
                .read_to_end(&mut answer.body);
            refuse_timeout(read.as_ref().err());
            answer.whole = answer.body.len() as u64 == length;
        } else {
            let read = self.reader.read_to_end(&mut answer.body);
            refuse_timeout(read.as_ref().err());
            answer.whole = read.is_ok();
        }
        Some(answer)
    }

    /// Reads the head of an answer and leaves its body on the connection.
    pub fn head(&mut self) -> Option<Answer> {
        let status_line = self.line()?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("not a field: {line:?}"));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        if (100..200).contains(&status) {
            return self.head();
        }
        Some(Answer {
            status,
            headers,
            body: Vec::new(),
            whole: true,
        })
    }

    /// Reads up to `length` bytes of a body; fewer when it is cut.
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        let read = self
            .reader
            .by_ref()
            .take(length as u64)
            .read_to_end(&mut bytes);
        refuse_timeout(read.as_ref().err());
        bytes
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\r\n") => {
                line.truncate(line.len() - 2);
                Some(String::from_utf8_lossy(&line).into_owned())
            }
            Ok(_) => None,
            Err(error) => {
                refuse_timeout(Some(&error));
                None
            }
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16)
                .unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
            let before = body.len() as u64;
            refuse_timeout(
                self.reader
                    .by_ref()
                    .take(size)
                    .read_to_end(body)
                    .as_ref()
                    .err(),
            );
            if (body.len() as u64) < before + size {
                return None;
            }
            // After the last chunk come trailer fields, of which these servers send none, and the same empty line.
            if !self.line()?.is_empty() {
                return None;
            }
            if size == 0 {
                return Some(());
            }
        }
    }
}

/// A request on a connection of its own.
///
/// # Panics
/// If no answer comes.
#[must_use]
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Answer {
    Connection::open(address).request(method, target, headers)
}

/// `/dataset/key` with everything encoded but RFC 3986's unreserved characters and the key's slashes.
#[must_use]
pub fn target(dataset: &str, key: &str) -> String {
    format!("/{dataset}/{}", encode(key))
}

/// The key as a path, percent-encoded but for its slashes.
#[must_use]
pub fn encode(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

// A body that stalls is neither whole nor cut: the test must fail and say so.
fn refuse_timeout(error: Option<&std::io::Error>) {
    if let Some(error) = error {
        let stalled = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!stalled, "nothing came for {PATIENCE:?}");
    }
}
