//! Reading the settings again: on SIGHUP, and when the file changes or one that a secret is in.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::gateway::Gateway;
use crate::settings::{Flags, Settings};

/// How often the file is looked at. Its content is compared, so a link that is turned to another
/// file, as orchestrators do it, is seen like an edit; and what changed is read once two looks have
/// found the same, since half a file may be a file too, and one that lets more people in.
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
    /// Where clients reach the gateway until it ends, whatever the file says by then.
    pub listens: SocketAddr,
}

/// What the files held at one look.
#[derive(Clone, PartialEq)]
struct Look {
    config: Option<Vec<u8>>,
    secrets: Vec<Option<Vec<u8>>>,
}

impl Look {
    async fn at(reload: &Reload) -> Self {
        let mut secrets = Vec::with_capacity(reload.settings.secret_files.len());
        for path in &reload.settings.secret_files {
            secrets.push(read(path).await);
        }
        let config = read(&reload.config).await;
        Self { config, secrets }
    }
}

/// Begins to catch SIGHUP, which ends the process otherwise.
///
/// # Errors
/// If the signal can't be caught.
pub fn catch() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Whether `now` differs from what was read last, and lies still: the look before it found the same.
fn is_news(now: &Look, last: &Look, known: &Look) -> bool {
    now.config.is_some() && now == last && now != known
}

/// Reads the settings again whenever that is asked for. Never returns.
pub async fn watch(gateway: Arc<Gateway>, mut reload: Reload, mut hangup: Signal) {
    let mut known = Look::at(&reload).await;
    known.config = reload.content.take();
    let mut last = known.clone();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = ticks.tick() => false,
        };
        let now = Look::at(&reload).await;
        let settled = is_news(&now, &last, &known);
        last = now;
        if asked || settled {
            apply(&gateway, &mut reload, &last).await;
            // Other files may hold the secrets now.
            known = Look::at(&reload).await;
            known.config.clone_from(&last.config);
            last.secrets.clone_from(&known.secrets);
        }
    }
}

async fn read(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}

/// Why settings that could be read are not to be taken over while the gateway runs.
fn refusal(settings: &Settings, reload: &Reload) -> Option<String> {
    let others_reach_it = !reload.listens.ip().to_canonical().is_loopback();
    if settings.access.is_empty() && !settings.open && others_reach_it {
        return Some(format!(
            "they have no [[access]] and not open = true, and others reach {} until the next start",
            reload.listens
        ));
    }
    if settings.datasets.is_empty() && !reload.settings.datasets.is_empty() {
        return Some(
            "they have no datasets; a gateway that is to serve none is stopped".to_owned(),
        );
    }
    None
}

async fn apply(gateway: &Gateway, reload: &mut Reload, look: &Look) {
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
    if read(&reload.config).await != look.config {
        // It was written to meanwhile, and the next looks find that.
        return;
    }
    if let Some(why) = refusal(&settings, reload) {
        tracing::error!(%why, "the settings are not taken over; the old ones stay in force");
        return;
    }
    match gateway.datasets.replace(&settings.datasets) {
        Ok(changed) => {
            let (domain, hosts) = (settings.domain.as_deref(), &settings.hosts);
            gateway.access.replace(&settings.access, domain, hosts);
            let in_force = reload.settings.cache.block_size;
            gateway.state.revise(settings.digest(in_force));
            gateway.state.bound();
            for name in &changed {
                gateway.state.forget(name).await;
            }
            if settings.access.is_empty() && !reload.settings.access.is_empty() {
                tracing::warn!(
                    "the settings have no [[access]] any more: whoever reaches the port may read"
                );
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

#[cfg(test)]
mod tests {
    use super::*;

    fn look(config: Option<&str>, secret: &str) -> Look {
        Look {
            config: config.map(|text| text.as_bytes().to_vec()),
            secrets: vec![Some(secret.as_bytes().to_vec())],
        }
    }

    #[test]
    fn what_is_still_being_written_is_no_news_yet() {
        let known = look(Some("old"), "a");
        let half = look(Some("ne"), "a");
        let whole = look(Some("new"), "a");
        assert!(!is_news(&half, &known, &known));
        assert!(!is_news(&whole, &half, &known));
        assert!(is_news(&whole, &whole, &known));
        assert!(!is_news(&whole, &whole, &whole));
        let secret = look(Some("new"), "b");
        assert!(!is_news(&secret, &whole, &whole));
        assert!(is_news(&secret, &secret, &whole));
        let gone = look(None, "a");
        assert!(!is_news(&gone, &gone, &known));
    }
}
