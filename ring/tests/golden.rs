//! Placement, pinned: `golden.tsv` holds epochs and owners as every build of Forebay must give them.
//!
//! If this fails, a rolling upgrade would have two opinions about who owns what. Only a deliberate change
//! of every fleet's placement may change the file: replace it by what the failing test prints.

#![allow(clippy::unwrap_used)]

use std::{fmt::Write, num::NonZeroU16};

use forebay_ring::{Member, Table};

/// Name, zone and weight of a member; weight 0 is an edge.
type Row = (&'static str, &'static str, u16);

fn member((name, zone, weight): Row) -> Member {
    match NonZeroU16::new(weight) {
        Some(weight) => Member::new(name, zone, weight).unwrap(),
        None => Member::edge(name, zone).unwrap(),
    }
}

/// The fleets that are pinned.
fn fleets() -> [(&'static str, Vec<Row>); 4] {
    let equal = vec![
        ("gw-0", "", 1),
        ("gw-1", "", 1),
        ("gw-2", "", 1),
        ("gw-3", "", 1),
        ("gw-4", "", 1),
        ("gw-5", "", 1),
        ("gw-6", "", 1),
        ("gw-7", "", 1),
    ];
    let mixed = vec![
        ("forebay-0", "hangzhou-h", 1),
        ("forebay-1", "hangzhou-h", 2),
        ("forebay-2", "hangzhou-i", 1),
        ("forebay-3", "hangzhou-i", 4),
        ("forebay-10", "hangzhou-h", 1),
        ("loader-0", "hangzhou-h", 0),
    ];
    [
        ("none", vec![]),
        ("one", equal[..1].to_vec()),
        ("equal", equal),
        ("mixed", mixed),
    ]
}

/// Objects by dataset, key and number of extents, and the extents looked at.
const OBJECTS: [(&str, &str, u64, &[u64]); 7] = [
    ("models", "a", 1, &[0]),
    ("models", "llama/model-00001-of-00030.safetensors", 1, &[0]),
    (
        "models",
        "llama/model-00001-of-00030.safetensors",
        16,
        &[0, 1, 2, 3, 7, 11, 14, 15],
    ),
    (
        "models",
        "llama/model-00001-of-00030.safetensors",
        1000,
        &[0, 1, 255, 256, 257, 511, 767, 768, 998, 999],
    ),
    (
        "demo",
        "llama/model-00001-of-00030.safetensors",
        16,
        &[0, 1, 2, 15],
    ),
    ("demo", "späce +%2F//x", 300, &[0, 100, 255, 256, 299]),
    ("demo", "", 3, &[0, 1, 2]),
];

fn name(member: Option<&Member>) -> &str {
    member.map_or("-", Member::name)
}

fn actual() -> String {
    let mut text = String::from(
        "# fleet\tepoch\n# fleet\tdataset\tkey\textent\textents\tcandidates\tin zone hangzhou-h\n",
    );
    for (fleet, members) in fleets() {
        let table = Table::build(members.into_iter().map(member));
        writeln!(text, "{fleet}\t{}", table.epoch()).unwrap();
        if table.members().len() < 2 {
            continue;
        }
        for (dataset, key, extents, looked_at) in OBJECTS {
            for &extent in looked_at {
                let candidates: Vec<&str> = table
                    .candidates(dataset, key, extent, extents)
                    .take(3)
                    .map(Member::name)
                    .collect();
                let zone = name(table.zone_owner("hangzhou-h", dataset, key, extent, extents));
                writeln!(
                    text,
                    "{fleet}\t{dataset}\t{key}\t{extent}\t{extents}\t{}\t{zone}",
                    candidates.join(" ")
                )
                .unwrap();
            }
        }
    }
    text
}

#[test]
fn placement_is_what_every_other_build_says() {
    let (expected, actual) = (include_str!("golden.tsv"), actual());
    assert!(
        expected == actual,
        "placement has changed; it is now\n{actual}"
    );
}
