//! Requests, and how they are broken.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Requests that are sent together. Of the valid ones it is known where their answers end.
#[derive(Debug)]
pub(super) struct Batch {
    /// Valid ones: (bytes, whether it is a HEAD).
    pub(super) valid: Vec<(Vec<u8>, bool)>,
    /// One that may be anything, behind them.
    pub(super) broken: Option<Vec<u8>>,
}

const TARGETS: [&str; 22] = [
    "/models/a",
    "/models/a",
    "/models/a",
    "/models/b/c%20d",
    "/models/empty",
    "/models/weights.bin",
    "/models/none",
    "/models?list-type=2&prefix=b%2F&delimiter=%2F&max-keys=3",
    "/models?marker=a&encoding-type=url",
    "/models?location",
    "/models?acl",
    "/models/a?versionId=null",
    "/models/a?partNumber=1",
    "/models/a?response-content-type=text%2Fplain",
    "/",
    "http://gw.example/models/a?x-id=GetObject",
    "/hidden/a",
    "/hidden/secret",
    "/models/../hidden/secret",
    "/-/healthz",
    "/-/datasets",
    "/-/blocks/models/a",
];

const FIELDS: [&str; 14] = [
    "Range: bytes=0-9",
    "Range: bytes=-100",
    "Range: bytes=4000-",
    "Range: bytes=0-9,20-29,70000-",
    "If-None-Match: *",
    "If-Match: \"x\", W/\"y\"",
    "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    "If-Range: \"x\"",
    "Accept-Encoding: gzip, br",
    "User-Agent: aws-sdk-rust/1.3",
    "X-Amz-Date: 20260801T000000Z",
    "X-Amz-Content-Sha256: UNSIGNED-PAYLOAD",
    "Connection: keep-alive",
];

/// What has hurt servers before, to be put anywhere.
const TOKENS: [&[u8]; 28] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"%00",
    b"%",
    b"%2e%2e%2f",
    b"../",
    b"/hidden/secret",
    b"hidden",
    b"//",
    b"?",
    b"#",
    b"&versionId=",
    b"bytes=",
    b"0-,",
    b"-18446744073709551616",
    b"99999999999999999999-",
    b"\r\nContent-Length: 5",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nHost: b",
    b"\r\nExpect: 100-continue",
    b" HTTP/1.0",
    b"\xff\xfe\x80",
];

/// Makes requests by chance, in an order that its seed decides.
#[derive(Debug)]
pub(super) struct Maker {
    chance: StdRng,
    credentials: String,
}

impl Maker {
    pub(super) fn new(chance: StdRng, credentials: &str) -> Self {
        Self {
            chance,
            credentials: credentials.to_owned(),
        }
    }

    pub(super) fn batch(&mut self) -> Batch {
        let count = self.chance.random_range(0..4);
        let valid = (0..count).map(|_| self.valid()).collect();
        let broken = (count == 0 || self.chance.random_bool(0.6)).then(|| self.broken());
        Batch { valid, broken }
    }

    /// A request that has the syntax of one, whatever it asks for.
    fn valid(&mut self) -> (Vec<u8>, bool) {
        let head = self.chance.random_bool(0.15);
        let method = if head { "HEAD" } else { "GET" };
        let target = self.target();
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: gw.example\r\n");
        if self.chance.random_bool(0.9) {
            text.push_str(&self.credentials);
        }
        for _ in 0..self.chance.random_range(0..4) {
            let field = match self.chance.random_range(0..3) {
                0 => self.range(),
                _ => self.pick(&FIELDS).to_owned(),
            };
            let times = if self.chance.random_bool(0.05) { 5 } else { 1 };
            for _ in 0..times {
                text.push_str(&field);
                text.push_str("\r\n");
            }
        }
        text.push_str("\r\n");
        (text.into_bytes(), head)
    }

    fn target(&mut self) -> String {
        let target = self.pick(&TARGETS).to_owned();
        match self.chance.random_range(0..10) {
            0 => {
                let key: String = (0..self.chance.random_range(1..40))
                    .map(|_| format!("%{:02x}", self.chance.random_range(1..127_u8)))
                    .collect();
                format!("/models/{key}")
            }
            1 => format!("{target}%{:02X}", self.chance.random::<u8>()),
            _ => target,
        }
    }

    fn range(&mut self) -> String {
        let mut range = String::from("Range: bytes=");
        for number in 0..self.chance.random_range(1..5) {
            if number > 0 {
                range.push(',');
            }
            let bits = self.chance.random_range(0..20);
            let first = self.chance.random_range(0..=1_u64 << bits);
            let last = first.saturating_add(self.chance.random_range(0..5000));
            range.push_str(&match self.chance.random_range(0..8) {
                0 => format!("{first}-"),
                1 => format!("-{first}"),
                2 => format!("{last}-{first}"),
                3 => format!("{}-", self.chance.random::<u64>()),
                _ => format!("{first}-{last}"),
            });
        }
        range
    }

    /// A valid request with a few things done to it.
    fn broken(&mut self) -> Vec<u8> {
        let (mut bytes, _) = self.valid();
        if self.chance.random_bool(0.1) {
            let method = self.pick(&["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "PRI"]);
            bytes.splice(..3, method.bytes());
        }
        if self.chance.random_bool(0.05) {
            bytes.extend_from_slice(b"5\r\nhello\r\n0\r\n\r\n");
        }
        let hurts = 1 + self.chance.random_range(0..4);
        for _ in 0..hurts {
            self.hurt(&mut bytes);
            if bytes.is_empty() {
                bytes.push(b'G');
            }
        }
        bytes.truncate(64 << 10);
        bytes
    }

    fn hurt(&mut self, bytes: &mut Vec<u8>) {
        let at = self.chance.random_range(0..bytes.len());
        let end = (at + self.chance.random_range(1..40)).min(bytes.len());
        match self.chance.random_range(0..9) {
            0 => bytes[at] ^= 1 << self.chance.random_range(0..8),
            1 => bytes[at] = self.chance.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let times = if self.chance.random_bool(0.05) {
                    500
                } else {
                    1
                };
                bytes.splice(at..at, piece.repeat(times));
            }
            5 => self.repeat_line(bytes),
            6 => {
                let (other, _) = self.valid();
                let from = self.chance.random_range(0..other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let token = self.pick(&TOKENS);
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }

    fn repeat_line(&mut self, bytes: &mut Vec<u8>) {
        let text = bytes.clone();
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let line = self.chance.random_range(0..lines.len());
        let times = self.pick(&[2, 2, 2, 3, 120]);
        let repeated = lines.iter().enumerate().map(|(number, text)| {
            let times = if number == line { times } else { 1 };
            text.repeat(times)
        });
        *bytes = repeated.collect::<Vec<_>>().concat();
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from
            .choose(&mut self.chance)
            .expect("there is something to choose from")
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn one_seed_makes_the_same_requests_twice() {
        let run = |seed| {
            let mut maker = Maker::new(StdRng::seed_from_u64(seed), "");
            let batches = (0..2000).map(|_| maker.batch());
            batches
                .map(|batch| format!("{batch:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
