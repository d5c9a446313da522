//! Settings on their way: what file and flags said, with places, and the judgments that need more
//! than one value.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::machine::{self, Memory};
use super::nvme::{self, Room};
use super::report::{Place, Placed, Report};
use super::{
    CacheSettings, DatasetSettings, Flags, FleetSettings, FlowSettings, Limits, LogFormat,
    LogSettings, NvmeSettings, ScheduleSettings, Settings, StateSettings, TlsSettings, access,
    dataset, size, value,
};

/// Least `memory`: 70 % of it may be cached, and the other 19 MiB hold one request's window of 16
/// MiB.
const LEAST_MEMORY: u64 = 64 << 20;

/// Most `memory`: beyond it sums of sizes could not be told any more.
const MOST_MEMORY: u64 = 1 << 50;

/// Fewest blocks in `memory`: with fewer than these, two readers of large blocks evict what the
/// other is about to read.
const FEWEST_BLOCKS: u64 = 32;

/// Files that are neither clients nor origins: health checks' own 64 connections, listeners, logs,
/// the data directory.
const OTHER_FILES: u64 = 128;

/// Where the block files leave less than so many for clients and origins, there are too many.
const FEWEST_CONNECTIONS: u64 = 128;

/// What the settings depend on besides file and flags.
pub(super) struct Surroundings<'a> {
    /// A variable of the environment.
    pub(super) env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether the process runs as root.
    pub(super) root: bool,
    /// What memory there is.
    pub(super) memory: Memory,
    /// Most open files, `None` for no limit.
    pub(super) open_files: Option<u64>,
    /// What a disk has room for.
    pub(super) room: &'a dyn Fn(&Path) -> Option<Room>,
    /// Why no files can be written below a directory.
    pub(super) unusable: &'a dyn Fn(&Path) -> Option<String>,
}

impl Surroundings<'_> {
    /// Those of this process.
    pub(super) fn real() -> Self {
        Self {
            env: &|name| std::env::var_os(name),
            root: rustix::process::geteuid().is_root(),
            memory: Memory::measure(),
            open_files: machine::open_files(),
            room: &Room::measure,
            unusable: &nvme::unusable,
        }
    }
}

/// What was said so far; a flag's word replaces the file's.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) listen: Option<Placed<SocketAddr>>,
    pub(super) open: Option<Placed<bool>>,
    pub(super) domain: Option<Placed<String>>,
    pub(super) hosts: Option<Placed<Vec<String>>>,
    pub(super) keys: Vec<access::Draft>,
    pub(super) data_dir: Option<Placed<PathBuf>>,
    pub(super) admin_listen: Option<Placed<SocketAddr>>,
    pub(super) stop_after: Option<Placed<Duration>>,
    pub(super) memory: Option<Placed<u64>>,
    pub(super) block_size: Option<Placed<u32>>,
    pub(super) nvme: Option<Placed<u64>>,
    pub(super) nvme_dir: Option<Placed<PathBuf>>,
    pub(super) level: Option<Placed<tracing::Level>>,
    pub(super) format: Option<Placed<LogFormat>>,
    pub(super) access: Option<Placed<bool>>,
    pub(super) max_requests: Option<Placed<usize>>,
    pub(super) max_connections: Option<Placed<usize>>,
    pub(super) per_address: Option<Placed<usize>>,
    pub(super) header_timeout: Option<Placed<Duration>>,
    pub(super) idle_timeout: Option<Placed<Duration>>,
    pub(super) write_timeout: Option<Placed<Duration>>,
    pub(super) tls: Option<TlsSettings>,
    pub(super) fleet: Option<FleetSettings>,
    pub(super) state: Option<StateSettings>,
    pub(super) flows: FlowSettings,
    pub(super) schedules: Vec<ScheduleSettings>,
    names: Vec<Placed<String>>,
    datasets: Vec<DatasetSettings>,
}

