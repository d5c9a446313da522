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

/// The gateway: `$FOREBAY_BIN`, else `forebay` in the folder above the running test's.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn forebay() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("the running test has a path");
    let folder = test
        .parent()
        .and_then(Path::parent)
        .expect("a test lies in target/PROFILE/deps");
    present(folder.join("forebay"))
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
