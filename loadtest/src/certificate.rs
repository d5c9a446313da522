//! Certificates for a run: an authority of its own, and what it signs.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

/// An authority, known to nobody but the run.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one of this name.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("make authority")?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make authority's key")?;
        let pem = params.self_signed(&key).context("sign authority")?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate of this name for `localhost` and 127.0.0.1, or for a client.
    ///
    /// # Errors
    /// No key can be made.
    pub fn sign(&self, name: &str) -> anyhow::Result<Pair> {
        self.sign_for(name, Ipv4Addr::LOCALHOST.into())
    }

    /// The same for `localhost` and this address.
    ///
    /// # Errors
    /// No key can be made.
    pub fn sign_for(&self, name: &str, address: IpAddr) -> anyhow::Result<Pair> {
        let names = vec!["localhost".to_owned()];
        let mut params = CertificateParams::new(names).context("make certificate")?;
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().context("make key")?;
        let cert = params
            .signed_by(&key, &self.issuer)
            .context("sign certificate")?;
        Ok(Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }

    /// What a client needs that believes this authority alone, and shows `pair` if it is asked.
    ///
    /// # Errors
    /// The pair does not belong together.
    pub fn client(&self, pair: Option<&Pair>) -> anyhow::Result<ClientConfig> {
        self.client_of(pair, &[&version::TLS13, &version::TLS12])
    }

    /// The same, of these versions of TLS only.
    ///
    /// # Errors
    /// The pair does not belong together.
    pub fn client_of(
        &self,
        pair: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.pem.as_bytes());
        roots.add(authority.context("read authority")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        Ok(match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).context("read key")?;
                builder.with_client_auth_cert(chain.context("read certificate")?, key)?
            }
        })
    }
}