impl Draft {
    /// Takes what the flags say.
    pub(super) fn apply(&mut self, flags: &Flags, report: &mut Report) {
        if let Some(text) = &flags.listen {
            let address = value::parse_address(text);
            self.listen = by_flag("--listen", address, report).or(self.listen.take());
        }
        if let Some(path) = &flags.data_dir {
            let path = if path.as_os_str().is_empty() {
                Err("is empty: write a directory".into())
            } else {
                Ok(path.clone())
            };
            self.data_dir = by_flag("--data-dir", path, report).or(self.data_dir.take());
        }
        if let Some(text) = &flags.memory {
            self.memory = by_flag("--memory", size::parse(text), report).or(self.memory.take());
        }
        if let Some(text) = &flags.nvme {
            self.nvme = by_flag("--nvme", size::parse(text), report).or(self.nvme.take());
        }
        for argument in &flags.datasets {
            let (name, dataset) = dataset::from_argument(argument, report);
            self.add_dataset(name, dataset, report);
        }
    }

    /// Adds a dataset, unless its name is taken. One whose origin is wrong takes its name too.
    pub(super) fn add_dataset(
        &mut self,
        name: Option<Placed<String>>,
        dataset: Option<DatasetSettings>,
        report: &mut Report,
    ) {
        if let Some(name) = name {
            if let Some(first) = self.names.iter().find(|first| first.value == name.value) {
                let where_first = match &first.place {
                    Place::Flag(_) => "in another NAME=ORIGIN".to_owned(),
                    place => format!("at {}", report.shown(place)),
                };
                let sentence = format!(
                    "the dataset `{}` stands {where_first} already: rename one of them",
                    name.value
                );
                report.add(&name.place, sentence);
                return;
            }
            self.names.push(name);
        }
        self.datasets.extend(dataset);
    }

    /// The settings: defaults where nothing was said, after the judgments that need several values.
    pub(super) fn finish(
        mut self,
        config: Option<&Path>,
        around: &Surroundings<'_>,
        report: &mut Report,
    ) -> Settings {
        let mut warnings = Vec::new();
        let demo = config.is_none() && self.names.is_empty();
        if config.is_some() && self.names.is_empty() {
            warnings.push(
                "no dataset is set, so nothing can be read: add [[datasets]] or NAME=ORIGIN"
                    .to_owned(),
            );
        }
        let listen = self
            .listen
            .as_ref()
            .map_or_else(default_listen, |listen| listen.value);
        self.judge_addresses(listen, report);
        let data_dir = match &self.data_dir {
            Some(data_dir) => data_dir.value.clone(),
            None => default_data_dir(around, report),
        };
        self.judge_edge(report);
        let mut cache = self.cache(around.memory, &mut warnings, report);
        let (nvme, block_files) = self.nvme(&cache, &data_dir, around, &mut warnings, report);
        cache.nvme = nvme;
        let max_connections =
            self.connections(around.open_files, block_files, &mut warnings, report);
        let names: Vec<_> = self.names.iter().map(|name| name.value.as_str()).collect();
        let keys = std::mem::take(&mut self.keys);
        let access = access::finish(keys, &names, &mut warnings, report);
        Settings {
            listen,
            open: or(self.open, false),
            access,
            domain: self.domain.map(|domain| domain.value),
            hosts: or(self.hosts, Vec::new()),
            data_dir,
            admin_listen: self.admin_listen.map(|address| address.value),
            stop_after: or(self.stop_after, Duration::from_secs(10)),
            cache,
            log: LogSettings {
                level: or(self.level, tracing::Level::INFO),
                format: or(self.format, LogFormat::Text),
                access: or(self.access, true),
            },
            limits: Limits {
                max_requests: or(self.max_requests, 10_000),
                max_connections,
                per_address: or(self.per_address, 0),
                header_timeout: or(self.header_timeout, Duration::from_secs(10)),
                idle_timeout: or(self.idle_timeout, Duration::from_secs(60)),
                write_timeout: or(self.write_timeout, Duration::from_secs(300)),
            },
            tls: self.tls,
            datasets: self.datasets,
            fleet: self.fleet,
            state: self.state,
            flows: self.flows,
            schedules: self.schedules,
            demo,
            config: config.map(Path::to_owned),
            secret_files: report.files(),
            warnings,
        }
    }

