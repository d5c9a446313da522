//! A member whose bytes are not what they should be: whoever is between two gateways changes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use forebay_loadtest::client::Outcome;
use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;
use forebay_tests::relay::between;

const SIZE: u64 = 16 * BLOCK as u64 + 17;

/// Two members, of which `a` reaches `b` only through a liar; what `a` serves must be right all the same.
/// Returns the fleet after the reads.
fn through_a_liar(
    change: impl Fn(bool, usize, &mut Vec<u8>) -> bool + Send + Sync + 'static,
) -> Fleet {
    let mut plans: Vec<Plan> = ["a", "b"].map(Plan::new).into();
    let liar = between(plans[1].fleet, change);
    let mut seen = plans[1].clone();
    seen.fleet = liar;
    plans[0].others = Some(vec![seen]);
    let fleet = Fleet::start(&plans, Settings::default(), &["fresh_for = \"10m\""]);
    for key in ["one.bin", "two.bin"] {
        fleet.origin.put(key, SIZE, 0);
        for read in fleet.herd(key, &[0], 8) {
            assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
        }
    }
    fleet
}

#[test]
fn a_flipped_byte_is_seen_by_no_client() {
    let fleet = through_a_liar(|answers, passed, piece| {
        if answers && passed > 100_000 {
            let middle = piece.len() / 2;
            piece[middle] ^= 1;
        }
        true
    });
    let corrupt = fleet.gateways[0].metric("forebay_peer_corrupt_segments_total", &[]);
    assert!(corrupt > 0.0, "the liar was found out");
}

#[test]
fn a_body_that_is_cut_is_seen_by_no_client() {
    let fleet = through_a_liar(|answers, passed, _| !answers || passed < 300_000);
    let cut = fleet.gateways[0].metric("forebay_peer_fills_broken_total", &[("reason", "cut")]);
    assert!(cut > 0.0);
}

#[test]
fn the_wrong_block_of_the_right_length_is_seen_by_no_client() {
    // The question for some blocks is turned into that for those one before: what comes is good, and not what was asked.
    let changed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&changed);
    let fleet = through_a_liar(move |answers, _, piece| {
        let text = String::from_utf8_lossy(piece).into_owned();
        let known = "range: bytes=";
        if !answers && let Some((before, after)) = text.split_once(known) {
            let line = after.split("\r\n").next().unwrap_or_default();
            let block = BLOCK as u64;
            let ends = line.split_once('-').and_then(|(first, last)| {
                Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
            });
            if let Some((first, last)) = ends
                && first >= 2 * block
                && (last + 1) % block == 0
            {
                let rest = &after[line.len()..];
                let range = format!("{}-{}", first - block, last - block);
                *piece = format!("{before}{known}{range}{rest}").into_bytes();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    });
    assert!(
        changed.load(Ordering::Relaxed) > 0,
        "the liar had its chance"
    );
    let corrupt = fleet.gateways[0].metric("forebay_peer_corrupt_segments_total", &[]);
    assert!(corrupt > 0.0, "the liar was found out");
}

#[test]
fn a_member_that_answers_nonsense_is_seen_by_no_client() {
    let fleet = through_a_liar(|answers, passed, piece| {
        if answers && passed > 200 {
            piece.fill(b'x');
        }
        true
    });
    assert!(fleet.gateways[0].origin_gets("models") > 0.0);
}
