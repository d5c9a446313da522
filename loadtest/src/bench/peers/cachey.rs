//! s2's cachey: pages of 16 MiB in foyer's hybrid cache, asked for by closed ranges under `/fetch/`.

use std::path::Path;

use super::{Place, Server, Who};
use crate::bench::process::Process;
use crate::bench::rows::Stage;

/// Memory in the disk rows: a few of its pages, so that nearly all comes from its disk.
const LITTLE: u64 = 256 << 20;

pub(super) async fn start(place: &Place, dir: &Path) -> anyhow::Result<Server> {
    let mut target = place.target()?;
    target.prefix = "/fetch/bucket".to_owned();
    target.ranges_only = true;
    let disk = (place.stage == Stage::Disk).then(|| dir.join("disk"));
    let memory = if disk.is_some() {
        LITTLE
    } else {
        place.stage.memory()
    };
    let mut process = Process::start(
        "cachey",
        &place.cores,
        &place.programs.cachey,
        dir,
        |command| {
            command
                .args(["--port", &target.address.port().to_string()])
                .args(["--memory", &format!("{memory}B")])
                .env("RUST_LOG", "warn")
                .env("AWS_ENDPOINT_URL", format!("http://{}", place.origin))
                .env("AWS_REGION", "us-east-1")
                .env("AWS_ACCESS_KEY_ID", "AK")
                .env("AWS_SECRET_ACCESS_KEY", "SK");
            if let Some(disk) = &disk {
                command.arg("--disk-path").arg(disk);
                command.args(["--disk-capacity", &format!("{}B", place.stage.memory())]);
            }
        },
    )?;
    process.listens(target.address).await?;
    Ok(Server {
        who: Who::Cachey,
        process,
        companion: None,
        outside: None,
        target,
        files: disk,
    })
}
