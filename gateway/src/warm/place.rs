//! Whose part of a job is what: by the table as it is, among the members that answer.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use forebay_ring::{Extents, Fleet, Member, State};
use forebay_storage::block::OVERHEAD;
use forebay_storage::nvme::geometry;
use forebay_storage::object::ObjectId;
use forebay_storage::store::Store;
use serde::{Deserialize, Serialize};

use super::order::{Copies, Tier};
use super::paper::Paper;
use crate::dataset::Datasets;
use crate::peer::Peers;
use crate::pins::Pins;
use crate::purge::Purges;
use crate::read::Reads;
use crate::settings::size::shown;

/// What every job works with.
#[derive(Debug)]
pub struct Crew {
    /// What every read uses.
    pub reads: Arc<Reads>,
    /// What is served.
    pub datasets: Arc<Datasets>,
    /// This gateway's name.
    pub own: Arc<str>,
    /// What is pinned.
    pub pins: Arc<Pins>,
    /// What is let go of, and not called resident.
    pub purges: Arc<Purges>,
    /// The memory of what jobs know.
    pub paper: Paper,
}

/// Consecutive blocks of an object that are to be on one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The member.
    pub member: Arc<str>,
    /// The blocks.
    pub blocks: Range<u32>,
    /// It owns them, in the fleet or in its zone; else they are copies.
    pub owned: bool,
    /// It is asked for them by whoever else is to have them: it has them first.
    pub first: bool,
}

/// What a member's tiers may keep, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Of owned blocks in memory.
    pub memory: u64,
    /// Of copies in memory.
    pub copies: u64,
    /// On NVMe.
    pub nvme: u64,
    /// Blocks on NVMe, however small.
    pub nvme_blocks: u64,
    /// Bytes that may be pinned.
    #[serde(default)]
    pub pinnable: u64,
}

/// What is to be kept by one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Load {
    /// Adds what another one is.
    pub fn add(&mut self, blocks: u64, bytes: u64) {
        self.blocks += blocks;
        self.bytes += bytes;
    }

    fn in_memory(self) -> u64 {
        self.bytes + self.blocks * u64::from(OVERHEAD)
    }

    fn on_nvme(self) -> u64 {
        self.bytes + self.blocks * geometry::OVERHEAD
    }
}

impl Room {
    /// That of this gateway's store.
    pub fn of(store: &Store) -> Self {
        let geometry = store.nvme().map(|nvme| *nvme.geometry());
        Self {
            memory: store.owned_limit(),
            copies: store.copies_limit(),
            nvme: geometry.map_or(0, |geometry| geometry.kept()),
            nvme_blocks: geometry.map_or(0, |geometry| geometry.most_blocks()),
            pinnable: store.pinnable(),
        }
    }

    /// Whether `owned` and `copies` go into `tier`.
    ///
    /// # Errors
    /// The arithmetic, as a sentence that begins with the member's name.
    pub fn takes(&self, member: &str, tier: Tier, owned: Load, copies: Load) -> Result<(), String> {
        let both = Load {
            blocks: owned.blocks + copies.blocks,
            bytes: owned.bytes + copies.bytes,
        };
        let refused = |load: Load, needs: u64, keeps: u64, what: &str| {
            Err(format!(
                "it does not fit: on {member} {} in {} blocks take {} of {what}, which keeps {}: {} too many; \
                 warm less, or give it more",
                shown(load.bytes),
                load.blocks,
                shown(needs),
                shown(keeps),
                shown(needs.saturating_sub(keeps)),
            ))
        };
        let memory = || {
            if owned.in_memory() > self.memory {
                let what = "the memory tier (70 % of [cache] memory, in a fleet less a quarter for copies)";
                return refused(owned, owned.in_memory(), self.memory, what);
            }
            if copies.in_memory() > self.copies {
                let what = "the part of memory that is for copies (a quarter)";
                return refused(copies, copies.in_memory(), self.copies, what);
            }
            Ok(())
        };
        let nvme = || {
            if both.on_nvme() > self.nvme {
                return refused(both, both.on_nvme(), self.nvme, "the NVMe tier");
            }
            if both.blocks > self.nvme_blocks {
                return Err(format!(
                    "it does not fit: on {member} it is {} blocks, and the NVMe tier keeps {} however small they are; \
                     warm less, or give it more",
                    both.blocks, self.nvme_blocks,
                ));
            }
            Ok(())
        };
        match tier {
            Tier::Memory => memory(),
            Tier::Nvme => nvme(),
            Tier::Any => nvme().or_else(|_| memory()),
        }
    }
}

impl Crew {
    /// The other gateways, if there are any.
    pub(super) fn peers(&self) -> Option<&Arc<Peers>> {
        self.reads.peers.as_ref()
    }

