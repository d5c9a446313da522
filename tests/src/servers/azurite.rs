//! azurite: Azure Blob Storage. It checks signatures.

use std::path::Path;

use super::{Object, free_address, put};
use crate::cluster::Dataset;
use crate::process::{Process, command};
use crate::scratch::Scratch;
use crate::tools;

/// The account and key that every azurite has; both are public.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server.
#[derive(Debug)]
pub struct Azurite {
    process: Process,
    url: String,
    _work: Scratch,
}

impl Azurite {
    /// Starts it, empty, in memory.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Azurite {
        let address = free_address();
        let work = Scratch::new("azurite");
        let mut command = command(Path::new("node"));
        command.arg(tools::azurite()).args([
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &address.port().to_string(),
        ]);
        command.args([
            "--silent",
            "--skipApiVersionCheck",
            "--inMemoryPersistence",
            "--disableTelemetry",
        ]);
        command.current_dir(work.path());
        let mut process = Process::start("azurite", &mut command);
        process.listens(address);
        Azurite {
            process,
            url: format!("http://{address}/{ACCOUNT}"),
            _work: work,
        }
    }

    /// A dataset whose origin is `container` here.
    #[must_use]
    pub fn dataset(&self, name: &str, container: &str) -> Dataset {
        Dataset::new(name, format!("az://{container}"))
            .option("azure_storage_account_name", ACCOUNT)
            .option("azure_storage_account_key", KEY)
            .option("azure_storage_endpoint", self.url.clone())
    }

    /// Makes `container` and puts objects into it.
    ///
    /// # Panics
    /// If they cannot be put.
    pub fn put(&self, container: &str, objects: &[Object]) {
        put("azure", &self.url, container, (ACCOUNT, KEY), objects);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
