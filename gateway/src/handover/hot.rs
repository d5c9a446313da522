//! What is hottest in the whole fleet: a list by which it can be brought back after all of it was lost.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use super::list::{Held, Listed, hottest, owner};
use super::{HOT, aside, ask};
use crate::peer::Peers;
use crate::warm::order::merged;
use crate::warm::place::Crew;

/// Blocks that one member tells of at most: the hottest 64 GiB of blocks of a MiB.
const MOST: usize = 64 * 1024;

/// What is held here of what this gateway owns, the hottest first.
pub(super) async fn own(crew: &Arc<Crew>, peers: Option<&Arc<Peers>>) -> Vec<Held> {
    let blocks = crew.reads.store.residents().total().blocks;
    let (crew, peers) = (Arc::clone(crew), peers.cloned());
    let sorted = aside(blocks, move || {
        let fleet = peers.as_ref().map(|peers| peers.fleet());
        let ours = hottest(&crew, peers.as_deref(), |object, extent| {
            let owner = fleet
                .as_ref()
                .and_then(|fleet| owner(&fleet.table, object, extent));
            owner.is_none_or(|owner| *owner == *crew.own)
        });
        let held = ours
            .into_iter()
            .take(MOST)
            .filter_map(|(object, version, key)| {
                Some(Held {
                    dataset: crew.datasets.get(&object.dataset)?,
                    object,
                    version,
                    blocks: key.index..key.index + 1,
                })
            });
        held.collect()
    });
    sorted.await.unwrap_or_default()
}

/// The hottest objects of all members that own something, a line of JSON each, and the names of those that did not
/// tell.
pub(super) async fn of_all(crew: &Arc<Crew>, peers: Option<&Arc<Peers>>) -> (String, Vec<String>) {
    let mut lists = vec![own(crew, peers).await];
    let mut silent = Vec::new();
    if let Some(peers) = peers {
        let fleet = peers.fleet();
        let owners = fleet.table.members().iter();
        let owners = owners.filter(|one| one.weight() > 0 && one.name() != &*fleet.own);
        let asked = owners.map(|member| async {
            let name = member.name();
            (name, ask::<Listed>(peers, name, HOT, &json!({})).await)
        });
        for (name, listed) in futures::future::join_all(asked).await {
            match listed {
                Ok(listed) => lists.push(listed.held(&crew.datasets)),
                Err(error) => {
                    tracing::info!(member = name, %error, "a member does not tell what is hottest");
                    silent.push(name.to_owned());
                }
            }
        }
    }
    (lines(lists), silent)
}

/// One line an object, in the order of its hottest block in any of these lists.
fn lines(lists: Vec<Vec<Held>>) -> String {
    let lists = lists
        .into_iter()
        .flat_map(|list| list.into_iter().enumerate());
    let mut all: Vec<(usize, Held)> = lists.collect();
    all.sort_by_key(|(place, _)| *place);
    let mut places: HashMap<(Arc<str>, Arc<str>), usize> = HashMap::new();
    let mut objects: Vec<(Held, Vec<Range<u32>>)> = Vec::new();
    for (_, held) in all {
        let name = (
            Arc::clone(&held.object.dataset),
            Arc::clone(&held.object.key),
        );
        let place = *places.entry(name).or_insert(objects.len());
        let blocks = held.blocks.clone();
        match objects.get_mut(place) {
            None => objects.push((held, vec![blocks])),
            // What is colder may be of a version that was replaced.
            Some((first, ranges)) if first.version.key == held.version.key => ranges.push(blocks),
            Some(_) => {}
        }
    }
    let mut lines = String::new();
    for (held, ranges) in objects {
        lines.push_str(&line(&held, ranges).to_string());
        lines.push('\n');
    }
    lines
}

/// An object, and its ranges unless all of it is held.
fn line(held: &Held, blocks: Vec<Range<u32>>) -> Value {
    let merged = merged(blocks);
    let (version, size) = (&held.version, held.version.size);
    let block = u64::from(version.identity.block_size);
    let ranges = merged.iter().map(|range| {
        let (first, end) = (u64::from(range.start) * block, u64::from(range.end) * block);
        format!("{first}-{}", end.min(size).saturating_sub(1))
    });
    let ranges: Vec<String> = ranges.collect();
    let mut line = json!({
        "dataset": &*held.object.dataset,
        "key": &*held.object.key,
        "size": size,
        "etag": version.etag(),
    });
    if ranges != [format!("0-{}", size.saturating_sub(1))] {
        line["ranges"] = json!(ranges);
    }
    line
}
