//! The protocol without sockets, clocks and chance of its own: foca, sealed, with what it leaves to us.
//!
//! Whoever drives a [`Core`] tells it the time (since some start of its own choosing), hands it what came in,
//! and carries out what it asks for: packets to be sent, members to sync with, a moment to be woken at. The
//! same calls with the same seed make the same packets (their nonces aside), which is what a simulator needs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Foca, Member as News, NoCustomBroadcast, State as Heard};
use rand_foca::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::codec::{Codec, CodecError, peek};
use super::identity::{Id, Identity, IdentityError, Rank};
use super::outbox::{Outbox, PREFIX, config};
use super::replay::Windows;
use super::report::{Counts, Ended, Refused};
use super::sync::Known;
use super::view::{Entries, View};
use crate::donors::NEWCOMER;
use crate::seal::{FleetKeys, OpenError, Seal};

mod syncing;

pub use syncing::{Sync, Synced};

const VERSION: u8 = 1;

/// What was told of members, by key: whether that they are down, and since when they are, or have their place.
type Ages = HashMap<u64, (bool, Duration)>;

/// A gateway that has just started is the later of two with its name, whatever their clocks say.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// Sources whose first refusal is told; from then on they are only counted.
const MAX_TOLD: usize = 1024;

/// One gateway's membership, to be driven.
pub struct Core {
    foca: Foca<Id, Codec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    rng: Xoshiro256PlusPlus,
    outbox: Outbox,
    wrote: Arc<AtomicBool>,
    gossip: Seal,
    sync: Seal,
    started: Duration,
    /// When this gateway got its place, or found out that it had been parted from the others.
    placed: Duration,
    number: u64,
    sync_number: u64,
    packets: Windows,
    requests: Windows,
    entries: Entries,
    next_sync: Duration,
    early: usize,
    sync_with: Option<SocketAddr>,
    /// Who is suspected, and since when, or when it was last told of that.
    suspected: BTreeMap<u64, Duration>,
    raised: bool,
    left: bool,
    changed: bool,
    // When time alone changes the view next.
    view_due: Option<Duration>,
    told: BTreeSet<(IpAddr, Refused)>,
    ended: Option<Ended>,
    counts: Counts,
}

impl Core {
    /// A gateway that knows nobody yet. `seed` decides what chance decides; `now` is the time of its start.
    ///
    /// # Errors
    /// An identity that does not fit a packet, or an address that nobody can reach.
    pub fn new(
        identity: Identity,
        keys: &FleetKeys,
        seed: u64,
        now: Duration,
    ) -> Result<Self, IdentityError> {
        let id = Id::new(identity)?;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let wrote = Arc::new(AtomicBool::new(false));
        let codec = Codec {
            wrote: Arc::clone(&wrote),
        };
        let chance = Xoshiro256PlusPlus::seed_from_u64(rng.random());
        Ok(Self {
            foca: Foca::new(id, config(1), chance, codec),
            rng,
            outbox: Outbox::new(now),
            wrote,
            gossip: keys.derive("gossip"),
            sync: keys.derive("sync"),
            started: now,
            placed: now,
            number: 0,
            sync_number: 0,
            packets: Windows::default(),
            requests: Windows::default(),
            entries: Entries::default(),
            next_sync: now + syncing::FIRST,
            early: 1,
            sync_with: None,
            suspected: BTreeMap::new(),
            raised: false,
            left: false,
            changed: true,
            view_due: None,
            told: BTreeSet::new(),
            ended: None,
            counts: Counts::default(),
        })
    }

    /// Takes in a packet that came over UDP. What is refused is counted, and told once for each source.
    pub fn receive(&mut self, now: Duration, from: SocketAddr, sealed: &[u8]) {
        self.counts.packets_received += 1;
        self.counts.bytes_received += sealed.len() as u64;
        if self.over() {
            return;
        }
        self.outbox.now = now;
        if let Err(refused) = self.take_in(now, sealed) {
            self.refuse(from.ip(), refused);
        }
    }

    fn take_in(&mut self, now: Duration, sealed: &[u8]) -> Result<(), Refused> {
        let plain = self.gossip.open(sealed, b"")?;
        let mut data = &plain[..];
        if data.len() < PREFIX || data.get_u8() != VERSION {
            return Err(Refused::Malformed);
        }
        let number = data.get_u64();
        let (header, news) = peek(data)?;
        self.meet(now, &header.src);
        for news in &news {
            self.meet(now, news.id());
        }
        if self.over() || header.src.key == self.own().key {
            return Ok(());
        }
        // foca takes an Announce for any start of ours. We are sharper: what was recorded before this start
        // must not count in it.
        if header.dst != *self.own() || !self.packets.admit(header.src.start(), number) {
            return Err(Refused::Stale);
        }
        let from = header.src.address;
        if let Err(error) = self.foca.handle_data(data, &mut self.outbox) {
            tracing::debug!(%error, "a packet of a member made no sense");
        }
        self.settle(now, Some(from));
        Ok(())
    }

