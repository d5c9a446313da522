//! HTTP/2 connections that send what costs them nothing: closed, while another is served.

use std::time::{Duration, Instant};

use forebay_tests::cluster::{Dataset, Gateway, Setup};
use forebay_tests::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, FIRST_WINDOW, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, Wire,
};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::scratch::Scratch;
use forebay_tests::until;

use crate::stage::directory;

/// More of them than any connection may send.
const MANY: u32 = 100_000;

fn start() -> (Scratch, Gateway) {
    let (files, path) = directory();
    (files, Setup::of([Dataset::new("models", path)]).start())
}

/// Another client reads on a connection that was there before, while `flood` sends; then the flood's is closed.
fn assert_closed(gateway: &Gateway, flood: impl FnOnce(&mut Wire) + Send) {
    let mut good = forebay_tests::http::Connection::open(gateway.address());
    let _ = good.request("GET", "/models/a.bin", &[]).expect(200);
    let mut wire = Wire::open(gateway.address(), FIRST_WINDOW);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(move || {
            flood(&mut wire);
            wire.closes();
        });
        loop {
            let begun = Instant::now();
            let answer = good.request("GET", "/models/a.bin", &[]).expect(200);
            assert_bytes(
                "beside a flood",
                &answer.body,
                &oracle::bytes("a.bin", 1, 5000),
            );
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(3), "served after {took:?}");
            if flooding.is_finished() {
                break;
            }
        }
        flooding.join().expect("the flood is closed");
    });
}

fn repeat(wire: &mut Wire, count: u32, mut send: impl FnMut(&mut Wire, u32)) {
    for number in 0..count {
        send(wire, number);
    }
}

#[test]
fn frames_that_ask_nothing_close_their_connection_and_no_other() {
    let (_files, gateway) = start();
    let floods: [(&str, u8, u32, &[u8]); 5] = [
        ("pings", PING, 0, &[7; 8]),
        ("settings", SETTINGS, 0, &[]),
        ("priorities", 2, 1, &[0, 0, 0, 0, 1]),
        ("frames of no known type", 77, 0, b"what?"),
        ("windows opened by a byte", WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
    ];
    for (count, (name, kind, id, payload)) in floods.into_iter().enumerate() {
        assert_closed(&gateway, |wire| {
            repeat(wire, MANY, |wire, _| wire.frame(kind, 0, id, payload));
        });
        let shed = gateway.metric("forebay_shed_total", &[("reason", "flood")]);
        assert_eq!(shed, (count + 1) as f64, "after {name}");
    }
}

#[test]
fn requests_that_are_reset_at_once_close_their_connection_and_no_other() {
    let (_files, gateway) = start();
    assert_closed(&gateway, |wire| {
        repeat(wire, MANY, |wire, number| {
            let id = 2 * number + 1;
            wire.ask(id, "/models/a.bin");
            wire.frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
        });
    });
}

#[test]
fn a_field_section_without_end_closes_its_connection_and_no_other() {
    let (_files, gateway) = start();
    for payload in [&[][..], &[0x40; 16_000]] {
        assert_closed(&gateway, |wire| {
            wire.frame(HEADERS, END_STREAM, 1, &[0x82]);
            repeat(wire, 20_000, |wire, _| {
                wire.frame(CONTINUATION, 0, 1, payload);
            });
        });
    }
}

#[test]
fn a_body_that_nobody_asked_for_closes_its_stream_and_harms_nobody() {
    let (_files, gateway) = start();
    let mut wire = Wire::open(gateway.address(), FIRST_WINDOW);
    // A POST's body, a byte at a time and never ended: the answer does not wait for it.
    let post = [0x83, 0x86, 0x04, 0x0d];
    let head = [&post[..], b"/models/a.bin", &[0x01, 0x01], b"a"].concat();
    wire.frame(HEADERS, END_HEADERS, 1, &head);
    let mut answered = false;
    while let Some(frame) = wire.receive() {
        answered |= frame.kind == HEADERS && frame.id == 1;
        if frame.kind == RST_STREAM {
            break;
        }
        wire.frame(DATA, 0, 1, b"x");
    }
    assert!(answered, "no answer to a body that does not end");
    assert_eq!(gateway.get("/models/a.bin").expect(200).body.len(), 5000);
}

#[test]
fn a_field_section_that_does_not_end_has_header_timeout_whatever_else_runs() {
    let files = Scratch::new("files");
    files.write("big.bin", oracle::bytes("big.bin", 1, 4 * BLOCK));
    let path = files.path().to_str().expect("a temporary path is UTF-8");
    let gateway = Setup::of([Dataset::new("models", path)])
        .section("[limits]\nheader_timeout = \"1s\"")
        .start();
    let mut wire = Wire::open(gateway.address(), FIRST_WINDOW);
    // An answer that waits for its window, and half of another request.
    wire.ask(1, "/models/big.bin");
    wire.frame(HEADERS, END_STREAM, 3, &[0x82]);
    let begun = Instant::now();
    wire.closes();
    let took = begun.elapsed();
    let bounds = Duration::from_millis(800)..Duration::from_secs(5);
    assert!(bounds.contains(&took), "closed after {took:?}");
    until(Duration::from_secs(5), "it to be gone", || {
        (gateway.metric("forebay_connections", &[]) == 1.0).then_some(())
    });
}
