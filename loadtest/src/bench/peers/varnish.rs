//! Varnish, with whole objects in memory.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{Place, Server, Who};
use crate::bench::process::Process;
use crate::bench::rows::Stage;

pub(super) async fn start(place: &Place, dir: &Path) -> anyhow::Result<Server> {
    let target = place.target()?;
    let origin = place.origin;
    let rules = format!(
        "vcl 4.1;\nbackend default {{ .host = \"{}\"; .port = \"{}\"; }}\n\
         sub vcl_backend_response {{ set beresp.ttl = 1d; }}\n",
        origin.ip(),
        origin.port()
    );
    let file = dir.join("default.vcl");
    fs::write(&file, rules).context("write default.vcl")?;
    // Its log in shared memory wants a file system in memory, as its manual says.
    let memory = Path::new("/dev/shm");
    let work = if memory.is_dir() {
        memory.join(format!("forebay-bench-varnish-{}", std::process::id()))
    } else {
        dir.join("work")
    };
    let mut process = Process::start(
        "varnishd",
        &place.cores,
        &place.programs.varnish,
        dir,
        |command| {
            command
                .args(["-F", "-j", "none", "-T", "none", "-t", "86400", "-n"])
                .arg(&work)
                .args(["-a", &target.address.to_string(), "-f"])
                .arg(&file)
                .args(["-s", &format!("malloc,{}", place.stage.memory())]);
        },
    )?;
    process.listens(target.address).await?;
    let companion = if place.stage == Stage::Logged {
        Some(Process::start(
            "varnishncsa",
            &place.cores,
            Path::new("varnishncsa"),
            dir,
            |command| {
                command.arg("-n").arg(&work);
                command.arg("-w").arg(dir.join("access.log"));
            },
        )?)
    } else {
        None
    };
    Ok(Server {
        who: Who::Varnish,
        process,
        companion,
        outside: memory.is_dir().then_some(work),
        target,
        files: None,
    })
}
