//! TLS between gateways, where the settings ask for it: both ends prove that they have the fleet's key, and nobody on
//! the way reads or changes what follows.
//!
//! There is no authority and no file to hand round. An Ed25519 key pair is derived from each of the fleet's keys, so
//! that all members have the same, and its bare public key stands where a certificate would (RFC 7250). While the
//! fleet's key is replaced, the first one's pair is shown and either one's is accepted. TLS 1.3 only, and no tickets:
//! connections between gateways are kept, so that a handshake is rare.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::aws_lc_rs::signature::Ed25519KeyPair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme, version,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// What the secrets are derived for: whoever has those of another purpose has none of these.
pub const PURPOSE: &str = "tls between gateways";

/// Both ends of TLS in one fleet.
#[derive(Clone)]
pub struct FleetTls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for FleetTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FleetTls")
    }
}

impl FleetTls {
    /// TLS with a key pair of each of `secrets`: the first is shown, all are accepted.
    ///
    /// # Errors
    /// If there is no secret, or the cryptography's library refuses one.
    pub fn new(secrets: &[[u8; 32]]) -> Result<Self, Error> {
        let provider = Arc::new(crate::certificate::provider());
        let pairs: Vec<Arc<CertifiedKey>> = secrets.iter().map(pair).collect::<Result<_, _>>()?;
        let shown = pairs.first().ok_or(Error::NoCertificatesPresented)?;
        let accepted = pairs.iter().flat_map(|pair| pair.cert.iter().cloned());
        let verifier = Arc::new(Verifier {
            accepted: accepted.collect(),
            provider: Arc::clone(&provider),
        });
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(shown),
            )));
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                Arc::clone(shown),
            )));
        server.send_tls13_tickets = 0;
        server.ignore_client_order = true;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
        })
    }

    /// Finishes the handshake of a connection that we made.
    ///
    /// # Errors
    /// `PermissionDenied` if the other end does not have the fleet's key, or does not speak TLS; else what the
    /// connection said.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<Wire> {
        // No name is asked for: the key says who may answer, and the next handshake who did.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let connected = self.connector.connect(name, stream).await;
        let stream = connected.map_err(denied)?;
        Ok(Wire::Tls(Box::new(stream.into())))
    }

    /// Finishes the handshake of a connection that was made to us.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Wire> {
        let accepted = self.acceptor.accept(stream).await;
        let stream = accepted.map_err(denied)?;
        Ok(Wire::Tls(Box::new(stream.into())))
    }
}

/// What rustls refuses is refused for good; what the socket says is not.
fn denied(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData => io::Error::new(io::ErrorKind::PermissionDenied, error),
        _ => error,
    }
}

fn pair(secret: &[u8; 32]) -> Result<Arc<CertifiedKey>, Error> {
    let unusable = || Error::General("the fleet's key gives no key pair".into());
    let pair = Ed25519KeyPair::from_seed_unchecked(secret).map_err(|_| unusable())?;
    let document = pair.to_pkcs8v1().map_err(|_| unusable())?;
    let der = PrivatePkcs8KeyDer::from(document.as_ref());
    let key = aws_lc_rs::sign::any_eddsa_type(&der)?;
    let public = key.public_key().ok_or_else(unusable)?;
    let shown = CertificateDer::from(public.as_ref().to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![shown], key)))
}

/// Accepts the fleet's own public keys and no others.
#[derive(Debug)]
struct Verifier {
    accepted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn accept(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        match self.accepted.iter().any(|accepted| accepted == shown) {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }
}

/// TLS 1.2 is not offered, so nobody comes here.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 is spoken between gateways".into()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.accept(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.accept(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A connection between gateways, with TLS or without.
#[derive(Debug)]
pub enum Wire {
    /// In the clear: the network keeps others out.
    Plain(TcpStream),
    /// Through TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// The socket below, for its options.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn of(keys: &[u8]) -> FleetTls {
        let secrets: Vec<[u8; 32]> = keys.iter().map(|key| [*key; 32]).collect();
        FleetTls::new(&secrets).unwrap()
    }

    /// What a byte that one end sends becomes at the other.
    async fn meet(caller: FleetTls, called: FleetTls) -> (io::Result<u8>, io::Result<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calling = async {
            let stream = TcpStream::connect(address).await?;
            let mut wire = caller.connect(stream).await?;
            wire.write_u8(7).await?;
            wire.flush().await?;
            wire.read_u8().await
        };
        let answering = async {
            let (stream, _) = listener.accept().await?;
            let mut wire = called.accept(stream).await?;
            let got = wire.read_u8().await?;
            wire.write_u8(got + 1).await?;
            wire.flush().await?;
            Ok(got)
        };
        tokio::join!(calling, answering)
    }

    #[tokio::test]
    async fn members_with_one_key_meet_also_while_it_is_replaced() {
        for (one, other) in [
            (&[1][..], &[1][..]),
            (&[1, 2], &[1, 2]),
            (&[1, 2], &[2, 1]),
            (&[1], &[1, 2]),
            (&[2, 1], &[2]),
        ] {
            let (called, answered) = meet(of(one), of(other)).await;
            assert_eq!((called.unwrap(), answered.unwrap()), (8, 7));
        }
    }

    #[tokio::test]
    async fn another_key_is_denied() {
        let (called, answered) = meet(of(&[1]), of(&[2])).await;
        assert!(called.is_err());
        assert_eq!(
            answered.unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[tokio::test]
    async fn who_does_not_speak_tls_is_denied() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut plain = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        plain.write_all(b"forebay\n0123456789").await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let error = of(&[1]).accept(stream).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
