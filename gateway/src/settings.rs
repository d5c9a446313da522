//! Every setting, once: the settings file and the flags, read into plain data before any port
//! opens.
//!
//! The way: `file` walks the spanned tree of the file section by section (`section`, `value`,
//! `dataset`), `draft` lays the flags over it and judges what needs several values at once, and
//! `report` collects all mistakes with their lines, so that the reader of a broken file fixes it in
//! one go. Nothing here touches the network or creates anything, so a running gateway may load its
//! settings again.

mod access;
mod dataset;
mod draft;
pub mod duration;
mod file;
mod fleet;
mod flows;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod machine;
mod nvme;
mod report;
mod schedules;
mod secret;
mod section;
pub mod size;
mod state;
#[cfg(test)]
mod tests;
pub mod timetable;
mod tls;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_ring::gossip::Seed;
use forebay_storage::origin::OriginUrl;

pub use flows::UrlPrefix;
#[cfg(any(test, fuzzing))]
pub use fuzz::settings;
pub use report::Mistakes;
pub use secret::Secret;

use draft::{Draft, Surroundings};
use report::Report;
use timetable::Timetable;

/// All settings of a gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The address that clients reach.
    pub listen: SocketAddr,
    /// Whether whoever reaches the port may read.
    pub open: bool,
    /// Access keys; if there are any, every request needs one.
    pub access: Vec<AccessSettings>,
    /// The domain below which each dataset has a host name of its own.
    pub domain: Option<String>,
    /// Names that clients may have signed in place of the `Host` that arrives.
    pub hosts: Vec<String>,
    /// The directory of identity, known versions and the purge log. It may not exist yet.
    pub data_dir: PathBuf,
    /// The address of `/-/`, if it has one of its own.
    pub admin_listen: Option<SocketAddr>,
    /// How long running bodies may go on once a stop was asked for.
    pub stop_after: Duration,
    /// What is cached.
    pub cache: CacheSettings,
    /// What is logged.
    pub log: LogSettings,
    /// What clients may ask of the gateway at once.
    pub limits: Limits,
    /// `[tls]`; `None`: clients speak in clear.
    pub tls: Option<TlsSettings>,
    /// The datasets: the file's in its order, then those of the command line.
    pub datasets: Vec<DatasetSettings>,
    /// The fleet; `None`: a fleet of one.
    pub fleet: Option<FleetSettings>,
    /// `[flows]`.
    pub flows: FlowSettings,
    /// `[[schedules]]`.
    pub schedules: Vec<ScheduleSettings>,
    /// `[state]`; `None`: jobs and pins are kept in `data_dir`.
    pub state: Option<StateSettings>,
    /// Neither a file nor a dataset was named: `datasets` is empty, and the demo is to be made and
    /// added.
    pub demo: bool,
    /// The settings file, if there is one.
    pub config: Option<PathBuf>,
    /// Files that secrets were read from: the settings are other ones once these are.
    pub secret_files: Vec<PathBuf>,
    /// Sentences to log as warnings: the settings are followed, but oddly.
    pub warnings: Vec<String>,
}

/// `[cache]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Bound on cached, in-flight and socket-held block bytes. At least 64 MiB and at least 32
    /// blocks.
    pub memory: u64,
    /// Bytes of a block: a power of two from 256 KiB to 4 MiB.
    pub block_size: u32,
    /// The disk tier; `None`: memory only.
    pub nvme: Option<NvmeSettings>,
}

/// `[cache] nvme` and `nvme_dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeSettings {
    /// Bound on the bytes of the block files.
    pub bytes: u64,
    /// The directory of the block files. It may not exist yet.
    pub dir: PathBuf,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// The form of a line.
    pub format: LogFormat,
    /// Whether each request has its line.
    pub access: bool,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests served at once; those beyond wait.
    pub max_requests: usize,
    /// Client connections open at once, already lowered to what the limit on open files leaves.
    pub max_connections: usize,
    /// Client connections that one address may have open; 0: no such limit.
    pub per_address: usize,
    /// How long a client may take to send a request's headers.
    pub header_timeout: Duration,
    /// How long a connection may be open between two requests.
    pub idle_timeout: Duration,
    /// How long a client may take no byte of a body.
    pub write_timeout: Duration,
}

/// `[tls]`. The files were good when the settings were read, and are read again as they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate and those between it and an authority, in PEM.
    pub cert: PathBuf,
    /// The certificate's key, in PEM.
    pub key: PathBuf,
    /// The authorities, in PEM, of which each client must show a certificate; `None`: of none.
    pub client_ca: Option<PathBuf>,
}

/// `[fleet]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSettings {
    /// The fleet's name: the same on all members.
    pub name: String,
    /// This gateway's name in it, kept over restarts; `None`: the host's.
    pub member: Option<String>,
    /// It owns nothing and sits beside a loader.
    pub edge: bool,
    /// How much it owns, compared with others: 1 to 100.
    pub weight: u16,
    /// What members prove themselves with.
    pub key: Secret,
    /// What they may prove themselves with too, while the key is replaced.
    pub key_next: Option<Secret>,
    /// The address of the fleet's port.
    pub listen: SocketAddr,
    /// Where others reach that port; its port is 0 where `listen`'s is.
    pub advertise: SocketAddr,
    /// Where clients reach this gateway, without a slash at the end; `None`: `listen`'s scheme and port on
    /// `advertise`'s host.
    pub client_url: Option<String>,
    /// `HOST:PORT` and `dns:NAME:PORT` of members to begin with.
    pub seeds: Vec<Seed>,
    /// The zone; may be empty.
    pub zone: String,
    /// Whether gateways speak TLS to each other, with keys derived from `key`.
    pub tls: bool,
    /// How long a gateway that leaves may take to hand its blocks over.
    pub drain_after: Duration,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSettings {
    /// What the names of the documents are put behind.
    pub url: OriginUrl,
    /// Options of the store's client, by object_store's names, each known to the store's kind.
    pub options: BTreeMap<String, Secret>,
}

