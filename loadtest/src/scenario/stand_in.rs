//! Static servers in place of gateways: they prove the links. What nginx gets out of files is what a fleet can be
//! asked for.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use tokio::process::Command;

use super::DATASET;
use crate::pattern;

/// Bytes made at a time.
const PIECE: u64 = 1 << 20;

/// Writes the objects as files below `directory`, where [`nginx`] looks for them. Those there already stay.
///
/// # Errors
/// The disk is full or not writable.
pub(super) fn write_files(directory: &Path, objects: &[(String, u64)]) -> anyhow::Result<()> {
    let files = directory.join("files").join(DATASET);
    fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
    for (key, size) in objects {
        let path = files.join(key);
        if fs::metadata(&path).is_ok_and(|data| data.len() == *size) {
            continue;
        }
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(&path)?);
            let seed = pattern::seed(key, 0);
            for first in (0..*size).step_by(PIECE as usize) {
                let mut piece = vec![0; PIECE.min(size - first) as usize];
                pattern::fill(seed, first, &mut piece);
                file.write_all(&piece)?;
            }
            file.flush()
        };
        write().with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The command that serves those files, with a directory of its own for what nginx writes.
///
/// # Errors
/// Its settings cannot be written.
pub(super) fn nginx(
    files: &Path,
    own: &Path,
    objects: &[(String, u64)],
) -> anyhow::Result<Command> {
    fs::create_dir_all(own).with_context(|| format!("create {}", own.display()))?;
    let locations: String = objects
        .iter()
        .map(|(key, size)| {
            let etag = pattern::etag(key, 0, *size);
            format!("location = /{DATASET}/{key} {{ add_header ETag '{etag}'; }}\n")
        })
        .collect();
    let settings = format!(
        "daemon off;\nmaster_process off;\npid {own}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\naccess_log off;\nsendfile on;\ntcp_nopush on;\netag off;\nopen_file_cache max=100;\n\
         keepalive_requests 1000000;\nclient_body_temp_path {own}/body;\nproxy_temp_path {own}/proxy;\n\
         fastcgi_temp_path {own}/fastcgi;\nuwsgi_temp_path {own}/uwsgi;\nscgi_temp_path {own}/scgi;\n\
         server {{ listen 7070 backlog=4096;\nroot {files}/files;\n{locations}}}\n}}\n",
        own = own.display(),
        files = files.display(),
    );
    let file = own.join("nginx.conf");
    fs::write(&file, settings).context("write nginx's settings")?;
    let mut command = Command::new("nginx");
    command
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
        .arg("-c")
        .arg(file)
        .arg("-p")
        .arg(own)
        .args(["-e", "stderr"]);
    Ok(command)
}
