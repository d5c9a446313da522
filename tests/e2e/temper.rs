//! An origin that stands still, breaks, refuses, is down, or wants other credentials by now.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_tests::cluster::{Dataset, Gateway, SECRET, Setup};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::scripted::{Asked, Gate, Scripted, answer, object};
use forebay_tests::until;

use crate::stage::assert_sentence;

const TAG: &str = "\"one\"";

const SIZE: usize = 3 * BLOCK + 17;

/// What a request names: a version, and where it begins.
type Pinned = (Option<String>, usize);

fn bytes() -> Vec<u8> {
    oracle::bytes("a.bin", 1, SIZE)
}

/// A gateway over `origin`, whose versions hold for the whole of a test.
fn gateway(origin: &Scripted) -> Gateway {
    let models = origin.s3("models", "weights").line("fresh_for = \"10m\"");
    Setup::of([models]).allow("origin").start()
}

fn hedges(gateway: &Gateway) -> f64 {
    gateway.metric("forebay_origin_hedges_total", &[])
}

fn retries(gateway: &Gateway) -> f64 {
    gateway.metric("forebay_origin_retries_total", &[])
}

#[test]
fn the_rest_of_a_body_that_stands_still_is_asked_for_beside_it() {
    let gate = Arc::new(Gate::default());
    let asked: Arc<Mutex<Vec<Pinned>>> = Arc::default();
    let (held, log) = (Arc::clone(&gate), Arc::clone(&asked));
    let origin = Scripted::speaking(move |asked, out| {
        let whole = object(asked, TAG, "", &bytes());
        let start = asked.range().map_or(0, |(start, _)| start);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let first = log.is_empty();
        log.push((asked.header("if-match").map(str::to_owned), start));
        drop(log);
        if !first {
            return out.write_all(&whole);
        }
        let head = whole.len() - SIZE;
        out.write_all(&whole[..head + BLOCK + 5000])?;
        held.pass();
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    let gateway = gateway(&origin);
    let read = gateway.get("/models/a.bin").expect(200);
    assert_bytes("around the standstill", &read.body, &bytes());
    assert_eq!(hedges(&gateway), 1.0);
    assert_eq!(retries(&gateway), 0.0, "nothing had failed");
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (pin, start) = asked.last().expect("it was asked").clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(pin.as_deref(), Some(TAG), "of the version that was begun");
    assert!(
        (BLOCK..=BLOCK + 5000).contains(&start),
        "from the byte reached, not from {start}"
    );
    gate.open();
}

#[test]
fn where_the_bodies_asked_for_beside_it_stand_still_too_they_are_asked_for_four_times() {
    let gate = Arc::new(Gate::default());
    let (held, times) = (Arc::clone(&gate), AtomicUsize::new(0));
    let origin = Scripted::speaking(move |asked, out| {
        let whole = object(asked, TAG, "", &bytes());
        let start = asked.range().map_or(0, |(start, _)| start);
        let head = whole.len() - (SIZE - start);
        let sent = match times.fetch_add(1, Ordering::Relaxed) {
            0 => head + BLOCK + 5000,
            1..4 => head,
            _ => return out.write_all(&whole),
        };
        out.write_all(&whole[..sent])?;
        held.pass();
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    let gateway = gateway(&origin);
    let read = gateway.get("/models/a.bin").expect(200);
    assert_bytes("around four standstills", &read.body, &bytes());
    assert_eq!((hedges(&gateway), retries(&gateway)), (4.0, 0.0));
    gate.open();
}

#[test]
fn a_body_that_goes_on_after_a_while_is_read_to_its_end() {
    let gate = Arc::new(Gate::default());
    let (held, never, times) = (Arc::clone(&gate), Gate::default(), AtomicUsize::new(0));
    let origin = Scripted::speaking(move |asked, out| {
        let whole = object(asked, TAG, "", &bytes());
        if times.fetch_add(1, Ordering::Relaxed) > 0 {
            // The second one never begins; that it was asked lets the first go on.
            held.open();
            never.pass();
        }
        let head = whole.len() - SIZE;
        out.write_all(&whole[..head + BLOCK])?;
        held.pass();
        out.write_all(&whole[head + BLOCK..])
    });
    let gateway = gateway(&origin);
    let read = gateway.get("/models/a.bin").expect(200);
    assert_bytes("after the standstill", &read.body, &bytes());
    assert_eq!((hedges(&gateway), retries(&gateway)), (1.0, 0.0));
}

#[test]
fn an_answer_that_never_begins_is_asked_for_beside_it() {
    let gate = Arc::new(Gate::default());
    let (held, times) = (Arc::clone(&gate), AtomicUsize::new(0));
    let origin = Scripted::speaking(move |asked, out| {
        if times.fetch_add(1, Ordering::Relaxed) == 0 {
            held.pass();
        }
        out.write_all(&object(asked, TAG, "", &bytes()))
    });
    let gateway = gateway(&origin);
    let read = gateway.get("/models/a.bin").expect(200);
    assert_bytes("by the second", &read.body, &bytes());
    assert_eq!((hedges(&gateway), retries(&gateway)), (1.0, 0.0));
    gate.open();
}

#[test]
fn what_a_client_waits_for_is_tried_four_times() {
    let broken = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let (breaks, count) = (Arc::clone(&broken), Arc::clone(&asked));
    let origin = Scripted::start(move |asked| {
        let at_first = asked.range().is_some_and(|(start, _)| start < 2 * BLOCK);
        if at_first || !breaks.load(Ordering::Acquire) {
            return object(asked, TAG, "", &bytes());
        }
        count.fetch_add(1, Ordering::AcqRel);
        answer(asked, 500, "", b"")
    });
    let gateway = gateway(&origin);
    let _ = gateway.range("/models/a.bin", "bytes=0-1").expect(206);
    broken.store(true, Ordering::Release);
    let failed = gateway.range("/models/a.bin", &format!("bytes={}-", 3 * BLOCK));
    assert_sentence(&gateway, &failed, &[502]);
    assert_eq!(asked.load(Ordering::Acquire), 4);
    assert_eq!(retries(&gateway), 3.0);
}

#[test]
fn an_origin_that_asks_for_less_is_asked_by_fewer_requests_at_once_and_then_by_more_again() {
    let refusals = AtomicUsize::new(2);
    let origin = Scripted::start(move |asked| {
        let refused = |left: usize| left.checked_sub(1);
        match refusals.fetch_update(Ordering::AcqRel, Ordering::Acquire, refused) {
            Ok(_) => answer(asked, 503, "", b""),
            Err(_) => object(asked, TAG, "", &bytes()),
        }
    });
    let gateway = gateway(&origin);
    let allowed = || gateway.metric("forebay_origin_connections", &[]);
    assert_eq!(allowed(), 64.0);
    let read = gateway.get("/models/a.bin").expect(200);
    assert_bytes("whole all the same", &read.body, &bytes());
    assert_eq!(gateway.metric("forebay_origin_slow_downs_total", &[]), 2.0);
    // One was under way, and one there must be.
    assert!(allowed() < 4.0, "{}", allowed());
    let mut number = 0;
    until(Duration::from_secs(20), "more to be allowed", || {
        number += 1;
        let _ = gateway.get(&format!("/models/{number}.bin")).expect(200);
        (allowed() >= 4.0).then_some(())
    });
}

#[test]
fn an_origin_that_is_down_is_asked_by_one_at_a_time_and_what_is_cached_is_served() {
    let down = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let (is_down, count) = (Arc::clone(&down), Arc::clone(&asked));
    let origin = Scripted::speaking(move |asked, out| {
        count.fetch_add(1, Ordering::AcqRel);
        if is_down.load(Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        out.write_all(&object(asked, TAG, "", &bytes()))
    });
    let gateway = gateway(&origin);
    let _ = gateway.get("/models/a.bin").expect(200);
    let is_known_down = || gateway.metric("forebay_origin_down", &[]) == 1.0;
    down.store(true, Ordering::Release);
    until(Duration::from_secs(20), "the outage to be known", || {
        assert_sentence(&gateway, &gateway.get("/models/b.bin"), &[502, 503]);
        is_known_down().then_some(())
    });
    let before = asked.load(Ordering::Acquire);
    let mut told = 0;
    for number in 0..40 {
        let answer = gateway.get(&format!("/models/{number}.bin"));
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.need("retry-after"), "1");
        told += usize::from(answer.text().contains("has not answered for"));
        let cached = gateway.get("/models/a.bin").expect(200);
        assert_bytes("cached", &cached.body, &bytes());
    }
    let probes = asked.load(Ordering::Acquire) - before;
    // Each would have been asked for four times.
    assert!(told >= 20 && probes <= 20, "{told} told, {probes} asked");
    down.store(false, Ordering::Release);
    until(Duration::from_secs(20), "the origin to be back", || {
        (gateway.get("/models/b.bin").status == 200).then_some(())
    });
    assert!(!is_known_down());
}

#[test]
fn credentials_in_a_file_are_replaced_without_a_restart() {
    let keys = Scratch::new("keys");
    let file = keys.write("key-id", "FIRST\n");
    let wanted = Arc::new(Mutex::new("FIRST"));
    let valid = Arc::clone(&wanted);
    let origin = Scripted::start(move |asked: &Asked| {
        let valid = *valid.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = asked.header("authorization").unwrap_or_default();
        match signed.contains(&format!("Credential={valid}/")) {
            true => object(asked, TAG, "", &bytes()),
            false => answer(asked, 403, "", b""),
        }
    });
    let path = file.to_str().expect("a temporary path is UTF-8");
    let options = format!(
        "options = {{ aws_endpoint = {:?}, aws_region = \"us-east-1\", aws_access_key_id = {{ file = {path:?} }}, \
         aws_secret_access_key = {SECRET:?} }}",
        origin.url()
    );
    let models = Dataset::new("models", "s3://weights").line(&options);
    let gateway = Setup::of([models.line("fresh_for = \"10m\"")])
        .allow("origin")
        .start();
    let _ = gateway.get("/models/a.bin").expect(200);
    *wanted.lock().unwrap_or_else(PoisonError::into_inner) = "SECOND";
    assert_sentence(&gateway, &gateway.get("/models/b.bin"), &[502]);
    let beside = keys.write("key-id.new", "SECOND\n");
    std::fs::rename(beside, &file).expect("the file can be replaced");
    until(Duration::from_secs(10), "the new key to be used", || {
        (gateway.get("/models/b.bin").status == 200).then_some(())
    });
    // It is the same dataset: what was cached of it is there.
    let cached = gateway.get("/models/a.bin").expect(200);
    assert!(cached.need("cache-status").contains("; hit"));
}
