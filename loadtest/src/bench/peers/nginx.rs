//! nginx: files as they are, or a cache of slices in front of the origin.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{Place, Server, Who};
use crate::bench::process::Process;
use crate::bench::rows::{Carrier, Stage};

pub(super) async fn start(who: Who, place: &Place, dir: &Path) -> anyhow::Result<Server> {
    let target = place.target()?;
    let listen = match target.carrier {
        Carrier::Plain => format!("listen {};", target.address),
        Carrier::Http2 => format!("listen {} http2;", target.address),
        Carrier::Tls => {
            let certificate = place.certificate.as_ref().context("make a certificate")?;
            format!(
                "listen {} ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3; \
                 ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_buffer_size 16k;",
                target.address,
                certificate.chain.display(),
                certificate.key.display()
            )
        }
    };
    let location = if who == Who::Static {
        files(place)
    } else {
        slices(place)
    };
    let log = if place.stage == Stage::Logged {
        format!(
            "access_log {}/access.log combined buffer=64k flush=1s;",
            dir.display()
        )
    } else {
        "access_log off;".to_owned()
    };
    let cache = if who == Who::Slice {
        format!(
            "proxy_cache_path {}/cache levels=1:2 keys_zone=c:64m max_size={} inactive=1d use_temp_path=off;",
            dir.display(),
            place.stage.memory()
        )
    } else {
        String::new()
    };
    let text = format!(
        "daemon off;\nworker_processes 1;\nuser root;\npid {dir}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n{log}\n{cache}\n{paths}\n\
         default_type application/octet-stream;\nsendfile on;\ntcp_nopush on;\ntcp_nodelay on;\n\
         keepalive_requests 1000000000;\nopen_file_cache max=20000 inactive=1d;\nopen_file_cache_min_uses 1;\n\
         open_file_cache_valid 1d;\nserver {{ {listen}\n{location}\n}}\n}}\n",
        dir = dir.display(),
        paths = temporary(dir),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text).context("write nginx.conf")?;
    let mut process = Process::start(
        "nginx",
        &place.cores,
        &place.programs.nginx,
        dir,
        |command| {
            command.arg("-c").arg(&file).arg("-p").arg(dir);
            command.args(["-e", "stderr"]);
        },
    )?;
    process.listens(target.address).await?;
    Ok(Server {
        who,
        process,
        companion: None,
        outside: None,
        target,
        files: (place.stage == Stage::Disk).then(|| place.dir.join("files")),
    })
}

fn files(place: &Place) -> String {
    let root = place.dir.join("files");
    let disk = if place.stage == Stage::Disk {
        // Reads around the page cache, by threads; buffers of the size of the reads, or each is cut into many.
        "directio 512; aio threads; output_buffers 2 1m;"
    } else {
        ""
    };
    format!("location / {{ root {}; {disk} }}", root.display())
}

fn slices(place: &Place) -> String {
    format!(
        "location / {{ slice 1m; proxy_cache c; proxy_cache_key $uri$slice_range; \
         proxy_set_header Range $slice_range; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_cache_valid 200 206 1d; proxy_pass http://{}; }}",
        place.origin
    )
}

/// Directories that nginx would otherwise want below its prefix.
fn temporary(dir: &Path) -> String {
    let name = |kind: &str| format!("{kind}_temp_path {}/{kind};", dir.display());
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(name)
        .join(" ")
}
