//! `forebay check`: judges the settings, reaches every origin, and says where the memory goes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use forebay_storage::block::BlockSize;
use forebay_storage::error::OriginError;
use forebay_storage::listing::{ListRequest, Start};
use forebay_storage::nvme::geometry::Geometry;
use forebay_storage::object::ObjectId;
use forebay_storage::{origin, store};

use crate::app::{USAGE, flows, open_state, served_by_us, try_state};
use crate::certificate::Contents;
use crate::cli::CheckArgs;
use crate::dataset::{Dataset, Datasets};
use crate::say::say;
use crate::settings::size::shown;
use crate::settings::{Flags, Settings, machine};

/// What a connection to an origin costs: a segment in its buffer, and its state.
const ORIGIN_CONNECTION: u64 = 80 << 10;

/// What the program takes before anybody asks anything (measured).
const PROGRAM: u64 = 28 << 20;

/// Runs the check; opens no port.
pub async fn run(args: &CheckArgs) -> ExitCode {
    // As `serve` does: what it has is what is judged.
    machine::raise_open_files();
    let settings = match Settings::load(args.config.as_deref(), &Flags::default()) {
        Ok(settings) => settings,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(USAGE);
        }
    };
    for warning in &settings.warnings {
        say!("warning: {warning}");
    }
    if args.config.is_none() {
        say!("no settings file is named (--config FILE): only the defaults are judged");
    }
    for command in &settings.flows.commands {
        if !is_program(command) {
            say!(
                "warning: [flows] commands: {} is no program that can be run here: a step that names it fails",
                command.display()
            );
        }
    }
    print_memory(&settings);
    print_certificate(&settings);
    print_access(&settings);
    let block_size = BlockSize::new(settings.cache.block_size);
    let datasets = origin::transport()
        .map_err(|error| vec![error.to_string()])
        .and_then(|transport| Datasets::new(&settings.datasets, block_size, transport));
    let datasets = datasets.and_then(|datasets| {
        let mut mistakes = served_by_us(&datasets, settings.listen);
        mistakes.extend(flows::judge(&settings, &datasets));
        match mistakes.is_empty() {
            true => Ok(datasets),
            false => Err(mistakes),
        }
    });
    let datasets = match datasets {
        Ok(datasets) => datasets.all(),
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{mistake}");
            }
            return ExitCode::from(USAGE);
        }
    };
    let mut good = true;
    for dataset in &datasets {
        let reached = reach(dataset).await;
        good &= reached.is_ok();
        let (word, said) = match reached {
            Ok(said) => ("ok", said),
            Err(error) => ("FAILED", error.to_string()),
        };
        say!("dataset {}: {word}: {said}", dataset.name);
        say!("  origin {}", dataset.origin_url());
        say!("  credentials from {}", dataset.origin.credentials());
    }
    good &= state_is_good(&settings).await;
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn is_program(path: &Path) -> bool {
    let metadata = std::fs::metadata(path);
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

/// Tries the state store, if there is to be one, and says what came of it.
async fn state_is_good(settings: &Settings) -> bool {
    let Some(state) = &settings.state else {
        return true;
    };
    let opened = origin::transport()
        .map_err(|error| error.to_string())
        .and_then(|transport| open_state(settings, transport));
    let tried = match opened {
        Ok(Some(documents)) => try_state(&documents)
            .await
            .map_err(|error| error.to_string()),
        Ok(None) => Ok(()),
        Err(mistake) => Err(mistake),
    };
    match &tried {
        Ok(()) => say!("state {}: ok: it writes on conditions", state.url),
        Err(error) => say!("state {}: FAILED: {error}", state.url),
    }
    tried.is_ok()
}

fn row(bytes: u64, what: &str) {
    say!("  {:>9}  {what}", shown(bytes));
}

fn print_memory(settings: &Settings) {
    let memory = settings.cache.memory;
    let block = u64::from(settings.cache.block_size);
    let cache = memory / 100 * 70;
    say!("memory {}, of which", shown(memory));
    row(
        cache,
        "at most are whole blocks, the least recently used go first",
    );
    row(
        memory - cache,
        &format!(
            "at least are for fills and for what sockets hold: {} blocks of {}",
            (memory - cache) / block,
            shown(block)
        ),
    );
    print_beside(settings);
    if let Some(nvme) = &settings.cache.nvme
        && let Some(geometry) = Geometry::new(nvme.bytes, BlockSize::new(settings.cache.block_size))
    {
        say!(
            "  of memory, {} are buffers and tables of the NVMe tier",
            shown(geometry.memory())
        );
        say!(
            "nvme {} in {}: {} files of {}, at least {} blocks",
            shown(nvme.bytes),
            nvme.dir.display(),
            geometry.segments,
            shown(geometry.segment),
            geometry.blocks()
        );
    }
}

/// What connections take of the memory, what is beside it, and the sum.
fn print_beside(settings: &Settings) {
    let memory = settings.cache.memory;
    let room = store::places_in(memory, nvme_memory(settings), settings.fleet.is_some());
    let limits = &settings.limits;
    let connections = u64::from(store::CONNECTION_BYTES) * limits.max_connections as u64;
    let streams = u64::from(store::STREAM_BYTES) * limits.max_requests as u64;
    row(
        room,
        &format!(
            "at most are for connections ({} each) and HTTP/2 streams ({} each)",
            shown(store::CONNECTION_BYTES.into()),
            shown(store::STREAM_BYTES.into())
        ),
    );
    say!("beside it");
    let beyond = (connections + streams).saturating_sub(room);
    row(
        beyond,
        &format!(
            "for what finds no room there, if {} connections and {} HTTP/2 streams come at once \
             (`max_connections`, `max_requests`)",
            limits.max_connections, limits.max_requests
        ),
    );
    let origins = ORIGIN_CONNECTION * origin_connections(settings);
    row(origins, "for connections to origins");
    row(PROGRAM, "for the program, its threads and its tables");
    let least = memory + (64 << 20);
    let most = memory + (PROGRAM + origins).max(64 << 20) + beyond;
    say!(
        "give the process {}: memory and 64MiB, and a tenth on top for what the allocator keeps",
        shown(least / 10 * 11)
    );
    if most > least {
        say!(
            "if all of those connections, streams and origins come at once, it is {}: give it that, or \
             write a lower `max_connections` and `max_requests`",
            shown(most / 10 * 11)
        );
    }
}

/// What the NVMe tier takes of the memory.
fn nvme_memory(settings: &Settings) -> u64 {
    let block_size = BlockSize::new(settings.cache.block_size);
    let nvme = settings.cache.nvme.as_ref();
    let geometry = nvme.and_then(|nvme| Geometry::new(nvme.bytes, block_size));
    geometry.map_or(0, |geometry| geometry.memory())
}

fn origin_connections(settings: &Settings) -> u64 {
    let datasets = settings.datasets.iter();
    datasets
        .map(|dataset| dataset.origin_connections as u64)
        .sum()
}

fn print_certificate(settings: &Settings) {
    let Some(files) = &settings.tls else { return };
    // What is wrong with it was told as a mistake of the settings.
    if let Ok(identity) = Contents::read(files).and_then(|contents| contents.identity())
        && let Some(expires) = identity.expires
    {
        say!("certificate {}: ends {expires}", files.cert.display());
    }
}

fn print_access(settings: &Settings) {
    if settings.access.is_empty() {
        say!("access: whoever reaches {} may read", settings.listen);
    }
    for key in &settings.access {
        let reads = match &key.datasets {
            None => "all datasets".to_owned(),
            Some(names) if names.is_empty() => "no dataset".to_owned(),
            Some(names) => names.join(", "),
        };
        let admin = if key.admin {
            ", and is an administrator"
        } else {
            ""
        };
        say!("access key {}: reads {reads}{admin}", key.access_key_id);
    }
}

/// Asks the origin for one key, or where it can't list, for one that is hardly there.
async fn reach(dataset: &Dataset) -> Result<String, OriginError> {
    let request = ListRequest {
        prefix: String::new(),
        delimiter: None,
        start: Start::Beginning,
        max_keys: 1,
    };
    match dataset.origin.list(&request).await {
        Ok(page) if page.objects.is_empty() && page.prefixes.is_empty() => {
            Ok("it answers, and is empty".to_owned())
        }
        Ok(_) => Ok("it answers and lists".to_owned()),
        Err(OriginError::Unsupported(_)) => {
            let object = ObjectId::new(dataset.name.clone(), "forebay-check");
            match dataset.origin.head(&object).await {
                Ok(_) | Err(OriginError::NotFound) => {
                    Ok("it answers; it can't list, so objects are asked for by key".to_owned())
                }
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}
