//! Reading the settings again: on SIGHUP, and when the file changes or one that a secret is in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::gateway::Gateway;
use crate::settings::{Flags, Settings};

/// How often the file is looked at. Its content is compared, so a link that is turned to another
/// file, as orchestrators do it, is seen like an edit.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a reload starts from.
pub struct Reload {
    /// The settings file.
    pub config: PathBuf,
    /// The flags, which win over it as they did at the start.
    pub flags: Flags,
    /// The file's content before it was read: a change from then on is news.
    pub content: Option<Vec<u8>>,
    /// What is in force.
    pub settings: Settings,
}

/// Begins to catch SIGHUP, which ends the process otherwise.
///
/// # Errors
/// If the signal can't be caught.
pub fn catch() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Reads the settings again whenever that is asked for. Never returns.
pub async fn watch(gateway: Arc<Gateway>, mut reload: Reload, mut hangup: Signal) {
    let mut content = reload.content.take();
    let mut secrets = read_all(&reload.settings.secret_files).await;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = ticks.tick() => false,
        };
        let now = read(&reload.config).await;
        let mut changed = now.is_some() && now != content;
        if changed {
            content = now;
        }
        let now = read_all(&reload.settings.secret_files).await;
        if now != secrets {
            changed = true;
            secrets = now;
        }
        if asked || changed {
            let files = reload.settings.secret_files.clone();
            apply(&gateway, &mut reload).await;
            if files != reload.settings.secret_files {
                secrets = read_all(&reload.settings.secret_files).await;
            }
        }
    }
}

async fn read(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}

async fn read_all(paths: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    let mut contents = Vec::with_capacity(paths.len());
    for path in paths {
        contents.push(read(path).await);
    }
    contents
}

async fn apply(gateway: &Gateway, reload: &mut Reload) {
    let (config, flags) = (reload.config.clone(), reload.flags.clone());
    let loaded = tokio::task::spawn_blocking(move || Settings::load(Some(&config), &flags)).await;
    let settings = match loaded {
        Ok(Ok(settings)) => settings,
        Ok(Err(mistakes)) => {
            tracing::error!(%mistakes, "the settings are not taken over; the old ones stay in force");
            return;
        }
        Err(_) => return,
    };
    match gateway.datasets.replace(&settings.datasets) {
        Ok(changed) => {
            let (domain, hosts) = (settings.domain.as_deref(), &settings.hosts);
            gateway.access.replace(&settings.access, domain, hosts);
            let in_force = reload.settings.cache.block_size;
            gateway.state.revise(settings.digest(in_force));
            for name in &changed {
                gateway.state.forget(name).await;
            }
            tracing::info!(
                datasets = settings.datasets.len(),
                access_keys = settings.access.len(),
                "the datasets and access keys were reloaded"
            );
        }
        Err(mistakes) => {
            let mistakes = mistakes.join("; ");
            tracing::error!(%mistakes, "the settings are not taken over; the old ones stay in force");
            return;
        }
    }
    let rest = |settings: &Settings| {
        let datasets = Vec::new();
        Settings {
            datasets,
            access: Vec::new(),
            open: false,
            domain: None,
            hosts: Vec::new(),
            secret_files: Vec::new(),
            warnings: Vec::new(),
            ..settings.clone()
        }
    };
    if rest(&settings) != rest(&reload.settings) {
        tracing::warn!("settings other than datasets and access changed too; they need a restart");
    }
    reload.settings = settings;
}
