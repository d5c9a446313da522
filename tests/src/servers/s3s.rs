//! s3s-fs: S3 over a directory, and it checks signatures.

use super::{Object, put};
use crate::cluster::{Dataset, SECRET};
use crate::process::{Process, command};
use crate::scratch::Scratch;
use std::path::Path;

/// The only access key id that it takes; the secret is [`SECRET`].
pub const ACCESS_KEY_ID: &str = "LOADER";

/// A running server.
#[derive(Debug)]
pub struct S3s {
    process: Process,
    url: String,
    _root: Scratch,
}

impl S3s {
    /// Starts `program` (this package's `s3-origin`), empty.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(program: &str) -> S3s {
        let root = Scratch::new("s3s");
        let mut command = command(Path::new(program));
        command.arg(root.path()).args([ACCESS_KEY_ID, SECRET]);
        let process = Process::start("s3-origin", &mut command);
        let url = process.stdout_line("address", |line| {
            line.strip_prefix("listening on ").map(str::to_owned)
        });
        S3s {
            process,
            url,
            _root: root,
        }
    }

    /// A dataset whose origin is `prefix` in `bucket` here, read with `secret`.
    #[must_use]
    pub fn dataset(&self, name: &str, bucket: &str, secret: &str) -> Dataset {
        Dataset::new(name, format!("s3://{bucket}"))
            .option("aws_endpoint", self.url.clone())
            .option("aws_region", "us-east-1")
            .option("aws_access_key_id", ACCESS_KEY_ID)
            .option("aws_secret_access_key", secret)
    }

    /// Makes `bucket` and puts objects into it.
    ///
    /// # Panics
    /// If they cannot be put.
    pub fn put(&self, bucket: &str, objects: &[Object]) {
        put("s3", &self.url, bucket, (ACCESS_KEY_ID, SECRET), objects);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
