//! Planted bugs that the simulator must find, or it is no use.
//!
//! A mutation is a patch to the gateway's sources. The workspace is copied, the patch applied, and the simulator built
//! there; then that simulator runs seeds until one shows a violation.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// The mutations by name.
const MUTATIONS: [(&str, &str); 1] = [("skip-pin", include_str!("../mutations/skip-pin.patch"))];

/// What a mutated simulator found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The first seed with a violation.
    pub seed: u64,
    /// Its line.
    pub line: String,
}

/// Builds the simulator with the bug called `name`, and runs it over `seeds` until it finds it. `None`: it did not.
///
/// # Errors
/// If there is no such mutation, or its patch or the build fails.
pub fn hunt(name: &str, seeds: Range<u64>) -> anyhow::Result<Option<Found>> {
    let program = build(name)?;
    let mut simulator = Command::new(&program)
        .arg("--seeds")
        .arg(format!("{}..{}", seeds.start, seeds.end))
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

fn build(name: &str) -> anyhow::Result<PathBuf> {
    let Some((_, patch)) = MUTATIONS.iter().find(|(known, _)| *known == name) else {
        let names = MUTATIONS.map(|(name, _)| name).join(", ");
        bail!("there is no mutation {name:?}; there are: {names}");
    };
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
    apply(&staged, patch)?;
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

fn apply(sources: &Path, patch: &str) -> anyhow::Result<()> {
    let file = sources.join("mutation.patch");
    fs::write(&file, patch).context("write the patch")?;
    let mut git = Command::new("git");
    git.args(["apply", "mutation.patch"]).current_dir(sources);
    // The copy lies below the workspace, whose repository is none of its business.
    if let Some(above) = sources.parent() {
        git.env("GIT_CEILING_DIRECTORIES", above);
    }
    let status = git.status().context("run git")?;
    ensure!(
        status.success(),
        "the patch does not apply any more: bring it up to date with the sources"
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