    /// NVMe keeps only what a gateway owns, and an edge owns nothing: space for it would lie idle.
    fn judge_edge(&self, report: &mut Report) {
        if let (Some(true), Some(nvme)) = (self.fleet.as_ref().map(|fleet| fleet.edge), &self.nvme)
            && nvme.value > 0
        {
            let sentence = "`nvme` says nothing beside `role = \"edge\"`: an edge keeps copies, in memory alone; remove one";
            report.add(&nvme.place, sentence);
        }
    }

    /// Without credentials of its own, a gateway serves this machine only, or says that whoever
    /// comes may read.
    fn judge_addresses(&self, listen: SocketAddr, report: &mut Report) {
        access::judge_open(self.open.as_ref(), !self.keys.is_empty(), report);
        let open = self.open.as_ref().is_some_and(|open| open.value) || !self.keys.is_empty();
        for (key, address) in [
            ("listen", &self.listen),
            ("admin_listen", &self.admin_listen),
        ] {
            let Some(Placed { place, value }) = address else {
                continue;
            };
            if !open && !value.ip().to_canonical().is_loopback() {
                let subject = match place {
                    Place::Flag(_) => "the address".to_owned(),
                    _ => format!("`{key}`"),
                };
                let how = access::NEEDS_ACCESS;
                report.add(
                    place,
                    format!("{subject} is reachable from other machines: {how}"),
                );
            }
        }
        if let Some(Placed { place, value }) = &self.admin_listen
            && *value == listen
            && value.port() != 0
        {
            report.add(
                place,
                format!("`admin_listen` is the address of `listen`, {value}: use another port"),
            );
        }
    }

    fn cache(
        &self,
        memory: Memory,
        warnings: &mut Vec<String>,
        report: &mut Report,
    ) -> CacheSettings {
        let block_size = self.block_size.as_ref().map_or(1 << 20, |size| size.value);
        let bytes = self
            .memory
            .as_ref()
            .map_or_else(|| memory.default_cache(), |memory| memory.value);
        let blocks = bytes / u64::from(block_size);
        // Whoever wrote neither has the defaults, and those hold 64 blocks at least.
        let place = self
            .memory
            .as_ref()
            .map(|memory| &memory.place)
            .or(self.block_size.as_ref().map(|size| &size.place));
        if let Some(place) = place {
            if bytes < LEAST_MEMORY {
                report.add(
                    place,
                    format!(
                        "`memory` is {}: 70 % of it may be cached, and the rest must hold one \
                     request's window of 16 MiB, so write at least 64MiB",
                        size::shown(bytes)
                    ),
                );
            } else if bytes > MOST_MEMORY {
                let most = size::shown(MOST_MEMORY);
                report.add(
                    place,
                    format!("`memory` is more than any machine has: write at most {most}"),
                );
            } else if blocks < FEWEST_BLOCKS {
                report.add(
                    place,
                    format!(
                        "`memory` of {} holds {blocks} blocks of {}, and at least \
                     {FEWEST_BLOCKS} are needed: write `memory` of {}, or a smaller `block_size`",
                        size::shown(bytes),
                        size::shown(block_size.into()),
                        size::shown(FEWEST_BLOCKS * u64::from(block_size))
                    ),
                );
            }
        }
        let (owner, usable) = match memory {
            Memory {
                cgroup: Some(limit),
                ..
            } => ("control group", limit),
            Memory { machine, .. } => ("machine", machine.unwrap_or(u64::MAX)),
        };
        if bytes > usable / 5 * 4 {
            warnings.push(format!(
                "`memory` is {}, more than 80 % of the {} that this {owner} has: the \
                 process may be killed when it fills",
                size::shown(bytes),
                size::shown(usable)
            ));
        }
        CacheSettings {
            memory: bytes,
            block_size,
            nvme: None,
        }
    }

