//! The objects that clients read, the origin that has them, and the gateway before it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::door::Door;
use super::{Client, Cost};
use crate::cluster::{Gateway, Setup};
use crate::oracle;
use crate::scratch::Scratch;
use crate::servers::moto::Moto;
use crate::{tools, until};

/// The dataset, which is a bucket to clients.
pub const BUCKET: &str = "models";

/// The region that clients sign for.
pub const REGION: &str = "us-east-1";

const MIB: usize = 1 << 20;

/// Sizes around the 8 MiB parts that most clients ask for, and one of several parts.
pub const SIZES: [(&str, usize); 5] = [
    ("plain/empty.bin", 0),
    ("plain/one.bin", 1),
    ("plain/eight-minus.bin", 8 * MIB - 1),
    ("plain/eight-plus.bin", 8 * MIB + 1),
    ("plain/forty.bin", 40 * MIB),
];

/// Names that clients, proxies and signatures get wrong.
pub const ODD: [(&str, usize); 8] = [
    ("odd/a b+c.bin", 9 * MIB + 17),
    ("odd/100%25.bin", 5000),
    ("odd/x&y<z>.bin", 5001),
    ("odd/模型/ä.bin", 5002),
    ("odd/q?r#s.bin", 5003),
    ("odd/~tilde!*'().bin", 5004),
    ("odd/k=v;a,b@c:d$.bin", 5005),
    ("odd//double.bin", 5006),
];

/// Objects from this size on are of more than one part to every client.
pub const LARGE: usize = 8 * MIB + 1;

/// What is known of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its bytes' number.
    pub size: usize,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// Every object by its key.
pub type Objects = BTreeMap<String, Known>;

/// Those of `objects` that `client` is told to read: what was made for it is not among them.
pub fn named<'a>(
    client: &Client,
    objects: &'a Objects,
) -> impl Iterator<Item = (&'a str, &'a Known)> {
    let named = |key: &str| !client.unnamed.contains(&key) && !key.starts_with("made/");
    let objects = objects.iter().map(|(key, known)| (key.as_str(), known));
    objects.filter(move |(key, _)| named(key))
}

/// An origin with the objects in it.
#[derive(Debug)]
pub struct Ground {
    origin: Moto,
    objects: Objects,
    made: BTreeMap<String, PathBuf>,
    _files: Scratch,
}

impl Ground {
    /// Starts the origin and fills it, with what `client` reads beside the objects that all do.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new(client: &Client) -> Ground {
        let origin = Moto::start();
        origin.bucket("weights");
        let mut objects = BTreeMap::new();
        let mut put = |key: &str, bytes: &[u8]| {
            origin.put("weights", key, bytes);
            let sha256 = hex(digest(&SHA256, bytes).as_ref());
            let size = bytes.len();
            objects.insert(key.to_owned(), Known { size, sha256 });
        };
        for (key, size) in SIZES.into_iter().chain(ODD) {
            put(key, &oracle::bytes(key, 1, size));
        }
        let files = Scratch::new("fixtures");
        let made = client
            .fixture
            .map_or_else(BTreeMap::new, |kind| make(kind, &files));
        for (name, path) in &made {
            let bytes = std::fs::read(path).expect("a fixture was made");
            put(&format!("made/{name}"), &bytes);
        }
        Ground {
            origin,
            objects,
            made,
            _files: files,
        }
    }

    /// A gateway with nothing cached yet, whose dataset the objects are.
    #[must_use]
    pub fn gateway(&self, door: Door) -> Gateway {
        // Long enough that nothing has to be asked again because a driver was slow.
        let dataset = self
            .origin
            .dataset(BUCKET, "weights")
            .line("fresh_for = \"1h\"");
        Setup::of([dataset])
            .cache("memory = \"1GiB\"")
            .section(door.settings())
            .start()
    }

    /// Every object by its key.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What was made for the client, by its name below `made/`: the same file on this machine.
    #[must_use]
    pub fn fixtures(&self) -> &BTreeMap<String, PathBuf> {
        &self.made
    }
}

fn make(kind: &str, files: &Scratch) -> BTreeMap<String, PathBuf> {
    // Each is made where its packages are.
    let python = match kind {
        "tables" => tools::python("python3"),
        _ => tools::client_python(),
    };
    let output = Command::new(python)
        .arg(tools::client("fixtures.py"))
        .arg(kind)
        .arg(files.path())
        .output()
        .expect("python runs");
    assert!(
        output.status.success(),
        "fixtures.py {kind}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8_lossy(&output.stdout);
    names
        .lines()
        .map(|name| (name.to_owned(), files.path().join(name)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a gateway has sent and has asked its origin so far.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    sent: f64,
    sent_from_origin: f64,
    origin_bytes: f64,
    gets: f64,
    heads: f64,
    led: f64,
    listings: f64,
    missing: f64,
}

impl Counts {
    /// Once nothing is under way: a client that has its last byte may be ahead of the counters.
    ///
    /// # Panics
    /// If something stays under way.
    #[must_use]
    pub fn of(gateway: &Gateway) -> Counts {
        until(Duration::from_secs(10), "requests and fills to end", || {
            // The question itself is under way too.
            let idle = gateway.metric("forebay_requests_in_flight", &[]) <= 1.0
                && gateway.metric("forebay_running_fills", &[]) == 0.0;
            idle.then_some(())
        });
        let dataset = |method| {
            let labels = [("dataset", BUCKET), ("method", method)];
            gateway.metric("forebay_origin_requests_total", &labels)
        };
        let log = gateway.process().stderr();
        let listings = log.lines().filter(|line| {
            line.contains(&format!("path=\"/{BUCKET}\""))
                || line.contains(&format!("path=\"/{BUCKET}/\""))
        });
        let sent = "forebay_response_bytes_total";
        Counts {
            sent: gateway.metric(sent, &[]),
            sent_from_origin: gateway.metric(sent, &[("source", "origin")]),
            origin_bytes: gateway.metric("forebay_origin_bytes_total", &[("dataset", BUCKET)]),
            gets: dataset("GET"),
            heads: dataset("HEAD"),
            led: gateway.metric("forebay_block_reads_total", &[("outcome", "led")]),
            listings: listings.count() as f64,
            missing: gateway.metric("forebay_requests_total", &[("status", "404")]),
        }
    }

    /// What was sent since then.
    #[must_use]
    pub fn cost_until(&self, gateway: &Gateway) -> Cost {
        let now = Counts::of(gateway);
        Cost {
            sent: now.sent - self.sent,
            origin: now.origin_bytes - self.origin_bytes,
        }
    }

    /// Asserts that since then the origin sent nothing but listings, and was asked for nothing that it has.
    ///
    /// # Panics
    /// If it was.
    pub fn nothing_was_read_again(&self, gateway: &Gateway, what: &str) {
        let alone = |now: &Counts| {
            let missing = now.missing - self.missing;
            let listings = now.listings - self.listings;
            now.sent_from_origin == self.sent_from_origin
                && now.led == self.led
                && now.heads - self.heads <= missing
                && now.gets - self.gets <= listings + missing
        };
        // The access log's lines come by a thread of their own, a moment after the counters.
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let now = Counts::of(gateway);
            if alone(&now) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{what}: the origin was asked again; before {self:?}, now {now:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
