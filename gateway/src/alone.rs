//! A gateway that is alone, for tests of what needs a whole one.

use std::sync::Arc;

use forebay_storage::block::BlockSize;
use forebay_storage::origin;
use forebay_storage::store::Store;

use crate::access::Access;
use crate::dataset::Datasets;
use crate::gateway::{Gateway, Parts};
use crate::settings::DatasetSettings;

/// One with these datasets and blocks of 1 MiB.
pub(crate) fn gateway(settings: &[DatasetSettings]) -> Arc<Gateway> {
    let block_size = BlockSize::new(1 << 20);
    let transport = origin::transport().expect("there are sockets");
    let datasets = Datasets::new(settings, block_size, transport).expect("good settings");
    let parts = Parts {
        store: Store::new(64 << 20, block_size, None),
        datasets: Arc::new(datasets),
        access: Access::open(),
        name: "gw-0".into(),
        max_requests: 1,
        log_access: false,
        seed: 7,
        fleet: None,
    };
    Gateway::new(parts).expect("metrics with different names")
}
