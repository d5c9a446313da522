//! What is measured: the rows of the table.

use super::peers::Who;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What each request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// The large object, again and again.
    Whole,
    /// So many bytes of it, from a place by chance that is a multiple of their number.
    Random(u64),
    /// One of the small objects, the n-th most popular asked for in proportion to 1/n.
    Zipf,
}

/// How the requests travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carrier {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    /// HTTP/2 with prior knowledge, eight streams on each of so many connections.
    Http2,
}

/// Rows that are measured on the same servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// All from memory, access lines off.
    Memory,
    /// The same with access lines.
    Logged,
    /// HTTP/2.
    Http2,
    /// TLS.
    Tls,
    /// From disk, with next to nothing in memory.
    Disk,
    /// From the origin, with room in memory for two objects.
    Cold,
    /// The same, with a disk tier as well.
    ColdDisk,
}

/// Every stage of hot reads, in the order in which they are run.
pub(super) const STAGES: [Stage; 5] = [
    Stage::Memory,
    Stage::Logged,
    Stage::Http2,
    Stage::Tls,
    Stage::Disk,
];

impl Stage {
    /// Who can be measured there.
    pub(super) fn who(self) -> &'static [Who] {
        match self {
            Self::Memory => &Who::ALL,
            // cachey writes no line for a request, and the bare server none at all.
            Self::Logged => &[Who::Static, Who::Slice, Who::Varnish, Who::Forebay],
            Self::Http2 | Self::Tls => &[Who::Static, Who::Forebay],
            Self::Disk => &[Who::Static, Who::Cachey, Who::Forebay],
            Self::Cold => &[Who::Slice, Who::Varnish, Who::Cachey, Who::Forebay],
            Self::ColdDisk => &[Who::Forebay],
        }
    }

    /// What a peer may keep in memory, and nginx on its disk, in bytes.
    pub(super) fn memory(self) -> u64 {
        match self {
            Self::Cold | Self::ColdDisk => 2 << 30,
            _ => 3 << 30,
        }
    }

    /// How its requests travel.
    pub(super) fn carrier(self) -> Carrier {
        match self {
            Self::Tls => Carrier::Tls,
            Self::Http2 => Carrier::Http2,
            Self::Memory | Self::Logged | Self::Disk | Self::Cold | Self::ColdDisk => {
                Carrier::Plain
            }
        }
    }
}

/// What a row's figure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Figure {
    /// Bytes a second, as many as there are.
    Bytes,
    /// Requests a second, as many as there are.
    Requests,
    /// Bytes for a second of the server's processor time.
    BytesACpuSecond,
    /// The 99th percentile of the time that a read takes at 70 % of the server's highest rate.
    Tail(Arrivals),
}

/// When reads arrive that come at a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrivals {
    /// One as long after the other as all.
    Even,
    /// By chance: what comes in a moment may be more than the server can take in that moment, and then they queue.
    Chance,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// What it is called on the command line.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) title: &'static str,
    pub(super) stage: Stage,
    pub(super) access: Access,
    pub(super) connections: usize,
    pub(super) figure: Figure,
    /// Forebay's figure ÷ the best peer's must reach this.
    pub(super) bar: f64,
    /// Forebay's figure ÷ the bare server's must reach this.
    pub(super) ceiling: Option<f64>,
    /// Forebay's processor time for a byte ÷ the least of the peers' must not exceed this.
    pub(super) cpu: Option<f64>,
}

const fn row(
    name: &'static str,
    title: &'static str,
    stage: Stage,
    access: Access,
    connections: usize,
    figure: Figure,
) -> Row {
    Row {
        name,
        title,
        stage,
        access,
        connections,
        figure,
        bar: 1.0,
        ceiling: None,
        cpu: None,
    }
}

use self::Access::{Random, Whole, Zipf};
use self::Arrivals::{Chance, Even};
use self::Figure::{Bytes, BytesACpuSecond, Requests, Tail};
use self::Stage::{Disk, Http2, Logged, Memory, Tls};

