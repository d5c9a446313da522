//! What a gateway says that is on a disk, against what is.

use forebay_storage::block::BlockKey;
use forebay_storage::nvme::Nvme;
use tokio::time::Instant;

use super::SimDisk;
use crate::objects::Name;
use crate::trace::Trace;

impl SimDisk {
    /// Notes that a purge of `name`, which began then, is done for good.
    pub fn purged(&self, name: &Name, begun: Instant) {
        self.lock().purged.insert(name.clone(), begun);
    }

    /// Judges that nothing is called resident that was written before a purge of it.
    pub fn judge_purges(&self, nvme: &Nvme, trace: &Trace) {
        let state = self.lock();
        for (name, begun) in &state.purged {
            let held = nvme
                .residents()
                .find(name.kind.name(), |key| key == name.key);
            for key in held {
                let write = nvme.residents().write_of(&key).unwrap_or(0);
                let asked = state.asked.get(&(key, write));
                if asked.is_some_and(|asked| asked < begun) {
                    let index = key.index;
                    let what = format!("block {index} of {name} is on disk in spite of a purge");
                    trace.violation(&self.name, what);
                }
            }
        }
    }

    /// Judges that what is called resident is there, as far as the disk can be asked.
    pub fn judge_residents(&self, nvme: &Nvme, trace: &Trace) {
        let state = self.lock();
        if nvme.state() != "on" {
            return;
        }
        for (key, ..) in nvme.residents().all() {
            if !state.platter.names(&key) {
                trace.violation(
                    &self.name,
                    "a block is called resident that was never written",
                );
            }
        }
    }

    /// The blocks that are called resident and would be found again whole.
    pub fn kept(&self, nvme: &Nvme) -> Vec<BlockKey> {
        let state = self.lock();
        let all = nvme.residents().all().into_iter();
        all.filter(|(key, _, write)| state.platter.keeps(key, *write))
            .map(|(key, ..)| key)
            .collect()
    }
}
