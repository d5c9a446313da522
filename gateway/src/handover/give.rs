//! A gateway that leaves hands its blocks over: it asks those that own them next to take them, the hottest first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_ring::{Fleet, State};
use futures::future::join_all;
use tokio::time::Instant;

use super::list::{Held, Listed, hottest, owner};
use super::{Handover, TAKE, Taken, aside, ask, owned_before, until};
use crate::peer::Peers;
use crate::warm::remote::room_of;

/// Bytes of one question: what a slow link brings well within the time that an answer may take to begin.
const AT_ONCE: u64 = 8 << 20;

/// Questions to one member at once.
const SIDE_BY_SIDE: usize = 2;

/// Of what a member's tier keeps, what it is given at most: the rest are its own blocks, as hot as these.
const SHARE: u64 = 2;

/// What one member is to take.
#[derive(Debug, Default)]
struct Portion {
    /// In the order of their heat.
    parts: Vec<Held>,
    bytes: u64,
}

/// Hands over within this time, and says what share that was.
pub(super) async fn all(handover: &Handover, within: Duration) {
    let Some(peers) = handover.crew.reads.peers.clone() else {
        return;
    };
    let begun = Instant::now();
    // It is our own word that is waited for, and the table that comes of it.
    let gone = until(&peers, |fleet| fleet.table.member(&fleet.own).is_none());
    let gone = tokio::time::timeout(within, gone).await == Ok(true);
    let fleet = peers.fleet();
    let owners = fleet.table.members().iter();
    if !gone || owners.filter(|member| member.weight() > 0).count() == 0 {
        tracing::info!("nobody is left to hand over to");
        return;
    }
    let portions = portions(handover, &peers, &fleet).await;
    let of = portions.values().fold((0, 0), |(blocks, bytes), portion| {
        (blocks + portion.parts.len() as u64, bytes + portion.bytes)
    });
    handover.set_moving(of.0, of.1);
    let given = Mutex::new(Taken::default());
    let handing = hand(handover, &peers, &fleet, (&portions, &given));
    let handed = tokio::time::timeout(within.saturating_sub(begun.elapsed()), handing).await;
    handover.set_moving(0, 0);
    let given = *given.lock().unwrap_or_else(PoisonError::into_inner);
    let (blocks, bytes) = of;
    let share = match bytes {
        0 => 100,
        bytes => given.bytes.saturating_mul(100) / bytes,
    };
    tracing::info!(
        blocks = given.blocks,
        bytes = given.bytes,
        of_blocks = blocks,
        of_bytes = bytes,
        share = format!("{share} %"),
        in_time = handed.is_ok(),
        seconds = begun.elapsed().as_secs_f64(),
        "handed over"
    );
}

async fn hand(
    handover: &Handover,
    peers: &Arc<Peers>,
    fleet: &Arc<Fleet>,
    (portions, given): (&BTreeMap<String, Portion>, &Mutex<Taken>),
) {
    let tell = |taken: Taken| {
        let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
        given.blocks += taken.blocks;
        given.bytes += taken.bytes;
    };
    let takers = portions.iter().map(|(name, portion)| {
        let answers = fleet
            .peer(name)
            .is_some_and(|peer| peer.state == State::Alive);
        let gives = answers && peers.gives(fleet, name);
        let tell = &tell;
        async move {
            if gives {
                hand_to(handover, peers, name, portion, tell).await;
            }
        }
    });
    join_all(takers).await;
}

/// What was ours, by who owns it next.
async fn portions(
    handover: &Handover,
    peers: &Arc<Peers>,
    fleet: &Arc<Fleet>,
) -> BTreeMap<String, Portion> {
    let blocks = handover.crew.reads.store.residents().total().blocks;
    let (crew, peers, fleet) = (
        Arc::clone(&handover.crew),
        Arc::clone(peers),
        Arc::clone(fleet),
    );
    let sorted = aside(blocks, move || {
        let mut owners = Vec::new();
        let held = hottest(&crew, Some(&peers), |object, extent| {
            let (dataset, key) = (&*object.dataset, &*object.key);
            let ours = owned_before(&fleet.donors, &fleet.own, (dataset, key), extent);
            let next = owner(&fleet.table, object, extent).filter(|_| ours);
            owners.extend(next.map(str::to_owned));
            next.is_some()
        });
        let block_size = crew.reads.store.block_size();
        let mut portions: BTreeMap<String, Portion> = BTreeMap::new();
        for (owner, (object, version, key)) in owners.into_iter().zip(held) {
            let Some(dataset) = crew.datasets.get(&object.dataset) else {
                continue;
            };
            let range = block_size.range(key.index, version.size);
            let portion = portions.entry(owner).or_default();
            portion.bytes += range.end - range.start;
            portion.parts.push(Held {
                dataset,
                object,
                version,
                blocks: key.index..key.index + 1,
            });
        }
        portions
    });
    sorted.await.unwrap_or_default()
}

/// Hands one member its portion, as far as it has room.
async fn hand_to(
    handover: &Handover,
    peers: &Arc<Peers>,
    name: &str,
    portion: &Portion,
    tell: &(dyn Fn(Taken) + Sync),
) {
    let Ok(room) = room_of(peers, name).await else {
        return;
    };
    let keeps = if room.nvme > 0 {
        room.nvme
    } else {
        room.memory
    };
    let block_size = handover.crew.reads.store.block_size();
    let mut left = keeps / SHARE;
    let mut questions: Vec<Vec<Held>> = Vec::new();
    let mut bytes = AT_ONCE;
    for held in &portion.parts {
        let (_, more) = held.amount(block_size);
        if more > left {
            break;
        }
        left -= more;
        if bytes + more > AT_ONCE {
            questions.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(question) = questions.last_mut() {
            question.push(held.clone());
        }
    }
    let handing = (0..SIDE_BY_SIDE).map(|side| {
        let questions = questions.iter().skip(side).step_by(SIDE_BY_SIDE);
        async move {
            for question in questions {
                match ask::<Taken>(peers, name, TAKE, &Listed::of(question)).await {
                    Ok(taken) => {
                        let handed = peers.metrics.moves.handed.with_label_values(&["given"]);
                        handed.inc_by(taken.bytes);
                        handover.moved(taken.blocks, taken.bytes);
                        tell(taken);
                    }
                    Err(error) => {
                        tracing::debug!(member = name, %error, "a member takes nothing over");
                        return;
                    }
                }
            }
        }
    });
    join_all(handing).await;
}
