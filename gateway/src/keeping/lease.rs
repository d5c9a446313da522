//! Who works on what a document says. Whoever does writes it every few seconds, which is his lease: once nobody has seen
//! it written for [`LEASE`], by his own clock, it is anybody's, and conditional writes let one have it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks at all documents, and two writes of one that is worked on.
pub const TICK: Duration = Duration::from_secs(3);

/// How long a document may not be written until it is anybody's.
pub const LEASE: Duration = Duration::from_secs(12);

/// How often a write is tried that somebody else came before.
pub const TRIES: u32 = 5;

/// As whom this gateway writes.
#[derive(Clone, Debug)]
pub struct Own {
    /// This gateway's name, which an earlier run had too.
    name: Arc<str>,
    /// This run of it: NAME/RUN.
    holder: String,
}

impl Own {
    /// This run of the gateway `name`. `seed` is another one at each start.
    pub fn new(name: &Arc<str>, seed: u64) -> Self {
        Self {
            name: Arc::clone(name),
            holder: format!("{name}/{seed:016x}"),
        }
    }

    /// What it writes as the holder.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Whether a holder is this gateway, whichever run of it.
    pub fn is_a_run_of_ours(&self, holder: &str) -> bool {
        let name = holder.rsplit_once('/').map_or("", |(name, _)| name);
        name == &*self.name
    }
}

/// Who works on a document, as it was last seen or written. `M` is what the next write is held against.
#[derive(Clone, Debug)]
pub struct Lease<M> {
    /// What the document was like.
    pub mark: Option<M>,
    /// When it was last seen to change.
    pub seen: Option<Instant>,
    /// When the last write of ours began that was taken.
    pub kept: Option<Instant>,
    /// Who works on it; empty: whoever wants to.
    pub holder: String,
    /// Counts the writes, so that each is news.
    pub turn: u64,
}

impl<M> Default for Lease<M> {
    fn default() -> Self {
        Self {
            mark: None,
            seen: None,
            kept: None,
            holder: String::new(),
            turn: 0,
        }
    }
}

impl<M> Lease<M> {
    /// Notes what was just seen or written.
    pub fn note(&mut self, mark: M, holder: &str, turn: u64) {
        self.mark = Some(mark);
        self.seen = Some(Instant::now());
        holder.clone_into(&mut self.holder);
        self.turn = turn;
    }

    /// Notes a write of ours that began then.
    pub fn hold(&mut self, mark: M, holder: &str, turn: u64, began: Instant) {
        self.note(mark, holder, turn);
        self.kept = Some(began);
    }

    /// Until when nobody else can take it for anybody's: others may have seen the write as soon as it began. What is
    /// left of the lease is for letting go.
    pub fn held_until(&self) -> Option<Instant> {
        self.kept.map(|began| began + (LEASE - TICK))
    }

    /// Whether nobody works on it any more.
    pub fn is_anybodys(&self) -> bool {
        self.holder.is_empty() || self.seen.is_some_and(|seen| seen.elapsed() >= LEASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_writes_for_a_lease_is_anybodys() {
        let own = Own::new(&"gw-0".into(), 7);
        let mut lease = Lease::default();
        assert!(lease.is_anybodys());
        lease.note((), own.holder(), 1);
        tokio::time::advance(LEASE - Duration::from_millis(1)).await;
        assert!(!lease.is_anybodys());
        lease.note((), own.holder(), 2);
        tokio::time::advance(LEASE).await;
        assert!(lease.is_anybodys());
        let began = Instant::now();
        tokio::time::advance(TICK).await;
        lease.hold((), own.holder(), 3, began);
        let left = lease.held_until().map(|until| until - Instant::now());
        assert_eq!(left, Some(LEASE - 2 * TICK));
        assert!(own.is_a_run_of_ours("gw-0/0000000000000001"));
        assert!(!own.is_a_run_of_ours("gw-00/0000000000000001") && !own.is_a_run_of_ours(""));
    }
}
