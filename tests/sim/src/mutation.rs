//! Planted bugs that the simulator must find, or it is no use.
//!
//! Each is a patch to the sources, by which they go wrong if its name is in `FOREBAY_PLANTED`. The workspace is copied, all
//! patches are applied, and one simulator is built there; then that runs seeds, with one bug at a time in force, until a seed
//! shows a violation.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// What the patches ask which bug is in force.
const PLANTED: &str = include_str!("../mutations/planted.patch");

macro_rules! patches {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../mutations/", $name, ".patch")))),*]
    };
}

/// The bugs of one gateway, by name.
const MUTATIONS: [(&str, &str); 26] = patches![
    "absent-for-ever",
    "bad-disk-ends-read",
    "conditions-ignored",
    "cut-looks-whole",
    "dead-flight",
    "early-permit",
    "flips-on-disk",
    "forgotten-block",
    "fresh-for-ever",
    "leaked-lease",
    "left-comes-back",
    "neighbour",
    "neighbour-on-disk",
    "one-byte-early",
    "padded-body",
    "purge-keeps-versions",
    "purge-not-awaited",
    "purge-not-noted",
    "resumed-early",
    "short-suffix",
    "skip-pin",
    "stale-for-ever",
    "tag-not-in-key",
    "unpaid-segment",
    "unproved-block",
    "younger-by-clock",
];

/// The bugs of fleets, by name.
const OF_FLEETS: [(&str, &str); 7] = patches![
    "block-beside",
    "no-age",
    "purge-not-told",
    "silent-for-ever",
    "sums-ignored",
    "suspected-for-ever",
    "version-beside",
];

/// The name of the copy with all bugs in it, and of what is built there.
const COPY: &str = "planted";

/// What a mutated simulator found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The first seed with a violation.
    pub seed: u64,
    /// Its line.
    pub line: String,
}

/// The names of all planted bugs, those of one gateway first.
pub fn names() -> impl Iterator<Item = &'static str> {
    MUTATIONS.iter().chain(&OF_FLEETS).map(|(name, _)| *name)
}

/// The worlds that a bug is looked for in.
fn worlds(name: &str) -> &'static str {
    match OF_FLEETS.iter().any(|(of_fleets, _)| *of_fleets == name) {
        true => "--fleet",
        false => "--alone",
    }
}

/// Whether there is a bug of this name.
///
/// # Errors
/// If there is none: a sentence that names those that there are.
pub fn check(name: &str) -> anyhow::Result<()> {
    let known: Vec<&str> = names().collect();
    ensure!(
        known.contains(&name),
        "there is no planted bug {name:?}; there are: {}",
        known.join(", ")
    );
    Ok(())
}

/// Runs `program`, which [`build`] built, with the bug called `name` in force over `seeds` until it finds it. `None`: it
/// did not.
///
/// # Errors
/// If there is no such bug, or the simulator does not run.
pub fn hunt(program: &Path, name: &str, seeds: Range<u64>) -> anyhow::Result<Option<Found>> {
    check(name)?;
    let mut simulator = Command::new(program)
        .args([worlds(name), "--seeds"])
        .arg(format!("{}..{}", seeds.start, seeds.end))
        .env("FOREBAY_PLANTED", name)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let lines = simulator.stdout.take().context("read what it prints")?;
    let mut found = None;
    for line in BufReader::new(lines).lines() {
        let line = line.context("read what it prints")?;
        let seed = line.strip_prefix("seed ").and_then(|rest| {
            let (seed, _) = rest.split_once(' ')?;
            seed.parse().ok()
        });
        if let (Some(seed), true) = (seed, line.contains(" VIOLATION ")) {
            found = Some(Found { seed, line });
            simulator.kill().context("stop the simulator")?;
            break;
        }
    }
    let status = simulator.wait().context("wait for the simulator")?;
    ensure!(
        found.is_some() || status.success(),
        "the mutated simulator ended with {status}"
    );
    Ok(found)
}

/// Builds the simulator with all bugs planted and none in force, and says where it is.
///
/// # Errors
/// If a patch does not apply any more, or the build fails.
pub fn build() -> anyhow::Result<PathBuf> {
    let name = COPY;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().context("find the workspace")?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let mutations = target.join("mutations");
    let (staged, sources) = (mutations.join(format!("{name}.next")), mutations.join(name));
    if staged.exists() {
        fs::remove_dir_all(&staged).context("clear the former copy")?;
    }
    copy_tree(&root, &staged).context("copy the workspace")?;
    apply(&staged, COPY, PLANTED)?;
    for (name, patch) in MUTATIONS.into_iter().chain(OF_FLEETS) {
        apply(&staged, name, patch)?;
    }
    rename(&staged, name)?;
    // Cargo goes by times: what did not change keeps its own, so that nothing is built twice.
    update_tree(&staged, &sources).context("update the copy")?;
    fs::remove_dir_all(&staged).context("clear the copy")?;
    let program = format!("forebay-sim-{name}");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace's features, so that the dependencies that the tests were built with serve here too.
    cargo
        .args(["build", "--quiet", "--workspace", "--profile", "ci"])
        .args(["--bin", &program])
        .current_dir(&sources)
        .env("CARGO_TARGET_DIR", &target);
    for (variable, _) in std::env::vars_os() {
        // What `cargo test` tells this process is not meant for another build.
        let text = variable.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&variable);
        }
    }
    let status = cargo.status().context("run cargo")?;
    ensure!(status.success(), "the mutated workspace does not build");
    Ok(target.join("ci").join(program))
}

/// Another version and another program's name: else Cargo would take the copy's artefacts for the workspace's own.
fn rename(sources: &Path, name: &str) -> anyhow::Result<()> {
    let edit = |file: &str, before: &str, after: &str| {
        let path = sources.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {file}"))?;
        ensure!(text.contains(before), "{file} has no {before:?}");
        fs::write(&path, text.replacen(before, after, 1)).with_context(|| format!("write {file}"))
    };
    let version = env!("CARGO_PKG_VERSION");
    edit(
        "Cargo.toml",
        &format!("version = \"{version}\""),
        &format!("version = \"{version}-{name}\""),
    )?;
    edit(
        "tests/sim/Cargo.toml",
        "[[bin]]\nname = \"forebay-sim\"",
        &format!("[[bin]]\nname = \"forebay-sim-{name}\""),
    )
}

fn apply(sources: &Path, name: &str, patch: &str) -> anyhow::Result<()> {
    let file = sources.join("mutation.patch");
    fs::write(&file, patch).context("write the patch")?;
    let mut git = Command::new("git");
    // Another patch may have changed lines near by.
    git.args(["apply", "-C1", "mutation.patch"])
        .current_dir(sources);
    // The copy lies below the workspace, whose repository is none of its business.
    if let Some(above) = sources.parent() {
        git.env("GIT_CEILING_DIRECTORIES", above);
    }
    let status = git.status().context("run git")?;
    ensure!(
        status.success(),
        "the patch {name} does not apply any more: bring it up to date with the sources"
    );
    fs::remove_file(&file).context("remove the patch")
}

/// Copies a directory but for what is built, and what is hidden.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &to.join(name))?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// Makes `to` the same as `from`, and touches no file that is the same already.
fn update_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if from.join(entry.file_name()).exists() {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            update_tree(&from, &to)?;
        } else {
            let new = fs::read(&from)?;
            if fs::read(&to).ok().as_ref() != Some(&new) {
                fs::write(&to, new)?;
            }
        }
    }
    Ok(())
}
