//! Syncs, as the asker and as the asked: what [`Core`] does with what `sync` reads and writes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use foca::{Member as News, State as Heard};
use rand_foca::RngExt;

use super::Core;
use crate::gossip::report::Refused;
use crate::gossip::sync::{Answer, Known, MAX_SYNC_BYTES, Request, digest, lacking};
use crate::gossip::view::{KEEPS_PLACE, SHOWN_DOWN};

/// In the first seconds much is new: when to sync after the start, in seconds.
const EARLY: [u64; 3] = [1, 2, 4];
pub(super) const FIRST: Duration = Duration::from_secs(EARLY[0]);
/// How often a member compares what it knows with another, once it has settled.
const EVERY: Duration = Duration::from_secs(10);

/// A suspicion that has lasted for so long is told to the member that it is about, so that it can say that it is well:
/// whoever began it may be gone, or have been parted from the others itself, and then nobody else would ever end it.
const LASTING: Duration = Duration::from_secs(5);

/// Nobody asks whether a member has had its place for longer.
const LONGEST: Duration = Duration::from_secs(86_400);

fn millis(time: Duration) -> u32 {
    u32::try_from(time.min(LONGEST).as_millis()).unwrap_or(u32::MAX)
}

/// A sync under way: what to send, and what its answer has to fit.
#[derive(Debug)]
pub struct Sync {
    nonce: u64,
    /// To be sent as it is.
    pub sealed: Bytes,
}

/// What came of a sync.
#[derive(Debug)]
pub struct Synced {
    /// It was this gateway that answered itself.
    pub ourselves: bool,
    /// The other lacks something: to be sent to it too. Its answer may be dropped.
    pub more: Option<Sync>,
}

impl Core {
    /// A member to sync with now, by [`request`](Self::request), if it is time for that.
    pub fn sync_with(&mut self, now: Duration) -> Option<SocketAddr> {
        if self.over() {
            return None;
        }
        if let Some(to) = self.sync_with.take() {
            return Some(to);
        }
        if let Some(to) = self.tell_suspected(now) {
            return Some(to);
        }
        if now < self.next_sync {
            return None;
        }
        self.next_sync = match EARLY.get(self.early) {
            Some(after) => self.started + Duration::from_secs(*after),
            // A tenth more or less, or all of a fleet would sync in step for ever.
            None => now + EVERY.mul_f64(self.rng.random_range(0.9..1.1)),
        };
        self.next_sync = self.next_sync.max(now + Duration::from_millis(100));
        self.early += 1;
        let count = self.foca.num_members();
        if count == 0 {
            return None;
        }
        let chosen = self.rng.random_range(0..count);
        self.foca
            .iter_members()
            .nth(chosen)
            .map(|member| member.id().address)
    }

    /// When somebody is to be told next that it is suspected.
    pub(super) fn tell_due(&self) -> Option<Duration> {
        self.suspected.values().min().map(|since| *since + LASTING)
    }

    /// Where somebody is who is to be told now that it is suspected.
    fn tell_suspected(&mut self, now: Duration) -> Option<SocketAddr> {
        let lasting = self.suspected.iter_mut();
        let (key, since) = lasting.min_by_key(|(_, since)| **since)?;
        if now < *since + LASTING {
            return None;
        }
        *since = now;
        let mut members = self.foca.iter_members();
        members
            .find(|member| member.id().key == *key)
            .map(|member| member.id().address)
    }

    /// A request to sync with whoever is at `to`, a member or a seed. One that is suspected hears of that.
    pub fn request(&mut self, now: Duration, to: SocketAddr) -> Sync {
        let member = self
            .foca
            .iter_members()
            .find(|member| member.id().address == to);
        let instance = member.map_or(0, |member| member.id().rank.instance);
        let suspected = member.filter(|member| member.state() == Heard::Suspect);
        let suspected = suspected.map(|member| (member.clone(), 0));
        self.ask(now, instance, suspected.into_iter().collect())
    }

    fn ask(&mut self, now: Duration, to: u64, known: Vec<Known>) -> Sync {
        let nonce = self.rng.random();
        self.sync_number += 1;
        let request = Request {
            nonce,
            to,
            number: self.sync_number,
            from: self.own().clone(),
            digest: self.digest(now),
            known,
            placed_for: millis(self.placed_for(now)),
        };
        let plain = request.encode().unwrap_or_default();
        let sealed = Bytes::from(self.sync.seal(&plain, b"request"));
        self.counts.sync_bytes_sent += sealed.len() as u64;
        Sync { nonce, sealed }
    }