/// All rows, in the order of the table; rows of one stage stand together.
pub(super) const ROWS: [Row; 15] = [
    Row {
        bar: 1.2,
        ceiling: Some(0.9),
        ..row("1g-1", "1 GiB, 1 connection", Memory, Whole, 1, Bytes)
    },
    Row {
        ceiling: Some(0.9),
        ..row("1g-4", "1 GiB, 4 connections", Memory, Whole, 4, Bytes)
    },
    Row {
        ceiling: Some(0.9),
        ..row("1g-32", "1 GiB, 32 connections", Memory, Whole, 32, Bytes)
    },
    Row {
        bar: 1.2,
        ceiling: Some(0.9),
        cpu: Some(0.8),
        ..row("1m", "random 1 MiB by 32", Memory, Random(MIB), 32, Bytes)
    },
    // Behind the row whose rate they take 70 % of.
    row(
        "1m-p99-even",
        "1 MiB, p99 at 70 %, even",
        Memory,
        Random(MIB),
        64,
        Tail(Even),
    ),
    row(
        "1m-p99",
        "1 MiB, p99 at 70 %",
        Memory,
        Random(MIB),
        64,
        Tail(Chance),
    ),
    Row {
        ceiling: Some(0.9),
        ..row(
            "128k",
            "random 128 KiB by 32",
            Memory,
            Random(128 * KIB),
            32,
            Bytes,
        )
    },
    row(
        "4k",
        "random 4 KiB by 32",
        Memory,
        Random(4 * KIB),
        32,
        Requests,
    ),
    row("zipf", "Zipf over small, by 32", Memory, Zipf, 32, Bytes),
    row(
        "4k-log",
        "4 KiB, access lines",
        Logged,
        Random(4 * KIB),
        32,
        Requests,
    ),
    row(
        "h2",
        "HTTP/2, 1 MiB, 4 × 8",
        Http2,
        Random(MIB),
        4,
        BytesACpuSecond,
    ),
    row(
        "tls-1g",
        "TLS, 1 GiB, 1 conn.",
        Tls,
        Whole,
        1,
        BytesACpuSecond,
    ),
    row(
        "tls-1m",
        "TLS, 1 MiB by 32",
        Tls,
        Random(MIB),
        32,
        BytesACpuSecond,
    ),
    row("nvme-1m", "disk, 1 MiB by 32", Disk, Random(MIB), 32, Bytes),
    row("nvme-1g", "disk, 1 GiB, 1 conn.", Disk, Whole, 1, Bytes),
];

/// The rows of these names, in the table's order; all without a name.
///
/// # Errors
/// A name that no row has.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Row>, String> {
    let all: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
    if let Some(unknown) = names.iter().find(|name| !all.contains(&name.as_str())) {
        return Err(format!(
            "there is no row {unknown:?}; there are {}",
            all.join(", ")
        ));
    }
    let picked = |row: &&Row| {
        let named = |name: &str| names.iter().any(|other| other == name);
        // The rate that a tail is measured at comes from the row before it.
        let tail = || ROWS.iter().any(|row| is_tail(row) && named(row.name));
        names.is_empty() || named(row.name) || (row.name == "1m" && tail())
    };
    Ok(ROWS.iter().filter(picked).copied().collect())
}

fn is_tail(row: &Row) -> bool {
    matches!(row.figure, Tail(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_an_unknown_one_is_told_with_all_others() {
        for (place, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..place].iter().all(|other| other.name != row.name));
        }
        let error = chosen(&["2m".to_owned()]).expect_err("no such row");
        assert!(error.contains("128k, 4k"), "{error}");
    }

    #[test]
    fn a_tail_brings_the_row_that_its_rate_comes_from() {
        for tail in ["1m-p99-even", "1m-p99"] {
            let rows = chosen(&[tail.to_owned()]).expect("a row");
            let names: Vec<_> = rows.iter().map(|row| row.name).collect();
            assert_eq!(names, ["1m", tail]);
        }
    }
}
