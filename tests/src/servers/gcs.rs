//! fake-gcs-server: Google Cloud Storage, with the XML API that object_store reads and lists by. It knows no If-Match.

use super::{Object, free_address, put};
use crate::cluster::Dataset;
use crate::process::{Process, command};
use crate::tools;

/// A running server.
#[derive(Debug)]
pub struct Gcs {
    process: Process,
    url: String,
}

impl Gcs {
    /// Starts it, empty, in memory.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Gcs {
        let address = free_address();
        let mut command = command(&tools::fake_gcs_server());
        command.args([
            "-scheme",
            "http",
            "-backend",
            "memory",
            "-host",
            "127.0.0.1",
            "-log-level",
            "warn",
        ]);
        command.args([
            "-port",
            &address.port().to_string(),
            "-public-host",
            &address.to_string(),
        ]);
        let mut process = Process::start("fake-gcs-server", &mut command);
        process.listens(address);
        Gcs {
            process,
            url: format!("http://{address}"),
        }
    }

    /// A dataset whose origin is `bucket` here.
    #[must_use]
    pub fn dataset(&self, name: &str, bucket: &str) -> Dataset {
        Dataset::new(name, format!("gs://{bucket}"))
            .option("google_base_url", self.url.clone())
            .option("google_skip_signature", "true")
    }

    /// Makes `bucket` and puts objects into it.
    ///
    /// # Panics
    /// If they cannot be put.
    pub fn put(&self, bucket: &str, objects: &[Object]) {
        put("gcs", &self.url, bucket, ("", ""), objects);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
