//! `forebay check`: judges the settings, reaches every origin, and says where the memory goes.

use std::process::ExitCode;

use forebay_storage::block::BlockSize;
use forebay_storage::error::OriginError;
use forebay_storage::listing::{ListRequest, Start};
use forebay_storage::nvme::geometry::Geometry;
use forebay_storage::object::ObjectId;
use forebay_storage::origin;

use crate::app::{USAGE, served_by_us};
use crate::cli::CheckArgs;
use crate::dataset::{Dataset, Datasets};
use crate::settings::size::shown;
use crate::settings::{Flags, Settings};

/// Runs the check; opens no port.
pub async fn run(args: &CheckArgs) -> ExitCode {
    let settings = match Settings::load(args.config.as_deref(), &Flags::default()) {
        Ok(settings) => settings,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(USAGE);
        }
    };
    for warning in &settings.warnings {
        println!("warning: {warning}");
    }
    if args.config.is_none() {
        println!("no settings file is named (--config FILE): only the defaults are judged");
    }
    print_memory(&settings);
    print_access(&settings);
    let block_size = BlockSize::new(settings.cache.block_size);
    let datasets = origin::transport()
        .map_err(|error| vec![error.to_string()])
        .and_then(|transport| Datasets::new(&settings.datasets, block_size, transport));
    let datasets = datasets.and_then(|datasets| {
        let looped = served_by_us(&datasets, settings.listen);
        if looped.is_empty() {
            Ok(datasets)
        } else {
            Err(looped)
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
        println!("dataset {}: {word}: {said}", dataset.name);
        println!("  origin {}", dataset.origin_url());
        println!("  credentials from {}", dataset.origin.credentials());
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_memory(settings: &Settings) {
    let memory = settings.cache.memory;
    let block = u64::from(settings.cache.block_size);
    println!(
        "memory {}: blocks that are cached, in flight, or held by sockets",
        shown(memory)
    );
    println!(
        "  at most 70 % of it, {}, is cache",
        shown(memory / 100 * 70)
    );
    println!(
        "  the rest is for fills and readers, {} blocks of {}",
        memory / 10 * 3 / block,
        shown(block)
    );
    println!("  the process takes up to 64MiB and a tenth more than memory");
    if let Some(nvme) = &settings.cache.nvme
        && let Some(geometry) = Geometry::new(nvme.bytes, BlockSize::new(settings.cache.block_size))
    {
        println!(
            "  of it, {} are buffers and tables of the NVMe tier",
            shown(geometry.memory())
        );
        println!(
            "nvme {} in {}: {} files of {}, at least {} blocks",
            shown(nvme.bytes),
            nvme.dir.display(),
            geometry.segments,
            shown(geometry.segment),
            geometry.blocks()
        );
    }
}

fn print_access(settings: &Settings) {
    if settings.access.is_empty() {
        println!("access: whoever reaches {} may read", settings.listen);
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
        println!("access key {}: reads {reads}{admin}", key.access_key_id);
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
