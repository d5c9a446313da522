//! The log of purges: how members tell each other of them, at once and later.
//!
//! One purge is noted, applied and written down here, then told to all others; who does not answer is told as soon as
//! it does. Beside that, members settle their logs when one comes back, once a minute, and whenever an answer shows
//! that the two know of different purges ([`crate::peer::agreement`]). With a state store the log is there too.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use forebay_ring::{Fleet, State as Does};
use forebay_storage::aside::{aside, done};
use forebay_storage::purge::Place;
use forebay_storage::residents::Tally;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::log::{Purge, Told};
use super::{Purged, Purges, Wanted};
use crate::peer::{PeerError, Peers};

/// Where members are told of purges, and asked for their log.
pub const PATH: &str = "/purges";

/// Between two times that all logs are settled, whatever was seen of the others.
const EACH: Duration = Duration::from_secs(60);

/// Between two tries to tell whoever did not answer, and to be told where nobody did.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the state store may take to tell what it knows: a gateway that starts waits for it.
const STORE: Duration = Duration::from_secs(3);

/// No log is longer: [`super::log::MOST`] of the longest keys, with escapes.
pub const LONGEST: usize = 32 << 20;

/// Whether a purge is worth remembering: one of a tier, or of what the origin does not have any more, makes room, and
/// whoever was away has none of it to serve.
pub(super) fn is_remembered(wanted: &Wanted) -> bool {
    wanted.place == Place::Everywhere && wanted.others.is_none()
}

/// Purges here and on all members that answer, and adds what went; whoever does not answer is told later.
///
/// # Errors
/// If it can't be noted in the data directory here: then it is told to nobody.
pub(super) async fn everywhere(
    purges: &Arc<Purges>,
    wanted: &Wanted,
    purged: &mut Purged,
) -> io::Result<()> {
    let purge = purges.log.begin(wanted, purges.log.chance());
    let told = Told {
        purges: vec![purge.clone()],
        ..Told::default()
    };
    purged.add(take_in(purges, told).await?.gone);
    let (told, stored) = futures::join!(tell(purges, &purge), timeout(STORE, purges.log.store()));
    if !matches!(stored, Ok(Ok(_))) {
        tracing::info!("the state store does not take a purge: it is told again");
        purges.log.owe_store();
    }
    let (there, absent) = told;
    purged.add(there);
    purged.absent.extend(absent);
    Ok(())
}

/// Tells all other members. What they let go, and who did not answer and is told later.
async fn tell(purges: &Arc<Purges>, purge: &Purge) -> (Tally, BTreeSet<String>) {
    // Numbers and texts always serialise.
    let body = serde_json::to_vec(&purges.log.tell_of(purge)).unwrap_or_default();
    let answers = match &purges.reads.peers {
        Some(peers) => peers.ask_others(&Method::POST, PATH, body.into()).await,
        None => Vec::new(),
    };
    let (mut there, mut absent, mut older) = (Tally::default(), BTreeSet::new(), false);
    for (name, mut answer) in answers {
        if let (Err(PeerError::Refused(_)), Some(peers)) = (&answer, &purges.reads.peers) {
            // The release before this one knows no log.
            let (path, body) = super::question(&purge.wanted());
            answer = peers.ask_one(&name, &Method::POST, &path, body).await;
            older = true;
        }
        match answer {
            Ok(answer) => {
                there.blocks += answer["blocks"].as_u64().unwrap_or(0);
                there.bytes += answer["bytes"].as_u64().unwrap_or(0);
            }
            Err(error) => {
                tracing::info!(member = name, %error, "a member did not purge");
                purges.log.owe(&name);
                absent.insert(name);
            }
        }
    }
    if older {
        // Its answers do not say what it had purged when it gave them.
        let again = purges.here(purge.wanted()).await;
        there.blocks += again.map_or(0, |again| again.blocks);
    }
    (there, absent)
}

fn tell_what_went(purged: io::Result<Taken>, from: &str) -> Option<Value> {
    match purged {
        Ok(taken) => {
            let Tally { blocks, bytes, .. } = taken.gone;
            tracing::info!(blocks, bytes, member = from, "purged for a member");
            Some(json!({ "blocks": blocks, "bytes": bytes }))
        }
        Err(error) => {
            tracing::warn!(%error, "what a member purged may come back with a restart");
            None
        }
    }
}

/// What came of being told.
#[derive(Default)]
struct Taken {
    /// What was let go.
    gone: Tally,
    /// Purges that were news.
    count: u64,
}

