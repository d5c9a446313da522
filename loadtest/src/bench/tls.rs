//! A certificate for the TLS rows, and the client that believes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::certificate::Authority;

/// Its files, and a client's settings.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    client: Arc<ClientConfig>,
}

impl Certificate {
    /// Makes one for `localhost`, in files in `dir`.
    ///
    /// # Errors
    /// It can't be made or written.
    pub(super) fn make(dir: &Path) -> anyhow::Result<Self> {
        let (chain, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        let authority = Authority::new("forebay-loadtest")?;
        let pair = authority.sign("localhost")?;
        fs::write(&chain, pair.cert).context("write the certificate")?;
        fs::write(&key, pair.key).context("write its key")?;
        let client = Arc::new(client(authority.pem())?);
        Ok(Self { chain, key, client })
    }

    /// Settings of a client that believes what its authority signs, and nobody else.
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

/// It offers one suite, so that all servers pay for the same cipher.
fn client(authority: &str) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate =
        CertificateDer::from_pem_slice(authority.as_bytes()).context("read the authority")?;
    roots.add(certificate).context("trust the authority")?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("settle on TLS 1.3")?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
