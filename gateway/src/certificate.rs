//! The certificate that clients see, its key, and whose certificates clients must show: PEM files
//! in, what rustls serves with out.
//!
//! Both the settings and the listener come here, so that a file which is wrong at the start is told
//! with its line, and one that becomes wrong later with the same words.

mod expiry;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, version};

use crate::settings::TlsSettings;

/// No chain, key or list of authorities is larger; a file beyond this was named by mistake.
const LARGEST: u64 = 4 << 20;

/// Sessions that TLS 1.2 clients without tickets may resume, at about 200 bytes each.
const SESSIONS: usize = 4096;

/// Which of the files something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `cert`.
    Cert,
    /// `key`.
    Key,
    /// `client_ca`.
    ClientCa,
}

impl Part {
    /// Its name in the settings file.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Key => "key",
            Self::ClientCa => "client_ca",
        }
    }
}

/// What is wrong with one of the files. Never says what a key file holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {clause}", part.key())]
pub struct Mistake {
    /// The file that it is about.
    pub part: Part,
    /// What follows the setting's name in a sentence.
    pub clause: String,
}

impl Mistake {
    fn new(part: Part, clause: impl Into<String>) -> Self {
        let clause = clause.into();
        Self { part, clause }
    }
}

/// What the files hold, as it was read at one time. Two of them are equal if nothing changed, even
/// if a link was turned in between.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contents(…)")
    }
}

/// What TLS is served with.
#[derive(Clone, Debug)]
pub struct Identity {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// When the certificate ends; `None`: it doesn't say so in a way that can be read.
    pub expires: Option<DateTime<Utc>>,
}

impl Contents {
    /// Reads the files; blocks on the disk.
    ///
    /// # Errors
    /// The first one that can't be read.
    pub fn read(files: &TlsSettings) -> Result<Self, Mistake> {
        Ok(Self {
            cert: read(Part::Cert, &files.cert)?,
            key: read(Part::Key, &files.key)?,
            client_ca: match &files.client_ca {
                Some(path) => Some(read(Part::ClientCa, path)?),
                None => None,
            },
        })
    }

    /// What TLS is served with. Sessions of an identity can be resumed with no other one, so that
    /// nobody who was let in by an authority stays in when it is taken off the list.
    ///
    /// # Errors
    /// The first thing that is wrong: no certificate, no key, a key of another certificate.
    pub fn identity(&self) -> Result<Identity, Mistake> {
        let chain = certificates(Part::Cert, &self.cert)?;
        let expires = chain.first().and_then(|leaf| expiry::not_after(leaf));
        let provider = Arc::new(provider());
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            Mistake::new(
                Part::Key,
                "holds no private key: write one in PEM, without a password",
            )
        })?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            Mistake::new(
                Part::Key,
                "holds a key of a kind that is not known: use RSA, ECDSA or Ed25519",
            )
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let clause = "is not the key of the first certificate in `cert`: name the two that \
                              belong together";
                return Err(Mistake::new(Part::Key, clause));
            }
            Err(error) => {
                let clause = format!("holds a certificate that can't be used: {error}");
                return Err(Mistake::new(Part::Cert, clause));
            }
        }
        let config = self.config(provider, certified)?;
        Ok(Identity {
            config: Arc::new(config),
            expires,
        })
    }

    fn config(
        &self,
        provider: Arc<CryptoProvider>,
        certified: CertifiedKey,
    ) -> Result<ServerConfig, Mistake> {
        let failed =
            |error: rustls::Error| Mistake::new(Part::Cert, format!("can't be used: {error}"));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(failed)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(text) => {
                let refused = |error: &dyn fmt::Display| {
                    let clause = format!("holds an authority that can't be used: {error}");
                    Mistake::new(Part::ClientCa, clause)
                };
                let mut roots = RootCertStore::empty();
                for authority in certificates(Part::ClientCa, text)? {
                    roots.add(authority).map_err(|error| refused(&error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| refused(&error))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // With the suites in our order: AES-128 costs a third less than AES-256.
        config.ignore_client_order = true;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
        Ok(config)
    }
}

/// rustls over aws-lc-rs, AES_128_GCM before the other suites.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let name = suite.suite().as_str().unwrap_or_default();
        !name.contains("AES_128_GCM")
    });
    provider
}

fn certificates(part: Part, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Mistake::new(
            part,
            "holds no certificate: write one in PEM, with BEGIN CERTIFICATE before it",
        )),
    }
}

fn read(part: Part, path: &Path) -> Result<Vec<u8>, Mistake> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content));
    let path = path.display();
    read.map_err(|error| {
        let clause = format!("names the file {path}, which cannot be read ({error})");
        Mistake::new(part, clause)
    })?;
    if content.len() as u64 > LARGEST {
        let clause =
            format!("names the file {path}, which is larger than 4 MiB: name the right one");
        return Err(Mistake::new(part, clause));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
