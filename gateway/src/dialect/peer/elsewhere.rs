//! Whether an asker is to ask another member, and whether one that was sent here can be served.

use forebay_ring::Member;
use forebay_storage::block::BlockKey;
use http::StatusCode;

use super::{Desk, Refusal, Sending, refused};
use crate::peer::redirect::{self, Holder, Redirect};
use crate::peer::wire::Question;
use crate::read::route::{OWNER, ZONE_OWNER};

impl Desk {
    /// Refuses where the asker was sent here and there is nothing to give, or where it is to ask another.
    pub(super) fn elsewhere(
        &self,
        (from, redirect): &(&str, Redirect),
        question: &Question,
        sending: &Sending,
    ) -> Result<(), Refusal> {
        match redirect {
            Redirect::Refused => {}
            Redirect::Denied(name) => self.served.forget(name, self.keys(sending)),
            Redirect::Followed => self.gives(sending)?,
            Redirect::Taken if question.level != OWNER => {}
            Redirect::Taken => {
                let fleet = self.peers.fleet();
                let zone = |name: &str| fleet.table.member(name).map_or("", Member::zone);
                let holders = self.served.all(self.keys(sending)).into_iter();
                let holders = holders.filter(|(name, _)| {
                    // An edge has no memory set apart for what others ask.
                    let member = fleet.table.member(name);
                    member.is_some_and(|member| member.weight() > 0)
                        && (&**name == *from || self.peers.answers(&fleet, name))
                });
                let holders = holders.map(|(name, sent)| Holder {
                    zone: zone(&name).to_owned(),
                    name,
                    sent,
                });
                let holders: Vec<Holder> = holders.collect();
                let (asker, busy) = ((*from, zone(from)), self.egress.is_busy());
                if let Some(other) = redirect::elsewhere(zone(&fleet.own), asker, busy, &holders) {
                    self.served.sent(other, self.keys(sending));
                    self.peers.metrics.redirected("sent");
                    return Err(redirect::name(other));
                }
            }
        }
        Ok(())
    }

    /// Refuses an asker that was sent here where there is nothing to give.
    pub(super) fn gives(&self, sending: &Sending) -> Result<(), Refusal> {
        let mut keys = self.keys(sending);
        if !keys.all(|key| self.reads.store.can_give(&key, ZONE_OWNER)) {
            let reason = "it neither has it nor gets it from an owner";
            return Err(refused(StatusCode::GATEWAY_TIMEOUT, reason));
        }
        Ok(())
    }

    /// The blocks of what is to be sent.
    pub(super) fn keys(&self, sending: &Sending) -> impl Iterator<Item = BlockKey> + use<> {
        let (block_size, version) = (self.reads.store.block_size(), sending.version.key);
        let last = block_size.index(sending.range.end - 1);
        (block_size.index(sending.range.start)..=last).map(move |index| BlockKey { version, index })
    }
}
