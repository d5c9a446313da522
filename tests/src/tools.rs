//! Where `tests/run` has put what is not built here.

use std::path::{Path, PathBuf};

/// `$FOREBAY_TEST_TOOLS`, else `target/tools` in the workspace.
#[must_use]
pub fn home() -> PathBuf {
    match std::env::var_os("FOREBAY_TEST_TOOLS") {
        Some(home) => PathBuf::from(home),
        None => workspace().join("target/tools"),
    }
}

/// A program of the Python environment.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn python(program: &str) -> PathBuf {
    present(home().join("venv/bin").join(program))
}

/// The Python of the environment that holds all clients.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn client_python() -> PathBuf {
    let python = home().join("clients/venv/bin/python3");
    assert!(
        python.exists(),
        "{} is missing: tests/run --all installs every client",
        python.display()
    );
    python
}

/// Where the npm packages of clients lie.
#[must_use]
pub fn client_node() -> PathBuf {
    home().join("clients/node/node_modules")
}

/// The server inside azurite's package.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn azurite() -> PathBuf {
    present(home().join("node/node_modules/azurite/dist/src/blob/main.js"))
}

/// The fake-gcs-server program that its Python package carries.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn fake_gcs_server() -> PathBuf {
    present(home().join("fake-gcs-server"))
}

/// A script of `tests/clients`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn client(script: &str) -> PathBuf {
    present(workspace().join("tests/clients").join(script))
}

/// The gateway: `$FOREBAY_BIN`, else `forebay` beside the running program or in the folder above the running test's.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn forebay() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_BIN") {
        return PathBuf::from(path);
    }
    let running = std::env::current_exe().expect("the running program has a path");
    let mut folders = running.ancestors().skip(1).take(2);
    let built =
        folders.find_map(|folder| Some(folder.join("forebay")).filter(|path| path.exists()));
    built.unwrap_or_else(|| present(running.with_file_name("forebay")))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn present(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run tests/run, which builds and installs what the tests need",
        path.display()
    );
    path
}
