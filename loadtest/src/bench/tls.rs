//! A certificate for the TLS rows, and the client that believes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::process::Command;

/// Its files, and a client's settings.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    client: Arc<ClientConfig>,
}

/// No authority: a client that trusts it by name must not take it for one.
const REQUEST: &str = "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = more\n[name]\nCN = localhost\n\
    [more]\nsubjectAltName = DNS:localhost\nbasicConstraints = critical,CA:FALSE\n";

impl Certificate {
    /// Makes one for `localhost` in `dir`, by the `openssl` command.
    ///
    /// # Errors
    /// There is no such command, or it fails.
    pub(super) async fn make(dir: &Path) -> anyhow::Result<Self> {
        let (chain, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        let request = dir.join("request.cnf");
        fs::write(&request, REQUEST).context("write what the certificate is to say")?;
        let done = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "7", "-config"])
            .arg(&request)
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&chain)
            .output()
            .await
            .context("run openssl, which makes the certificate: apt-get install openssl")?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("openssl ended: {}: {said}", done.status);
        }
        let client = Arc::new(client(&chain)?);
        Ok(Self { chain, key, client })
    }

    /// Settings of a client that believes this certificate alone.
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

/// It offers one suite, so that all servers pay for the same cipher.
fn client(chain: &Path) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(chain).context("read the certificate")?;
    roots.add(certificate).context("trust the certificate")?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("settle on TLS 1.3")?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
