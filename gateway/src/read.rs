//! One read: which version, which blocks, in which window, and the stream that leaves.
//!
//! | module | its part |
//! |---|---|
//! | [`version`] | which version is current, asked together with the first block where nothing is known |
//! | [`window`] | the blocks in flight for one request |
//! | [`fetch`] | bringing a run of missing blocks from the origin |
//! | [`body`] | the stream that leaves, at the socket's own pace |
//! | [`passthrough`] | objects whose versions can't be told apart: nothing of them is kept |

pub mod body;
pub mod fetch;
pub mod passthrough;
pub mod version;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use forebay_storage::store::Store;
use forebay_storage::versions::Versions;

use crate::metrics::Metrics;

/// What every read uses.
#[derive(Debug)]
pub struct Reads {
    /// Blocks and fills.
    pub store: Arc<Store>,
    /// Known versions.
    pub versions: Arc<Versions>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How long a client may take no byte of a body.
    pub write_timeout: Duration,
}
