//! What a job says of itself.

use std::time::Duration;

use super::*;
use crate::warm::order::Tier;
use crate::warm::record::Records;

fn job() -> Job {
    let order = Order::all("models", "a/", Tier::Memory);
    Job::new("17".to_owned(), order, SystemTime::UNIX_EPOCH)
}

#[tokio::test(start_paused = true)]
async fn progress_is_monotonic_and_full_only_once_it_was_verified() {
    let job = job();
    job.begin();
    assert_eq!(job.line(), "warm 17 0.0% 0/0 bytes 0 B/s eta 1s\n");
    job.listed(2, 100);
    job.bring();
    job.looked(100, 60);
    tokio::time::advance(Duration::from_secs(2)).await;
    job.came(30, Came::Origin);
    let value = job.json();
    assert_eq!(
        (&value["percent"], &value["rate"]),
        (&json!(70.0), &json!(15))
    );
    assert_eq!(value["eta_seconds"], json!(2));
    assert_eq!(job.line(), "warm 17 70.0% 70/100 bytes 15 B/s eta 2s\n");
    job.came(30, Came::Elsewhere);
    job.came(30, Came::Origin);
    assert_eq!(
        job.json()["resident_bytes"],
        json!(100),
        "no more than there is"
    );
    assert_eq!(job.json()["percent"], json!(99.9));
    job.go_on(State::Done);
    job.go_on(State::Cancelled);
    assert_eq!(job.line(), "done 17 100 bytes in 2.0s\n");
    assert_eq!(job.json()["origin_bytes_read"], json!(60));
    assert_eq!(job.json()["created"], json!("1970-01-01T00:00:00Z"));
}

#[test]
fn an_end_is_told_once_it_was_written_down_and_the_first_one_counts() {
    let dir = std::env::temp_dir().join(format!("forebay-end-{}", std::process::id()));
    let records = Records::new(&dir);
    let job = job();
    job.decide(State::Done);
    job.decide(State::Cancelled);
    assert_eq!(job.state(), State::Queued);
    records.save(&job).expect("a directory");
    assert_eq!(records.load()[0].state(), State::Done);
    job.tell();
    assert_eq!(job.state(), State::Done);
    let _ = std::fs::remove_dir_all(dir);
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_that_of_late() {
    let job = job();
    job.begin();
    job.listed(1, 1 << 40);
    job.bring();
    for _ in 0..60 {
        tokio::time::advance(Duration::from_secs(1)).await;
        job.came(1000, Came::Origin);
    }
    for _ in 0..30 {
        tokio::time::advance(Duration::from_secs(1)).await;
        job.came(10, Came::Origin);
    }
    assert_eq!(job.json()["rate"], json!(10));
}

#[tokio::test(start_paused = true)]
async fn the_forecast_of_what_comes_in_swells_holds_between_them_and_ends_when_nothing_comes() {
    let job = job();
    job.begin();
    // Listing takes a while; it says nothing of the pace.
    tokio::time::advance(Duration::from_secs(5)).await;
    job.listed(1, 100);
    job.bring();
    for swell in 1..5u64 {
        for _ in 0..9 {
            tokio::time::advance(Duration::from_millis(100)).await;
            let eta = job.json()["eta_seconds"].as_u64();
            assert!(
                swell == 1 || eta >= Some(10 - swell),
                "{eta:?} in swell {swell}"
            );
            assert!(eta <= Some(11 - swell), "{eta:?} in swell {swell}");
        }
        tokio::time::advance(Duration::from_millis(100)).await;
        job.came(10, Came::Origin);
        assert_eq!(job.json()["eta_seconds"], json!(10 - swell));
    }
    tokio::time::advance(Duration::from_secs(22)).await;
    assert_eq!(job.json()["rate"], json!(1));
    assert!(job.json()["eta_seconds"].as_u64() > Some(30));
}

#[tokio::test(start_paused = true)]
async fn what_has_come_of_blocks_that_are_not_whole_is_forecast_by_and_is_no_progress() {
    let job = job();
    job.begin();
    job.listed(1, 1000);
    job.bring();
    let (one, other) = (job.arriving(), job.arriving());
    for second in 1..=5 {
        tokio::time::advance(Duration::from_secs(1)).await;
        one.set(10 * second);
        other.set(10 * second);
    }
    let value = job.json();
    assert_eq!(
        (&value["resident_bytes"], &value["rate"]),
        (&json!(0), &json!(20))
    );
    assert_eq!(value["eta_seconds"], json!(45));
    one.less(50);
    job.came(50, Came::Origin);
    assert_eq!(job.json()["resident_bytes"], json!(50));
    assert_eq!(job.json()["eta_seconds"], json!(45));
    // A piece that failed has nothing under way any more.
    drop(other);
    assert_eq!(job.json()["eta_seconds"], json!(48));
}

#[tokio::test]
async fn what_went_is_made_good_for_before_it_is_progress() {
    let job = job();
    job.listed(1, 100);
    job.bring();
    job.looked(100, 100);
    job.came(100, Came::Origin);
    // Twenty of them went, and there are to be ten more by now.
    job.looked(110, 30);
    assert_eq!(job.json()["resident_bytes"], json!(100));
    job.came(20, Came::Origin);
    assert_eq!(job.json()["resident_bytes"], json!(100));
    job.came(10, Came::Origin);
    assert_eq!(job.counts(), [1, 110, 110, 130]);
    // By now there is less.
    job.looked(50, 0);
    assert_eq!(job.counts(), [1, 50, 50, 130]);
}

#[tokio::test]
async fn a_job_is_cancelled_before_it_begins_too() {
    let job = job();
    job.cancel();
    job.cancelled().await;
    assert!(job.is_cancelled());
}
