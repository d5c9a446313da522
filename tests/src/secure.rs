//! A client's stream, in clear or through TLS, for clients that are otherwise the same.

use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Both of them.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Clear(TcpStream),
    /// Through TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Begins TLS with a server named `localhost`; the handshake is done as it is read or written to.
    ///
    /// # Panics
    /// If `tls` cannot be used.
    #[must_use]
    pub fn secure(stream: TcpStream, tls: &Arc<ClientConfig>) -> Stream {
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::clone(tls), name).expect("a good client");
        Stream::Tls(Box::new(StreamOwned::new(session, stream)))
    }

    /// The certificate that the server showed, in DER; `None` in clear, or before the handshake.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        match self {
            Stream::Clear(_) => None,
            Stream::Tls(stream) => Some(stream.conn.peer_certificates()?.first()?.to_vec()),
        }
    }

    /// Tells the server that nothing more will be sent.
    pub fn finish(&mut self) {
        let stream = match self {
            Stream::Clear(stream) => stream,
            Stream::Tls(stream) => &mut stream.sock,
        };
        let _ = stream.shutdown(Shutdown::Write);
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        match self {
            Stream::Clear(stream) => stream.read(bytes),
            Stream::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Stream::Clear(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Stream::Clear(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
