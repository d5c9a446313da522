//! TLS: handshakes within `header_timeout`, and certificates that are read again as they change.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::Utc;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::Signal;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::{Contents, Identity, Mistake};
use crate::metrics::Metrics;
use crate::settings::TlsSettings;

/// How often the files are looked at. Their content is compared, so a link that is turned to other
/// files, as orchestrators do it, is seen like an edit.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// TLS for all listeners.
pub struct Tls {
    files: TlsSettings,
    config: ArcSwap<ServerConfig>,
    /// What `config` was made of.
    contents: Contents,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish()
    }
}

impl Tls {
    /// TLS with these files; blocks on the disk.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new(files: &TlsSettings, metrics: Arc<Metrics>) -> Result<Arc<Self>, Mistake> {
        let contents = Contents::read(files)?;
        let identity = contents.identity()?;
        tell(&identity, &metrics);
        Ok(Arc::new(Self {
            files: files.clone(),
            config: ArcSwap::new(identity.config),
            contents,
            metrics,
        }))
    }

    /// Finishes the handshake of a new connection, which is counted whatever comes of it. Dropping
    /// the future gives the connection up.
    ///
    /// # Errors
    /// The handshake took longer than `patience`, or failed: why is the error's text.
    pub async fn accept<S>(&self, stream: S, patience: Duration) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let accepted = tokio::time::timeout(patience, acceptor.accept(stream)).await;
        let (outcome, accepted) = match accepted {
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the handshake did not end");
                ("timeout", Err(error))
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => ("refused", Err(error)),
            Ok(Err(error)) => ("closed", Err(error)),
            Ok(Ok(stream)) => match stream.get_ref().1.handshake_kind() {
                Some(HandshakeKind::Resumed) => ("resumed", Ok(stream)),
                _ => ("full", Ok(stream)),
            },
        };
        let handshakes = &self.metrics.tls_handshakes;
        handshakes.with_label_values(&[outcome]).inc();
        accepted
    }

    /// Reads the files again as they change, and when `hangup` says so. A change counts once the
    /// files have looked the same twice, for a certificate and its key are rarely written at one
    /// time; one that can't be used is warned of once and changes nothing. Never returns.
    pub async fn watch(self: Arc<Self>, mut hangup: Signal) {
        let mut used: Result<Contents, Mistake> = Ok(self.contents.clone());
        let mut seen = used.clone();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                _ = ticks.tick() => false,
            };
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || Contents::read(&files));
            let Ok(now) = read.await else { continue };
            let settled = asked || now == seen;
            seen.clone_from(&now);
            if now == used || !settled {
                continue;
            }
            match now.clone().and_then(|contents| contents.identity()) {
                Ok(identity) => {
                    tell(&identity, &self.metrics);
                    self.config.store(identity.config);
                    tracing::info!("the certificate was reloaded");
                }
                Err(mistake) => {
                    tracing::warn!(%mistake, "a changed certificate is not taken over; the old one stays in force");
                }
            }
            used = now;
        }
    }
}

fn tell(identity: &Identity, metrics: &Metrics) {
    if let Some(expires) = identity.expires {
        let gauge = &metrics.certificate_expires;
        gauge
            .with_label_values::<&str>(&[])
            .set(expires.timestamp());
        if expires < Utc::now() {
            tracing::warn!(%expires, "the certificate has ended, and clients refuse it: renew it");
        } else {
            tracing::info!(%expires, "the certificate's end");
        }
    }
}
