//! Real origin servers on free ports. Each lives as long as its value.
//!
//! | server | what it is for |
//! |---|---|
//! | [`moto`] | S3 with versions and multipart uploads; looks at no signature |
//! | [`s3s`] | S3 that checks signatures |
//! | [`azurite`] | Azure Blob Storage, checks signatures |
//! | [`gcs`] | Google Cloud Storage; knows no If-Match |
//! | [`scripted`] | a function: for what no real server does on demand |
//! | [`nginx`] | plain HTTP in many moods: no validator, weak tags, no ranges, compression |

pub mod azurite;
pub mod gcs;
pub mod moto;
pub mod nginx;
pub mod s3s;
pub mod scripted;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use forebay_loadtest::port;
use serde_json::json;

use crate::scratch::Scratch;
use crate::tools;

/// One object to put.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its key in the bucket or container.
    pub key: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The Content-Type that [`put`] gives each object.
pub const CONTENT_TYPE: &str = "application/x-weights";

/// The user metadata that [`put`] gives each object: the name without a store's prefix, and the value.
pub const METADATA: (&str, &str) = ("license", "apache-2.0");

/// A port on loopback that nobody listens on, as [`port::free_address`] gives it.
///
/// # Panics
/// If none is free.
#[must_use]
pub fn free_address() -> SocketAddr {
    port::free_address().expect("loopback has a free port")
}

/// Puts objects with the store's own Python client; makes the bucket. `kind` is `s3`, `azure` or `gcs`.
///
/// # Panics
/// If the client fails, with what it said.
pub fn put(
    kind: &str,
    endpoint: &str,
    bucket: &str,
    credentials: (&str, &str),
    objects: &[Object],
) {
    let files = Scratch::new("put");
    let manifest: Vec<_> = objects
        .iter()
        .enumerate()
        .map(|(index, object)| json!({ "key": object.key, "path": files.write(&index.to_string(), &object.bytes) }))
        .collect();
    let mut child = Command::new(tools::python("python3"))
        .arg(tools::client("put.py"))
        .args([
            kind,
            endpoint,
            bucket,
            credentials.0,
            credentials.1,
            CONTENT_TYPE,
            METADATA.0,
            METADATA.1,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut input = child.stdin.take().expect("stdin is piped");
    input
        .write_all(json!(manifest).to_string().as_bytes())
        .expect("the client reads its manifest");
    drop(input);
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(
        output.status.success(),
        "put.py {kind}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
