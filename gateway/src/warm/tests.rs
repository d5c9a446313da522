//! What taking a job promises.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::alone;

/// How long is waited for what should come.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_job_whose_taker_leaves_is_taken_all_the_same() {
    let directory = std::env::temp_dir().join(format!("forebay-take-{}", std::process::id()));
    let gateway = alone::gateway(&[]);
    let jobs = &gateway.state.jobs;
    jobs.keep_in(&directory);
    let order = Order::parse("models", "", b"", false).unwrap();
    {
        let mut taken = Box::pin(jobs.take(order.clone(), Vec::new()));
        assert!(futures::poll!(&mut taken).is_pending());
    }
    let again = tokio::time::timeout(PATIENCE, jobs.take(order, Vec::new())).await;
    let job = again.expect("nobody waits for a taker that left").unwrap();
    assert!(job.is_written().await);
    assert_eq!(jobs.all().len(), 1);
    let _ = std::fs::remove_dir_all(directory);
}
