//! What is counted of an HTTP/2 client's frames, and what is not.

#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::*;

const RST_STREAM: u8 = 3;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn begun() -> Frames {
    let mut frames = Frames::default();
    frames.read(PREFACE).unwrap();
    frames
}

/// How many of such frames are taken.
fn taken(frames: &mut Frames, sent: &[u8], most: usize) -> usize {
    (0..most).take_while(|_| frames.read(sent).is_ok()).count()
}

#[tokio::test(start_paused = true)]
async fn frames_that_ask_nothing_are_taken_a_thousand_times() {
    for sent in [
        frame(PING, 0, &[0; 8]),
        frame(SETTINGS, 0, &[]),
        frame(2, 0, &[0; 5]),
        frame(RST_STREAM, 0, &[0; 4]),
        frame(DATA, 0, &[]),
        frame(CONTINUATION, 0, &[]),
        frame(77, 0, &[1, 2]),
    ] {
        assert_eq!(taken(&mut begun(), &sent, 5000), 1000, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_clients_need_is_never_counted() {
    for sent in [
        frame(WINDOW_UPDATE, 0, &[0, 0, 64, 0]),
        frame(PING, END_STREAM_OR_ACK, &[0; 8]),
        frame(SETTINGS, END_STREAM_OR_ACK, &[]),
        frame(DATA, END_STREAM_OR_ACK, &[]),
        frame(DATA, 0, b"a"),
        frame(HEADERS, END_HEADERS, b"head"),
    ] {
        assert_eq!(taken(&mut begun(), &sent, 10_000), 10_000, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_window_update_for_each_request_is_no_flood_and_alone_it_is() {
    let update = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]);
    let asked = [frame(HEADERS, END_HEADERS, b"head"), update.clone()].concat();
    assert_eq!(taken(&mut begun(), &asked, 10_000), 10_000);
    assert_eq!(taken(&mut begun(), &update, 10_000), 4000);
    let reserved_too = frame(WINDOW_UPDATE, 0, &[0x80, 0, 0, 1]);
    assert_eq!(taken(&mut begun(), &reserved_too, 10_000), 4000);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_reset_at_once_use_the_allowance_up() {
    let reset = [
        frame(HEADERS, END_HEADERS, b"head"),
        frame(RST_STREAM, 0, &[0; 4]),
    ];
    assert!(taken(&mut begun(), &reset.concat(), 10_000) < 2000);
}

#[tokio::test(start_paused = true)]
async fn the_allowance_fills_up_with_time() {
    let mut frames = begun();
    let ping = frame(PING, 0, &[0; 8]);
    assert_eq!(taken(&mut frames, &ping, 5000), 1000);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let again = taken(&mut frames, &ping, 5000);
    assert!((1000..=1001).contains(&again), "{again}");
}

#[tokio::test(start_paused = true)]
async fn frames_are_known_in_pieces_of_any_size() {
    let ping = frame(PING, 0, &[0; 8]);
    let mut sent = PREFACE.to_vec();
    sent.extend(std::iter::repeat_n(ping, 1001).flatten());
    for size in [1, 2, 3, 7, 16, 17, 18, 4096] {
        let mut frames = Frames::default();
        let flood = sent.chunks(size).find_map(|piece| frames.read(piece).err());
        assert_eq!(flood, Some(Flood), "pieces of {size}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_protocols_are_left_alone() {
    let mut frames = Frames::default();
    frames.read(b"PRI * HTTP/1.1\r\n").unwrap();
    let ping = frame(PING, 0, &[0; 8]);
    assert_eq!(taken(&mut frames, &ping, 5000), 5000);
    assert_eq!(frames.unfinished(), None);
}

#[tokio::test(start_paused = true)]
async fn a_field_section_is_unfinished_until_its_last_frame_has_come() {
    let mut frames = begun();
    assert_eq!(frames.unfinished(), None);
    let head = frame(HEADERS, 0, b"he");
    for piece in head.chunks(4) {
        frames.read(piece).unwrap();
        assert_eq!(frames.unfinished(), Some(1));
    }
    frames.read(&frame(CONTINUATION, 0, b"a")).unwrap();
    assert_eq!(frames.unfinished(), Some(1));
    frames
        .read(&frame(CONTINUATION, END_HEADERS, b"d"))
        .unwrap();
    assert_eq!(frames.unfinished(), None);
    frames.read(&[0, 0]).unwrap();
    assert_eq!(frames.unfinished(), Some(2));
}
