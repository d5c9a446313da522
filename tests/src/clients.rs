//! Clients that exist, unmodified, pointed at a gateway by one URL.
//!
//! | module | what |
//! |---|---|
//! | [`table`] | who they are, how each of them reads, and what that must cover |
//! | [`door`] | what a gateway asks of its clients, and what they are given for it |
//! | [`ground`] | the objects, the origin that has them, the gateway before it |
//! | [`report`] | what a driver says that it read, and the judgement of it |
//!
//! Each client has a driver in `tests/clients`, a script that knows the client and nothing of what is right: it is given
//! a manifest, reads each object in each of its ways, and says the SHA-256 of what came. What has to be covered and what
//! the bytes are is known here only, so that a driver that skips something is seen.

pub mod door;
pub mod ground;
pub mod report;
pub mod table;

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use self::door::Door;
use self::ground::{BUCKET, Counts, Ground, REGION};
use self::report::Report;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::tools;

/// How long one driver may take for all that it reads, on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Where a driver finds its interpreter and its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// The Python environment that every run of the tests has.
    Everyday,
    /// The environment of all clients, which is large.
    All,
    /// The npm packages beside it.
    Node,
}

/// What a way of reading must have read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covers {
    /// Every object whose name the client can say.
    Every,
    /// The same, but for the empty one.
    Filled,
    /// Objects of more than one part.
    Large,
    /// The listing: each key, once.
    Listing,
    /// The listing of what begins so.
    ListingOf(&'static str),
    /// Something made of the bytes (a table, tensors), equal to what the same client makes of a local file.
    Values,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its name, as in the table.
    pub name: &'static str,
    /// Its script in `tests/clients`.
    pub driver: &'static str,
    /// Where it is installed.
    pub home: Home,
    /// What `fixtures.py` makes for it to read.
    pub fixture: Option<&'static str>,
    /// Its ways of reading. A name that begins with `presigned` is asked of signed clients only.
    pub ways: &'static [(&'static str, Covers)],
    /// Keys that the client itself cannot name, whatever the server.
    pub unnamed: &'static [&'static str],
}

/// What one gateway did for one client, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Of objects, sent to the client.
    pub sent: f64,
    /// Sent by the origin.
    pub origin: f64,
}

/// A client's line in the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The client.
    pub name: &'static str,
    /// What it says of itself.
    pub version: String,
    /// Its ways of reading.
    pub ways: String,
    /// What reading cost with nothing cached, and again.
    pub costs: [Cost; 2],
}

impl Client {
    /// Reads everything twice through each door, each time before a gateway that has nothing yet.
    ///
    /// # Panics
    /// If a byte is wrong, something was not read, or the second reading made the origin send an object again.
    #[must_use]
    pub fn run(&self) -> Row {
        let ground = Ground::new(self);
        let mut row = None;
        for door in Door::ALL {
            row = Some(self.through(&ground, door));
        }
        row.expect("there is a door")
    }

    fn through(&self, ground: &Ground, door: Door) -> Row {
        let gateway = ground.gateway(door);
        let mut costs = [Cost::default(); 2];
        let mut version = String::new();
        for (cost, temperature) in costs.iter_mut().zip(["cold", "hot"]) {
            let what = format!("{}, {door:?}, {temperature}", self.name);
            let before = Counts::of(&gateway);
            let report = self.drive(ground, &gateway.url(), door, &what);
            report.judge(self, ground.objects(), door, &what);
            *cost = before.cost_until(&gateway);
            assert!(cost.sent > 0.0, "{what}: the client was elsewhere");
            if temperature == "hot" {
                before.nothing_was_read_again(&gateway, &what);
            }
            version.clone_from(&report.version);
        }
        gateway.stop();
        Row {
            name: self.name,
            version,
            ways: self
                .ways
                .iter()
                .map(|(way, _)| *way)
                .collect::<Vec<_>>()
                .join(", "),
            costs,
        }
    }

    fn drive(&self, ground: &Ground, endpoint: &str, door: Door, what: &str) -> Report {
        let work = Scratch::new("client");
        let access = door
            .access()
            .map(|(id, secret)| json!({ "id": id, "secret": secret }));
        let objects: Vec<_> = ground::named(self, ground.objects())
            .map(|(key, known)| json!({ "key": key, "size": known.size }))
            .collect();
        let manifest = json!({
            "endpoint": endpoint, "ca": door.ca(), "bucket": BUCKET, "region": REGION, "access": access,
            "work": work.path(), "objects": objects, "fixtures": ground.fixtures(),
        });
        let manifest = work.write("manifest.json", manifest.to_string());
        let mut command = self.command();
        command.arg(manifest).env("HOME", work.path());
        if let Some(ca) = door.ca() {
            // Where clients look that have no setting for it: OpenSSL's and Node's own names.
            command
                .env("SSL_CERT_FILE", ca)
                .env("NODE_EXTRA_CA_CERTS", ca);
        }
        let mut driver = Process::start(self.driver, &mut command);
        let status = driver.wait(LIMIT);
        assert!(
            status.success(),
            "{what}: {} ended with {status}:\n{}{}",
            self.driver,
            driver.stdout(),
            driver.stderr()
        );
        Report::read(&driver.stdout())
    }

    /// The driver's command, in an environment that holds nothing of the machine's.
    fn command(&self) -> Command {
        let interpreter = match self.home {
            Home::Everyday => tools::python("python3"),
            Home::All => tools::client_python(),
            Home::Node => "node".into(),
        };
        let mut command = process::command(&interpreter);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("FOREBAY_CLIENT_MODULES", tools::client_node())
            .arg(tools::client(self.driver));
        command
    }
}