    /// The NVMe tier, if one is asked for, and how many files it has open.
    fn nvme(
        &self,
        cache: &CacheSettings,
        data_dir: &Path,
        around: &Surroundings<'_>,
        warnings: &mut Vec<String>,
        report: &mut Report,
    ) -> (Option<NvmeSettings>, Option<u64>) {
        let nvme_dir = self.nvme_dir.as_ref().map(|dir| dir.value.clone());
        let nvme = nvme::judge(
            self.nvme.as_ref(),
            nvme_dir.unwrap_or_else(|| data_dir.join("nvme")),
            cache.memory,
            cache.block_size,
            around.room,
            report,
        );
        let (nvme, block_files) = nvme.unzip();
        nvme::judge_dir(
            self.nvme.as_ref(),
            self.nvme_dir.as_ref(),
            nvme.as_ref(),
            around.unusable,
            warnings,
            report,
        );
        (nvme, block_files)
    }

    /// `max_connections`, lowered to what the limit on open files leaves for clients.
    ///
    /// The block files stay open, so a limit that does not hold them and a few clients is a mistake.
    fn connections(
        &self,
        open_files: Option<u64>,
        block_files: Option<u64>,
        warnings: &mut Vec<String>,
        report: &mut Report,
    ) -> usize {
        let asked = self
            .max_connections
            .as_ref()
            .map_or(16_384, |count| count.value);
        let Some(limit) = open_files else {
            return asked;
        };
        let blocks = block_files.unwrap_or(0);
        let least = OTHER_FILES + blocks + FEWEST_CONNECTIONS;
        if let Some(nvme) = self.nvme.as_ref().filter(|_| blocks > 0 && limit < least) {
            let sentence = format!(
                "`nvme` of {} keeps {blocks} block files open, and the limit on open files \
                 (RLIMIT_NOFILE) is {limit}: raise its hard limit to {least} at least (ulimit -Hn, \
                 LimitNOFILE= of systemd), or write less",
                size::shown(nvme.value)
            );
            report.add(&nvme.place, sentence);
        }
        let origins = self
            .datasets
            .iter()
            .map(|dataset| dataset.origin_connections as u64)
            .sum::<u64>();
        let rest = limit.saturating_sub(blocks);
        // However many origins there are, half of what is left then stays with clients.
        let others = match rest < 2 * OTHER_FILES {
            true => rest / 2,
            false => OTHER_FILES + origins.min((rest - OTHER_FILES) / 2),
        };
        let others = blocks.min(limit) + others;
        let left = usize::try_from(limit - others).unwrap_or(usize::MAX).max(1);
        if left < asked {
            warnings.push(format!(
                "`max_connections` is lowered from {asked} to {left}: the limit on open files \
                 (RLIMIT_NOFILE) is {limit}, and {others} of them are kept for origins, \
                 health checks and files"
            ));
        }
        asked.min(left)
    }
}

fn or<T>(said: Option<Placed<T>>, default: T) -> T {
    said.map_or(default, |said| said.value)
}

fn by_flag<T>(flag: &str, value: Result<T, String>, report: &mut Report) -> Option<Placed<T>> {
    match value {
        Ok(value) => Some(Placed::by_flag(flag, value)),
        Err(clause) => {
            report.add(&Place::Flag(flag.to_owned()), format!("the value {clause}"));
            None
        }
    }
}

fn default_listen() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 7070).into()
}

/// /var/lib/forebay for root, else below $XDG_STATE_HOME, which counts only if absolute (XDG Base
/// Directory Specification), else below ~/.local/state.
fn default_data_dir(around: &Surroundings<'_>, report: &mut Report) -> PathBuf {
    if around.root {
        return "/var/lib/forebay".into();
    }
    let absolute = |name| {
        (around.env)(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return state.join("forebay");
    }
    if let Some(home) = absolute("HOME") {
        return home.join(".local/state/forebay");
    }
    let sentence = "$HOME is not set, so there is no place for the data directory: name one here, \
                    or as `data_dir` in the settings file";
    report.add(&Place::Flag("--data-dir".into()), sentence);
    PathBuf::new()
}