    /// The answer to a request that came from another member; none for what is not to be answered.
    pub fn answer(
        &mut self,
        now: Duration,
        from: Option<SocketAddr>,
        sealed: &[u8],
    ) -> Option<Bytes> {
        if self.over() {
            return None;
        }
        self.outbox.now = now;
        match self.take_request(now, sealed) {
            Ok(answer) => {
                let sealed = Bytes::from(self.sync.seal(&answer, b"answer"));
                self.counts.sync_bytes_sent += sealed.len() as u64;
                Some(sealed)
            }
            Err(refused) => {
                self.refuse(from.map_or(IpAddr::from([0; 4]), |from| from.ip()), refused);
                None
            }
        }
    }

    fn take_request(&mut self, now: Duration, sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        if sealed.len() > MAX_SYNC_BYTES {
            return Err(Refused::Malformed);
        }
        let request = Request::decode(&self.sync.open(sealed, b"request")?)?;
        let ourselves = request.from.same_start(self.own());
        let proven = request.to == self.own().rank.instance
            && self.requests.admit(request.from.start(), request.number);
        if proven && !ourselves {
            let mut known = request.known;
            known.push((News::alive(request.from), request.placed_for));
            self.learn(now, known);
        }
        let same = request.digest == self.digest(now);
        let answer = Answer {
            nonce: request.nonce,
            from: self.own().clone(),
            same,
            known: if same { Vec::new() } else { self.known(now) },
            placed_for: millis(self.placed_for(now)),
        };
        Ok(answer.encode()?)
    }

    /// Takes in the answer to a sync.
    ///
    /// # Errors
    /// Why it was refused; counted already.
    pub fn synced(
        &mut self,
        now: Duration,
        from: SocketAddr,
        sync: &Sync,
        sealed: &[u8],
    ) -> Result<Synced, Refused> {
        self.outbox.now = now;
        self.take_answer(now, sync, sealed)
            .inspect_err(|refused| self.refuse(from.ip(), *refused))
    }

    fn take_answer(
        &mut self,
        now: Duration,
        sync: &Sync,
        sealed: &[u8],
    ) -> Result<Synced, Refused> {
        if sealed.len() > MAX_SYNC_BYTES {
            return Err(Refused::Malformed);
        }
        let answer = Answer::decode(&self.sync.open(sealed, b"answer")?)?;
        if answer.nonce != sync.nonce {
            return Err(Refused::Stale);
        }
        self.counts.syncs += 1;
        let nothing = |ourselves| Synced {
            ourselves,
            more: None,
        };
        if answer.from.same_start(self.own()) {
            return Ok(nothing(true));
        }
        let instance = answer.from.rank.instance;
        let more = if answer.same {
            Vec::new()
        } else {
            let mut ours = self.known(now);
            let own = News::alive(self.own().clone());
            ours.push((own, millis(self.placed_for(now))));
            lacking(ours, &answer.known)
        };
        let mut known = answer.known;
        known.push((News::alive(answer.from), answer.placed_for));
        self.learn(now, known);
        if self.over() || more.is_empty() {
            return Ok(nothing(false));
        }
        let more = Some(self.ask(now, instance, more));
        Ok(Synced {
            ourselves: false,
            more,
        })
    }

    /// All that is worth telling: not those that everybody is about to forget, or two members could go on
    /// telling each other for ever.
    pub(super) fn known(&self, now: Duration) -> Vec<Known> {
        let own = self.own();
        self.foca
            .iter_membership_state()
            .filter(|member| member.id().key != own.key)
            .filter_map(|member| {
                let (key, rank) = (member.id().key, member.id().rank);
                let age = match member.state() {
                    Heard::Down => {
                        let age = self.entries.age(now, key, rank)?;
                        (age < KEEPS_PLACE + SHOWN_DOWN).then_some(age)?
                    }
                    _ => self.entries.placed_for(now, key),
                };
                Some((member.clone(), millis(age)))
            })
            .collect()
    }

    fn digest(&self, now: Duration) -> u64 {
        let own = self.own();
        self.known(now)
            .iter()
            // Whoever is down for long is forgotten by one before the other, and that is no difference.
            .filter(|(news, age)| {
                news.state() != Heard::Down || u128::from(*age) < SHOWN_DOWN.as_millis()
            })
            .map(|(news, _)| digest(news.id().key, news.id().rank, news.state() == Heard::Down))
            .fold(digest(own.key, own.rank, false), |all, one| all ^ one)
    }
}
