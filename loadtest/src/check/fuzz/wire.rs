//! A connection that is opened when it is needed, kept as long as answers allow it, and looked through for what must
//! not be there.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::class;
use super::requests::Batch;
use crate::pattern::{Candidate, locate};

/// What is broken may wait for more of itself for ever.
const QUIET: Duration = Duration::from_millis(15);

/// What is whole is answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every place of an answer's beginning is looked at, and then some in each so many bytes.
const LOOKED_THROUGH: usize = 4096;
const STRIDE: usize = 256;

/// Longest head of an answer.
const HEAD: usize = 64 << 10;

/// What came of the requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Sent.
    pub(super) requests: u64,
    /// Answers by the first digit of their status.
    pub(super) statuses: [u64; 10],
    /// Requests that closed the connection instead, or were left without an answer on one that was given up.
    pub(super) closed: u64,
    /// Valid requests that nothing came of in time.
    pub(super) stuck: u64,
    /// Answers that hold what their client may not read.
    pub(super) leaks: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.closed += other.closed;
        self.stuck += other.stuck;
        self.leaks += other.leaks;
        for (sum, more) in self.statuses.iter_mut().zip(other.statuses) {
            *sum += more;
        }
    }
}

/// How one answer ended.
enum Ended {
    /// Whole; whether another may follow.
    Whole(bool),
    /// The connection ended before it did.
    Closed,
    /// Nothing came in time.
    Quiet,
}

/// One connection after another.
#[derive(Debug)]
pub(super) struct Wire {
    address: SocketAddr,
    hidden: Vec<Candidate>,
    stream: Option<TcpStream>,
    outgoing: Vec<u8>,
    /// Came and belongs to no answer yet.
    incoming: Vec<u8>,
}

impl Wire {
    pub(super) fn new(address: SocketAddr, hidden: Vec<Candidate>) -> Self {
        Self {
            address,
            hidden,
            stream: None,
            outgoing: Vec::new(),
            incoming: Vec::new(),
        }
    }

    /// One valid request, and its answer.
    pub(super) async fn ask(&mut self, request: &[u8], head: bool, tally: &mut Tally) {
        let batch = Batch {
            valid: vec![(request.to_vec(), head)],
            broken: None,
        };
        self.send(&batch, tally).await;
    }

