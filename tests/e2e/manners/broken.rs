//! Bodies that break off: whatever the protocol and wherever it happens, the client sees that it has not got all.

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::http::{Answer, Connection};
use forebay_tests::oracle::{self, BLOCK};
use forebay_tests::servers::scripted::{Asked, Scripted, answer, object};

/// Whole answers, by the range that was asked for: its first byte, and its last if it has one.
type Answers = HashMap<Option<(usize, Option<usize>)>, Vec<u8>>;

const SEGMENT: usize = 64 << 10;
const SIZE: usize = 2 * BLOCK + 17;

/// A gateway before an origin that has `SIZE` bytes of each object and gives only the first ones: as many as the key
/// says behind its last dash.
fn start() -> (Scripted, Gateway, Vec<u8>) {
    let bytes = oracle::bytes("a.bin", 1, SIZE);
    let known = bytes.clone();
    // Answers are made once for each question, however often it is asked again.
    let whole: Mutex<Answers> = Mutex::default();
    let origin = Scripted::speaking(move |asked: &Asked, out| {
        let end = asked
            .target
            .rsplit('-')
            .next()
            .and_then(|end| end.parse().ok());
        let end: usize = end.unwrap_or(SIZE);
        let (first, _) = asked.range().unwrap_or((0, None));
        if asked.method == "HEAD" {
            return out.write_all(&object(asked, "\"one\"", "", &known));
        }
        if first >= end && first < SIZE {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if first >= SIZE {
            return out.write_all(&answer(asked, 416, "", b""));
        }
        let mut answers = whole.lock().expect("no script panics");
        let made = answers
            .entry(asked.range())
            .or_insert_with(|| object(asked, "\"one\"", "", &known));
        let (last, made) = (asked.range().and_then(|(_, last)| last), made.clone());
        drop(answers);
        let last = last.unwrap_or(usize::MAX).min(SIZE - 1);
        let missing = (last + 1).saturating_sub(end);
        out.write_all(&made[..made.len() - missing])?;
        match missing {
            0 => Ok(()),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    });
    let models = Dataset::new("models", format!("{}/", origin.url())).line("fresh_for = \"10m\"");
    let gateway = Setup::of([models]).cache("memory = \"512MiB\"").start();
    (origin, gateway, bytes)
}

/// Where bodies are broken off: at each segment's end, and beside some.
fn places() -> Vec<usize> {
    let ends = (0..=SIZE / SEGMENT).map(|segment| segment * SEGMENT);
    let beside = [
        1,
        SEGMENT - 1,
        SEGMENT + 1,
        BLOCK - 1,
        BLOCK + 1,
        2 * BLOCK + 1,
        SIZE - 1,
    ];
    ends.chain(beside).collect()
}

fn each_place(read: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for end in places() {
            let read = &read;
            scope.spawn(move || read(end));
        }
    });
}

/// Fails if the client could take this for the object.
fn assert_broken(end: usize, answer: &Answer, bytes: &[u8]) {
    if answer.status != 200 {
        assert!(answer.status >= 500, "{end}: {}", answer.status);
        return;
    }
    assert_eq!(answer.need("content-length"), SIZE.to_string(), "{end}");
    assert!(!answer.whole, "{end}: a broken body looks whole");
    assert!(answer.body.len() <= end, "{end}: {}", answer.body.len());
    assert!(bytes.starts_with(&answer.body), "{end}: a wrong byte");
}

#[test]
fn http1_0_shows_it_by_the_length() {
    let (_origin, gateway, bytes) = start();
    each_place(|end| {
        let mut connection = Connection::open(gateway.address());
        connection.send(format!("GET /models/old-{end} HTTP/1.0\r\n\r\n").as_bytes());
        let answer = connection.answer(false).expect("an answer");
        assert_broken(end, &answer, &bytes);
    });
}

#[test]
fn http1_1_shows_it_by_the_length_and_the_close() {
    let (_origin, gateway, bytes) = start();
    each_place(|end| {
        let mut connection = Connection::open(gateway.address());
        let target = format!("/models/new-{end}");
        let ask = |connection: &mut Connection| connection.ask("GET", &target, &[]);
        ask(&mut connection);
        // A request behind it must not be answered into the hole.
        ask(&mut connection);
        let answer = connection.answer(false).expect("an answer");
        assert_broken(end, &answer, &bytes);
        if answer.status == 200 {
            assert!(connection.answer(false).is_none(), "{end}");
        }
    });
}

#[test]
fn several_ranges_break_off_visibly() {
    let (_origin, gateway, _) = start();
    each_place(|end| {
        let range = format!("bytes=0-9,{}-", end.saturating_sub(100).max(20));
        let answer = gateway.range(&format!("/models/several-{end}"), &range);
        match answer.status {
            206 => assert!(!answer.whole, "{end}"),
            status => assert!(status >= 500, "{end}: {status}"),
        }
    });
}

#[test]
fn http2_resets_the_stream() {
    let (_origin, gateway, bytes) = start();
    let curl = |target: String| {
        let output = Command::new("curl")
            .args(["-sS", "-f", "--http2-prior-knowledge"])
            .arg(format!("{}{target}", gateway.url()))
            .output();
        let output = output.expect("curl runs");
        (output.status.code(), output)
    };
    each_place(|end| {
        let (code, output) = curl(format!("/models/two-{end}"));
        // 22: a status of 400 and more; 92: the stream was not closed cleanly.
        assert!(matches!(code, Some(22 | 92)), "{end}: {code:?} {output:?}");
        assert!(bytes.starts_with(&output.stdout) && output.stdout.len() <= end);
    });
}