/// Notes what is news, lets it go, and writes it down; in a task of its own, so that it is done whole. What it let go.
///
/// # Errors
/// If it can't be written down: then it is gone, but a restart may bring it back.
async fn take_in(purges: &Arc<Purges>, told: Told) -> io::Result<Taken> {
    let purges = Arc::clone(purges);
    let mut taken = tokio::spawn(async move {
        let _turn = purges.log.turn.lock().await;
        let news = purges.log.note(told);
        let mut gone = Ok(Tally::default());
        let mut add = |more: io::Result<Tally>| match (&mut gone, more) {
            (Ok(sum), Ok(more)) => {
                sum.blocks += more.blocks;
                sum.bytes += more.bytes;
            }
            (sum, Err(error)) => *sum = Err(error),
            (Err(_), Ok(_)) => {}
        };
        let (empty, count) = (news.is_empty(), news.purges.len() as u64);
        if news.all {
            tracing::warn!(
                "this gateway was away for longer than purges are remembered: it forgets all that is cached"
            );
            for dataset in purges.datasets.all() {
                add(purges.here(Wanted::all(&dataset.name, "")).await);
            }
        }
        for wanted in super::together(news.purges.iter().map(Purge::wanted)) {
            add(purges.here_all(wanted).await);
        }
        purges.log.applied();
        if !empty && gone.is_ok() {
            save(&purges).await?;
        }
        gone.map(|gone| Taken { gone, count })
    });
    done(&mut taken)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

async fn save(purges: &Arc<Purges>) -> io::Result<()> {
    if !purges.log.is_kept() {
        return Ok(());
    }
    let saving = Arc::clone(purges);
    let saved = done(&mut aside(move || saving.log.save())).await;
    saved.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The same for what this gateway should have heard of before.
async fn catch(purges: &Arc<Purges>, told: Told, whose: &str) {
    match take_in(purges, told).await {
        Ok(Taken { count: 0, .. }) => {}
        Ok(Taken { count, gone }) => {
            let blocks = gone.blocks;
            tracing::info!(
                purges = count,
                blocks,
                member = whose,
                "purges were missed and are applied"
            );
            if let Some(peers) = &purges.reads.peers {
                peers.metrics.purges_missed.inc_by(count);
            }
        }
        Err(error) => {
            tracing::warn!(%error, "what others purged may come back with a restart");
        }
    }
}

/// Answers what other members tell of purges, and ask.
pub async fn answer(
    purges: &Arc<Purges>,
    from: &str,
    method: &Method,
    query: &str,
    body: &Bytes,
) -> Option<Value> {
    if *method == Method::POST {
        let told: Told = serde_json::from_slice(body).ok()?;
        if told.begins {
            return tell_what_went(take_in(purges, told).await, from);
        }
        catch(purges, told, from).await;
        return Some(json!({}));
    }
    // Whoever settles goes on asking then, and finds applied what it was told of.
    let _turn = purges.log.turn.lock().await;
    let known = query.strip_prefix("stamp=");
    let known = known.and_then(|stamp| u64::from_str_radix(stamp, 16).ok());
    serde_json::to_value(purges.log.told(known)).ok()
}

/// Tells a member all that is known here, and takes over what it knows. False if it does not answer.
async fn settle(purges: &Arc<Purges>, peers: &Arc<Peers>, name: &str) -> bool {
    let path = format!("{PATH}?stamp={:016x}", peers.agreement.noted());
    let told = match peers.ask_one(name, &Method::GET, &path, Bytes::new()).await {
        Ok(answer) => match serde_json::from_value::<Told>(answer) {
            Ok(told) => told,
            Err(_) => return false,
        },
        // The release before this one knows no log.
        Err(PeerError::Refused(_)) => return true,
        Err(error) => {
            tracing::debug!(member = name, %error, "a member does not tell what was purged");
            return false;
        }
    };
    let theirs = told.stamp;
    catch(purges, told, name).await;
    let ours = purges.log.told(Some(theirs));
    if ours.stamp == theirs {
        return true;
    }
    let body = serde_json::to_vec(&ours).unwrap_or_default();
    let told = peers.ask_one(name, &Method::POST, PATH, body.into()).await;
    told.is_ok()
}

/// Lets questions to others settle logs by themselves.
pub(super) fn settle_by(purges: &Arc<Purges>) {
    let Some(peers) = &purges.reads.peers else {
        return;
    };
    let purges: Weak<Purges> = Arc::downgrade(purges);
    peers.agreement.settle_by(Box::new(move |name| {
        let purges = purges.clone();
        Box::pin(async move {
            if let Some(purges) = purges.upgrade()
                && let Some(peers) = &purges.reads.peers
            {
                settle(&purges, peers, &name).await;
            }
        })
    }));
}

/// Settles logs with the state store and with all others that answer. Whether any did.
async fn settle_all(purges: &Arc<Purges>, peers: &Arc<Peers>) -> bool {
    let mut heard = false;
    match timeout(STORE, purges.log.store()).await {
        Ok(Ok(Some(told))) => {
            catch(purges, told, "the state store").await;
            heard = true;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the state store does not tell what was purged"),
        Err(_) => tracing::debug!("the state store does not tell in time what was purged"),
    }
    let fleet = peers.fleet();
    let others: FuturesUnordered<_> = others(&fleet)
        .filter(|name| peers.answers(&fleet, name))
        .map(|name| settle(purges, peers, name))
        .collect();
    let settled: Vec<bool> = others.collect().await;
    heard | settled.contains(&true)
}

fn others(fleet: &Fleet) -> impl Iterator<Item = &str> {
    let there = fleet.peers.values().filter(|peer| peer.state != Does::Down);
    let names = there.map(|peer| peer.member.name());
    names.filter(|name| *name != &*fleet.own)
}

/// Applies what was purged while this gateway was away, before it is ready. Where nobody tells, what it had is left
/// alone until somebody does.
pub async fn catch_up(purges: &Arc<Purges>) {
    let Some(peers) = purges.reads.peers.as_ref().filter(|_| purges.is_veiled()) else {
        return;
    };
    match settle_all(purges, peers).await {
        true => purges.unveil(),
        false => tracing::info!(
            "nobody tells what was purged while this gateway was away: until a member does, nothing of what it had is served"
        ),
    }
}

/// Settles logs with others as they come back, and now and then. Never returns.
pub async fn keep(purges: Arc<Purges>) {
    let Some(peers) = purges.reads.peers.clone() else {
        return;
    };
    let mut fleet = peers.changes();
    let (mut each, mut again) = (interval(EACH), interval(AGAIN));
    each.set_missed_tick_behavior(MissedTickBehavior::Delay);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At the start there is nothing to settle that [`catch_up`] has not.
    each.tick().await;
    again.tick().await;
    let mut met = starts(&fleet.borrow_and_update());
    meet(&purges, &met).await;
    loop {
        tokio::select! {
            biased;
            _ = each.tick() => {
                settle_all(&purges, &peers).await;
            }
            _ = again.tick() => {
                tell_again(&purges, &peers).await;
                if purges.is_veiled() && settle_all(&purges, &peers).await {
                    purges.unveil();
                }
            }
            changed = fleet.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                let now = starts(&fleet.borrow_and_update());
                meet(&purges, &now).await;
                let back: Vec<_> = now.difference(&met).collect();
                let settled: FuturesUnordered<_> =
                    back.iter().map(|(name, _)| settle(&purges, &peers, name)).collect();
                let settled: Vec<bool> = settled.collect().await;
                if purges.is_veiled() && settled.contains(&true) {
                    purges.unveil();
                }
                met = now;
            }
        }
    }
}

/// The others that answer, each with which start of it that is.
fn starts(fleet: &Fleet) -> BTreeSet<(String, u64)> {
    let there = others(fleet).filter(|name| fleet.answers(name));
    let started = there.filter_map(|name| {
        let peer = fleet.peer(name)?;
        Some((name.to_owned(), peer.incarnation))
    });
    started.collect()
}

/// Notes for good that there are others, once there are.
async fn meet(purges: &Arc<Purges>, others: &BTreeSet<(String, u64)>) {
    if !others.is_empty()
        && purges.log.meet()
        && let Err(error) = save(purges).await
    {
        tracing::warn!(%error, "the log of purges can't be written to the data directory");
    }
}

/// Tells those who did not answer when something was purged, and the store, if it did not.
async fn tell_again(purges: &Arc<Purges>, peers: &Arc<Peers>) {
    let fleet = peers.fleet();
    for name in purges.log.owed() {
        // One that was gone asks by itself when it is back.
        let gone = !others(&fleet).any(|other| other == name);
        if gone || (peers.answers(&fleet, &name) && settle(purges, peers, &name).await) {
            purges.log.paid(&name);
        }
    }
    if purges.log.owes_store()
        && let Ok(Ok(_)) = timeout(STORE, purges.log.store()).await
    {
        purges.log.paid_store();
    }
}
