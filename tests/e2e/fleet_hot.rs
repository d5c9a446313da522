//! Hot blocks: many gateways that want the same at once, and owners that have more to send than their link takes.

use std::time::Duration;

use forebay_loadtest::client::Outcome;
use forebay_loadtest::origin::Settings;
use forebay_tests::fleet::{Fleet, Plan};
use forebay_tests::oracle::BLOCK;

const SIZE: u64 = 48 * BLOCK as u64 + 17;

#[test]
fn owners_with_more_to_send_than_leaves_name_who_has_it_and_every_byte_crosses_once_to_each() {
    let plans: Vec<Plan> = ["a", "b", "c", "d", "e", "f"].map(Plan::new).into();
    // So slow that what is asked for together is outstanding for longer than a tenth of a second.
    let slow = Settings {
        total_rate: Some(24 << 20),
        first_byte: Duration::from_millis(30),
        ..Settings::default()
    };
    let fleet = Fleet::start(&plans, slow, &["fresh_for = \"10m\""]);
    fleet.origin.put("a.bin", SIZE, 0);
    let all: Vec<usize> = (0..plans.len()).collect();
    for read in fleet.herd("a.bin", &all, 2) {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
    let redirects = |outcome| fleet.metric("forebay_peer_redirects_total", &[("outcome", outcome)]);
    let (sent, followed) = (redirects("sent"), redirects("followed"));
    assert!(
        followed > 0.0,
        "{sent} were sent elsewhere, {followed} had it there"
    );
    assert!(
        followed + redirects("denied") <= sent,
        "nobody goes where nobody sent it"
    );
    assert_eq!(fleet.origin.counters().bytes_sent, SIZE);
    // Each gateway gets what it does not own once, whoever gives it: five sixths, with checksums.
    let received = fleet.metric("forebay_peer_bytes_total", &[("direction", "received")]);
    let most = (plans.len() - 1) as f64 * SIZE as f64 * 1.02;
    assert!(
        received <= most,
        "{received} bytes crossed, {most} would do"
    );
    // What was hot is copied in memory by now: nobody is asked, and nobody sent anywhere.
    for read in fleet.herd("a.bin", &all, 1) {
        assert_eq!(read.outcome, Outcome::Whole, "{read:?}");
    }
    assert_eq!(redirects("sent"), sent);
}