/// `[flows]`: what flows may run and reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowSettings {
    /// Programs, by their whole paths.
    pub commands: Vec<PathBuf>,
    /// What the URLs have to begin with.
    pub urls: Vec<UrlPrefix>,
    /// The Kubernetes that scales; `None`: none does.
    pub kubernetes: Option<KubernetesSettings>,
}

/// One of `[[schedules]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// Its name.
    pub name: String,
    /// When it begins.
    pub begins: Begins,
    /// The text of its flow; `None`: what is watched is warmed.
    pub flow: Option<String>,
}

/// When a schedule begins its flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begins {
    /// At these times.
    At {
        /// Which.
        table: Box<Timetable>,
        /// One that was missed is run once, as soon as that is seen; else it is left out.
        run_missed: bool,
    },
    /// When something at an origin has changed.
    OnChange {
        /// The dataset's name.
        dataset: String,
        /// What of it.
        what: Watched,
        /// Between two looks.
        every: Duration,
    },
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// An object whose lines are keys.
    Manifest(String),
    /// An index of safetensors.
    Index(String),
    /// All objects whose keys begin so.
    Prefix(String),
}

/// The Kubernetes that scales.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The API server's URL, without a slash at its end.
    pub api: String,
    /// The file that the token is in, read each time; `None`: no token is sent.
    pub token: Option<PathBuf>,
    /// The authority of its certificate, in PEM; `None`: those of the system.
    pub ca: Option<PathBuf>,
}

/// One dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSettings {
    /// The name, by S3's rules for buckets.
    pub name: String,
    /// Where its objects come from.
    pub origin: OriginUrl,
    /// Options of the origin's client, by object_store's names, each known to the origin's kind.
    pub options: BTreeMap<String, Secret>,
    /// How long a version that was checked is taken for current. Without meaning for an immutable
    /// dataset.
    pub fresh_for: Duration,
    /// Versions are never checked again.
    pub immutable: bool,
    /// How long known versions are served while the origin is unreachable.
    pub stale_for: Duration,
    /// Requests to the origin at once.
    pub origin_connections: usize,
    /// Origins (RFC 6454) whose pages may read, each with at most one `*`; none: no page may.
    pub cors: Vec<String>,
    /// Bytes of it that one gateway keeps in each tier at most; 0: as many as there is room for.
    pub quota: u64,
    /// How long a block is kept at most after it came; zero: until it is evicted.
    pub ttl: Duration,
    /// Whether copies may write to it. Clients never do.
    pub writable: bool,
}

/// `[[access]]`: one access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSettings {
    /// Its id: 1 to 128 letters, digits or characters of `-_.+=@`.
    pub access_key_id: String,
    /// Its secret. Never empty.
    pub secret_access_key: Secret,
    /// The only datasets that it may read; `None`: all.
    pub datasets: Option<Vec<String>>,
    /// Whether it may change the gateway, and see what concerns all of it.
    pub admin: bool,
}

impl DatasetSettings {
    /// A dataset of which only the name and the origin are told.
    pub fn with_defaults(name: &str, origin: OriginUrl) -> Self {
        Self {
            name: name.to_owned(),
            origin,
            options: BTreeMap::new(),
            fresh_for: dataset::FRESH_FOR,
            immutable: false,
            stale_for: dataset::STALE_FOR,
            origin_connections: dataset::ORIGIN_CONNECTIONS,
            cors: Vec::new(),
            quota: 0,
            ttl: Duration::ZERO,
            writable: false,
        }
    }
}

/// What the command line says of the settings, as it was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen ADDR`.
    pub listen: Option<String>,
    /// `--data-dir DIR`.
    pub data_dir: Option<PathBuf>,
    /// `--memory SIZE`.
    pub memory: Option<String>,
    /// `--nvme SIZE`.
    pub nvme: Option<String>,
    /// Each NAME=ORIGIN.
    pub datasets: Vec<String>,
}

impl Settings {
    /// The scheme of the URLs that clients reach this gateway by.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Reads the settings file, if one is named, and lays the flags over it. Secrets that the file
    /// refers to are read, so this blocks on the disk.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(config: Option<&Path>, flags: &Flags) -> Result<Self, Mistakes> {
        Self::load_in(&Surroundings::real(), config, flags)
    }

    fn load_in(
        around: &Surroundings<'_>,
        config: Option<&Path>,
        flags: &Flags,
    ) -> Result<Self, Mistakes> {
        let mut report = Report::new(config);
        let mut draft = Draft::default();
        if let Some(path) = config {
            file::read(path, around, &mut draft, &mut report);
        }
        draft.apply(flags, &mut report);
        let settings = draft.finish(config, around, &mut report);
        match report.finish() {
            None => Ok(settings),
            Some(mistakes) => Err(mistakes),
        }
    }
}