    /// Whose part the blocks `wanted` of an object of `size` bytes are, in their order, each with all that are to have
    /// it next to each other.
    pub fn shares(
        &self,
        object: &ObjectId,
        size: u64,
        wanted: &[Range<u32>],
        copies: Copies,
    ) -> Vec<Share> {
        let Some(peers) = self.peers() else {
            let alone = wanted.iter().map(|blocks| Share {
                member: Arc::clone(&self.own),
                blocks: blocks.clone(),
                owned: true,
                first: true,
            });
            return alone.collect();
        };
        let fleet = peers.fleet();
        let placing = Placing {
            peers,
            fleet: &fleet,
            object,
            extents: Extents::new(size, self.reads.store.block_size().bytes()),
            zones: match copies {
                Copies::Owners => BTreeSet::new(),
                _ => fleet.table.members().iter().map(Member::zone).collect(),
            },
            copies,
        };
        let mut shares: Vec<Share> = Vec::new();
        let mut last: HashMap<String, usize> = HashMap::new();
        for wanted in wanted {
            let mut at = wanted.start;
            while at < wanted.end {
                let extent = placing.extents.holding(u64::from(at));
                let next = (extent + 1) * placing.extents.blocks();
                let end = u32::try_from(next).unwrap_or(u32::MAX).min(wanted.end);
                for (place, (member, owned)) in placing.targets(extent).into_iter().enumerate() {
                    let first = place == 0;
                    let before = last.get(member.as_str()).copied();
                    match before.and_then(|place| shares.get_mut(place)) {
                        Some(share)
                            if share.blocks.end == at
                                && (share.owned, share.first) == (owned, first) =>
                        {
                            share.blocks.end = end;
                        }
                        _ => {
                            shares.push(Share {
                                member: member.as_str().into(),
                                blocks: at..end,
                                owned,
                                first,
                            });
                            last.insert(member, shares.len() - 1);
                        }
                    }
                }
                at = end;
            }
        }
        shares
    }
}

struct Placing<'a> {
    peers: &'a Peers,
    fleet: &'a Fleet,
    object: &'a ObjectId,
    extents: Extents,
    zones: BTreeSet<&'a str>,
    copies: Copies,
}

impl Placing<'_> {
    fn can(&self, name: &str) -> bool {
        name == &*self.fleet.own || self.peers.answers(self.fleet, name)
    }

    /// Who is to have an extent, and whether they own it. Where the owner does not answer, readers go to the next
    /// candidate, and so do we.
    fn targets(&self, extent: u64) -> Vec<(String, bool)> {
        let (dataset, key) = (&*self.object.dataset, &*self.object.key);
        let (table, count) = (&self.fleet.table, self.extents.count());
        let mut candidates = table.candidates(dataset, key, extent, count);
        let owner = candidates.find(|member| self.can(member.name()));
        let owner = owner.map_or_else(|| self.fleet.own.to_string(), |own| own.name().to_owned());
        let mut targets = vec![(owner, true)];
        let of_zones = self.zones.iter().filter_map(|zone| {
            let member = table.zone_owner(zone, dataset, key, extent, count)?;
            self.can(member.name()).then(|| member.name().to_owned())
        });
        for name in of_zones {
            if targets.iter().all(|(there, _)| *there != name) {
                targets.push((name, true));
            }
        }
        if self.copies == Copies::All {
            let all = self.fleet.peers.values();
            let all = all.filter(|peer| peer.state != State::Down);
            for name in all.map(|peer| peer.member.name()) {
                if self.can(name) && targets.iter().all(|(there, _)| there != name) {
                    targets.push((name.to_owned(), false));
                }
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic() {
        let room = Room {
            memory: 10 << 20,
            copies: 1 << 20,
            nvme: 20 << 20,
            nvme_blocks: 30,
            pinnable: 0,
        };
        let load = |blocks, bytes| Load { blocks, bytes };
        let none = Load::default();
        assert_eq!(
            room.takes("a", Tier::Memory, load(9, 9 << 20), none),
            Ok(())
        );
        let sentence = room.takes("a", Tier::Memory, load(10, 10 << 20), none);
        let sentence = sentence.err().unwrap_or_default();
        for part in [
            "on a 10 MiB in 10 blocks",
            "10 KiB too many",
            "keeps 10 MiB",
        ] {
            assert!(sentence.contains(part), "{part}: {sentence}");
        }
        assert!(
            room.takes("a", Tier::Memory, none, load(2, 1 << 20))
                .is_err()
        );
        assert_eq!(
            room.takes("a", Tier::Nvme, load(15, 15 << 20), none),
            Ok(())
        );
        assert!(room.takes("a", Tier::Nvme, load(31, 31), none).is_err());
        assert!(room.takes("a", Tier::Any, load(15, 15 << 20), none).is_ok());
        assert!(
            room.takes("a", Tier::Any, load(25, 25 << 20), none)
                .is_err()
        );
    }
}