    /// Sends all of a batch at once, and takes its answers.
    pub(super) async fn send(&mut self, batch: &Batch, tally: &mut Tally) {
        self.outgoing.clear();
        for (request, _) in &batch.valid {
            self.outgoing.extend_from_slice(request);
        }
        self.outgoing.extend(batch.broken.iter().flatten());
        tally.requests += batch.valid.len() as u64 + u64::from(batch.broken.is_some());
        if self.write().await.is_err() {
            tally.closed += 1;
            return self.close();
        }
        for (_, head) in &batch.valid {
            match self.answer(*head, PATIENCE, tally).await {
                Ended::Whole(true) => {}
                Ended::Whole(false) => return self.close(),
                Ended::Closed => {
                    tally.closed += 1;
                    return self.close();
                }
                Ended::Quiet => {
                    tally.stuck += 1;
                    return self.close();
                }
            }
        }
        if let Some(broken) = &batch.broken {
            let head = broken.starts_with(b"HEAD");
            if !matches!(self.answer(head, QUIET, tally).await, Ended::Whole(_)) {
                tally.closed += 1;
            }
            // Where its own end was is anybody's guess.
            self.close();
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        match &mut self.stream {
            Some(stream) => stream.write_all(&self.outgoing).await,
            None => Ok(()),
        }
    }

    fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Else a million connections leave the machine without ports.
            let _ = stream.set_zero_linger();
        }
        self.incoming.clear();
    }

    /// Reads one answer and looks through it.
    async fn answer(&mut self, head: bool, patience: Duration, tally: &mut Tally) -> Ended {
        let mut patience = patience;
        let end = loop {
            let end = self
                .incoming
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            if self.incoming.len() > HEAD {
                return Ended::Closed;
            }
            match self.more(patience).await {
                Some(true) => {}
                Some(false) => return Ended::Closed,
                None => return Ended::Quiet,
            }
            // What has begun goes on.
            patience = PATIENCE;
        };
        let text = String::from_utf8_lossy(&self.incoming[..end]).to_ascii_lowercase();
        let status = text.get(9..12).and_then(|code| code.parse().ok());
        tally.statuses[class(status)] += 1;
        if status == Some(StatusCode::CONTINUE) {
            self.incoming.drain(..end);
            return Box::pin(self.answer(head, patience, tally)).await;
        }
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        let stays = text.starts_with("http/1.1") && field("connection:") != Some("close");
        let bodiless = head || status == Some(StatusCode::NOT_MODIFIED);
        let length = match field("content-length:").and_then(|length| length.parse().ok()) {
            _ if bodiless => Some(0),
            length => length,
        };
        let ended = self.body(end, length, tally).await;
        match ended {
            Ended::Whole(known) => Ended::Whole(known && stays),
            other => other,
        }
    }

    /// Reads up to the end of an answer whose head ends at `end`, by its length or by the connection's.
    async fn body(&mut self, end: usize, length: Option<usize>, tally: &mut Tally) -> Ended {
        let mut looked = Look::default();
        let mut left = length.unwrap_or(usize::MAX).saturating_add(end);
        loop {
            let here = self.incoming.len().min(left);
            looked.through(&self.incoming[..here], &self.hidden);
            left -= here;
            self.incoming.drain(..here);
            if left == 0 {
                break;
            }
            match self.more(PATIENCE).await {
                Some(true) => {}
                Some(false) if length.is_none() => break,
                Some(false) => return Ended::Closed,
                None => return Ended::Quiet,
            }
        }
        tally.leaks += u64::from(looked.found);
        Ended::Whole(length.is_some())
    }

    /// Whether more came; `None`: not in time.
    async fn more(&mut self, patience: Duration) -> Option<bool> {
        let Some(stream) = &mut self.stream else {
            return Some(false);
        };
        self.incoming.reserve(64 << 10);
        let read = timeout(patience, stream.read_buf(&mut self.incoming)).await;
        read.ok().map(|read| read.is_ok_and(|bytes| bytes > 0))
    }
}

/// An answer that is looked through as it comes.
#[derive(Debug, Default)]
struct Look {
    found: bool,
    seen: usize,
    /// The last bytes of what came before.
    tail: Vec<u8>,
}

impl Look {
    fn through(&mut self, bytes: &[u8], hidden: &[Candidate]) {
        if hidden.is_empty() {
            return;
        }
        self.tail.extend_from_slice(bytes);
        for word in self.tail.windows(8) {
            let place = self.seen;
            self.seen += 1;
            // Eight in a row have every alignment.
            if place > LOOKED_THROUGH && place % STRIDE >= 8 {
                continue;
            }
            let word = word.try_into().map(u64::from_le_bytes);
            self.found |= word.is_ok_and(|word| locate(word, hidden).is_some());
        }
        let kept = self.tail.len().min(7);
        self.tail.drain(..self.tail.len() - kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern;

    #[test]
    fn hidden_bytes_are_seen_wherever_they_stand() {
        let hidden = [Candidate {
            version: 0,
            seed: pattern::seed("hidden", 0),
            size: 5000,
        }];
        let mut secret = vec![0; 300];
        pattern::fill(hidden[0].seed, 1003, &mut secret);
        let mut shown = vec![0; 9000];
        pattern::fill(pattern::seed("shown", 0), 0, &mut shown);
        for (place, length) in [(0, 16), (3, 16), (4001, 16), (5000, 300), (8700, 300)] {
            let mut bytes = shown.clone();
            bytes[place..place + length].copy_from_slice(&secret[..length]);
            for piece in [9000, 1000, 7, 1] {
                let mut look = Look::default();
                for bytes in bytes.chunks(piece) {
                    look.through(bytes, &hidden);
                }
                assert!(look.found, "at {place} in pieces of {piece}");
            }
        }
        let mut look = Look::default();
        look.through(&shown, &hidden);
        assert!(!look.found);
    }
}
