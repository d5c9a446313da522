//! What taking a job promises.

#![allow(clippy::unwrap_used)]

use forebay_storage::block::BlockSize;
use forebay_storage::origin;
use forebay_storage::store::Store;

use super::*;
use crate::access::Access;
use crate::dataset::Datasets;
use crate::gateway::{Gateway, Parts};

/// How long is waited for what should come.
const PATIENCE: Duration = Duration::from_secs(30);

fn gateway() -> Arc<Gateway> {
    let block_size = BlockSize::new(1 << 20);
    let datasets = Datasets::new(&[], block_size, origin::transport().unwrap());
    let parts = Parts {
        store: Store::new(64 << 20, block_size, None),
        datasets: Arc::new(datasets.unwrap()),
        access: Access::open(),
        name: "gw-0".into(),
        max_requests: 1,
        log_access: false,
        seed: 7,
        fleet: None,
    };
    Gateway::new(parts).unwrap()
}

#[tokio::test]
async fn a_job_whose_taker_leaves_is_taken_all_the_same() {
    let directory = std::env::temp_dir().join(format!("forebay-take-{}", std::process::id()));
    let gateway = gateway();
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