    /// Does what is due. To be called at [`due`](Self::due), and harmless at any other time.
    pub fn tick(&mut self, now: Duration) {
        if self.over() {
            return;
        }
        self.outbox.now = now;
        while let Some(Reverse(timed)) = self.outbox.timers.peek()
            && timed.at.0 <= now
        {
            if let Some(Reverse(timed)) = self.outbox.timers.pop()
                && let Err(error) = self.foca.handle_timer(timed.timer, &mut self.outbox)
            {
                tracing::debug!(%error, "a timer of the gossip came at an odd time");
            }
        }
        self.settle(now, None);
        self.grow_older(now);
    }

    /// When [`tick`](Self::tick) has to be called next.
    pub fn due(&self) -> Duration {
        if self.over() {
            return self.outbox.now + Duration::from_secs(3600);
        }
        let timer = self.outbox.timers.peek().map(|Reverse(timed)| timed.at.0);
        let soonest = timer.map_or(self.next_sync, |timer| timer.min(self.next_sync));
        let soonest = self.tell_due().map_or(soonest, |due| due.min(soonest));
        match self.view_due {
            Some(due) => soonest.min(due),
            None => soonest,
        }
    }

    /// The next packet to be sent, and where to.
    pub fn transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let (to, data) = self.outbox.packets.pop_front()?;
        self.number += 1;
        let mut plain = Vec::with_capacity(PREFIX + data.len());
        plain.put_u8(VERSION);
        plain.put_u64(self.number);
        plain.extend_from_slice(&data);
        let sealed = self.gossip.seal(&plain, b"");
        self.counts.packets_sent += 1;
        self.counts.bytes_sent += sealed.len() as u64;
        Some((to, sealed))
    }

    /// Hands this gateway's blocks over: it has no place in the table any more, and still answers.
    pub fn drain(&mut self, now: Duration) {
        self.outbox.now = now;
        let own = self.own();
        if !self.over()
            && own
                .details
                .as_ref()
                .is_some_and(|details| !details.draining)
        {
            let id = own.draining();
            self.become_id(now, id);
        }
    }

    /// Tells the others the digest of the settings that this gateway has from now on.
    pub fn revise(&mut self, now: Duration, settings: u64) {
        self.outbox.now = now;
        let own = self.own();
        if !self.over()
            && own
                .details
                .as_ref()
                .is_some_and(|details| details.settings != settings)
        {
            let id = own.with_settings(settings);
            self.become_id(now, id);
        }
    }

    /// Says goodbye: others stop asking at once, and keep the place for a while, for it may only be a restart.
    pub fn leave(&mut self, now: Duration) {
        self.outbox.now = now;
        if self.over() {
            return;
        }
        let told = self
            .foca
            .leave_cluster(&mut self.outbox)
            // Three members hear of it at a time; a few more, for one packet is easily lost.
            .and_then(|()| self.foca.gossip(&mut self.outbox))
            .and_then(|()| self.foca.gossip(&mut self.outbox));
        if let Err(error) = told {
            tracing::debug!(%error, "the fleet was not told that this gateway leaves; it will notice");
        }
        self.left = true;
    }

    /// Why this gateway's membership has ended, if it has.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Who there is now, if that changed since the last call.
    pub fn view(&mut self, now: Duration) -> Option<View> {
        let placed_for = self.placed_for(now);
        std::mem::take(&mut self.changed).then(|| self.entries.view(now, self.own(), placed_for))
    }

    /// How long this gateway has had its place.
    fn placed_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.placed)
    }

    /// How many other members answer or are suspected at most.
    pub fn others(&self) -> usize {
        self.foca.num_members()
    }

    /// What came and went.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn own(&self) -> &Id {
        self.foca.identity()
    }

    fn over(&self) -> bool {
        self.left || self.ended.is_some()
    }

    /// Another start of our own name ends this one if it is the later; a fresh start makes itself the later
    /// one, once: only its clock can be wrong.
    fn meet(&mut self, now: Duration, other: &Id) {
        let own = self.foca.identity();
        if other.key != own.key || other.rank.start() <= own.rank.start() || self.over() {
            return;
        }
        if now < self.started + FRESH_FOR && !self.raised {
            self.raised = true;
            let mut id = own.clone();
            id.rank = Rank {
                incarnation: other.rank.incarnation.saturating_add(1),
                revision: 0,
                ..id.rank
            };
            self.become_id(now, id);
            return;
        }
        let name = own
            .details
            .as_ref()
            .map_or("", |details| details.member.name());
        self.ended = Some(Ended::Superseded {
            name: name.to_owned(),
            address: other.address,
        });
    }

    fn become_id(&mut self, now: Duration, id: Id) {
        if let Err(error) = self.foca.change_identity(id, &mut self.outbox) {
            tracing::debug!(%error, "the gossip would not take another identity");
        }
        self.outbox.rejoined = true;
        self.changed = true;
        self.settle(now, None);
    }

    fn learn(&mut self, now: Duration, known: Vec<Known>) {
        for (news, _) in &known {
            self.meet(now, news.id());
        }
        if self.over() {
            return;
        }
        let ages: Ages = known
            .iter()
            .map(|(news, age)| {
                let down = news.state() == Heard::Down;
                (news.id().key, (down, Duration::from_millis((*age).into())))
            })
            .collect();
        let news = known.into_iter().map(|(news, _)| news);
        if let Err(error) = self.foca.apply_many(news, true, &mut self.outbox) {
            tracing::debug!(%error, "what another member knows made no sense");
        }
        self.look(now, &ages);
        self.settle(now, None);
    }

    /// After each step of foca's: what it has asked for between the lines.
    fn settle(&mut self, now: Duration, from: Option<SocketAddr>) {
        if std::mem::take(&mut self.outbox.rejoined) {
            // foca waits for the next packet before it is connected again; its members are known.
            let nothing = std::iter::empty::<News<Id>>();
            if let Err(error) = self.foca.apply_many(nothing, true, &mut self.outbox) {
                tracing::debug!(%error, "the gossip did not go on");
            }
            // Whoever took us for dead knows something that we don't: perhaps a later start of our name.
            self.sync_with = self.sync_with.or(from);
        }
        if self.wrote.swap(false, Ordering::Relaxed) {
            self.look(now, &HashMap::new());
        }
    }

    /// Compares foca's members with what readers go by.
    fn look(&mut self, now: Duration, ages: &Ages) {
        self.wrote.store(false, Ordering::Relaxed);
        let own = self.foca.identity();
        let suspected = self
            .foca
            .iter_members()
            .filter(|one| one.state() == Heard::Suspect);
        let since = |key: u64| self.suspected.get(&key).copied().unwrap_or(now);
        self.suspected = suspected
            .map(|one| (one.id().key, since(one.id().key)))
            .collect();
        for member in self.foca.iter_membership_state() {
            let id = member.id();
            if id.key == own.key {
                continue;
            }
            // What was told of another state says nothing of this one.
            let down = member.state() == Heard::Down;
            let told = ages.get(&id.key).filter(|(told, _)| *told == down);
            let age = told.map_or(Duration::ZERO, |(_, age)| *age);
            let observed = self.entries.observe(now, id, member.state(), age);
            self.changed |= observed.changed;
            if observed.parted {
                self.placed = now;
            }
            if observed.new_start && member.state() == Heard::Alive {
                greet(own, id);
            }
        }
        if self.entries.any_past(now) {
            let members = self.foca.iter_membership_state();
            let heard_of = members.map(|member| member.id().key).collect();
            self.entries.forget(now, &heard_of);
        }
        self.grow_older(now);
        let count = u32::try_from(self.foca.num_members() + 1).unwrap_or(u32::MAX);
        if let Err(error) = self.foca.set_config(config(count)) {
            tracing::debug!(%error, "the gossip would not take its settings");
        }
    }

    /// Time alone may have changed what readers go by.
    fn grow_older(&mut self, now: Duration) {
        self.changed |= self.view_due.is_some_and(|due| due <= now);
        let known = self.placed + NEWCOMER;
        let due = self.entries.due(now).into_iter();
        self.view_due = due.chain((known > now).then_some(known)).min();
    }

    fn refuse(&mut self, from: IpAddr, refused: Refused) {
        self.counts.refused[refused as usize] += 1;
        // A packet for an earlier revision of ours is everyday.
        if refused == Refused::Stale
            || self.told.len() >= MAX_TOLD
            || !self.told.insert((from, refused))
        {
            return;
        }
        let why = match refused {
            Refused::Foreign => OpenError::Foreign.to_string(),
            Refused::Key => OpenError::Key.to_string(),
            Refused::Malformed | Refused::Stale => CodecError::Malformed.to_string(),
        };
        tracing::warn!(%from, reason = refused.label(), "refused on the fleet's port, told once for each source: {why}");
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("own", self.own())
            .field("others", &self.others())
            .finish_non_exhaustive()
    }
}

/// Says once for each start what is odd about a member.
fn greet(own: &Id, other: &Id) {
    let (Some(own), Some(other)) = (&own.details, &other.details) else {
        return;
    };
    let member = other.member.name();
    if own.settings != other.settings {
        tracing::warn!(
            member,
            "a member's settings differ from this gateway's: give all the same block_size and datasets"
        );
    }
    if own.protocols.1 < other.protocols.0 || other.protocols.1 < own.protocols.0 {
        tracing::warn!(
            member,
            version = %other.version,
            "a member and this gateway have no peer protocol in common: upgrade one release at a time"
        );
    }
}
