//! What is between two servers, and may change, cut or hold what passes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A way to an origin that can be closed to one of those who go there.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// No request passes from now on.
    pub fn close(&self) {
        self.set(true);
    }

    /// All pass again.
    pub fn open(&self) {
        self.set(false);
    }

    /// Relays connections to `to`, and holds requests that are made by `key_id` while it is closed.
    ///
    /// # Panics
    /// If loopback has no free port.
    #[must_use]
    pub fn before(&self, to: SocketAddr, key_id: &str) -> SocketAddr {
        let gate = self.clone();
        let credential = format!("Credential={key_id}/").into_bytes();
        between(to, move |answers, _, piece| {
            let found = || {
                piece
                    .windows(credential.len())
                    .any(|part| part == credential)
            };
            if !answers && found() {
                gate.wait();
            }
            true
        })
    }

    fn set(&self, closed: bool) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let closed = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.0.1.wait_while(closed, |closed| *closed);
        drop(open.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Relays connections to `to` and has `change` look at each piece on its way: the direction (true: an answer),
/// how many bytes passed before it, and the piece. False cuts the connection.
///
/// # Panics
/// If loopback has no free port.
#[must_use]
pub fn between(
    to: SocketAddr,
    change: impl Fn(bool, usize, &mut Vec<u8>) -> bool + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let change = Arc::new(change);
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(to) else {
                continue;
            };
            for answers in [false, true] {
                let ends = (near.try_clone(), far.try_clone());
                let (Ok(near), Ok(far)) = ends else { continue };
                let change = Arc::clone(&change);
                std::thread::spawn(move || match answers {
                    true => pump(far, near, |passed, piece| change(true, passed, piece)),
                    false => pump(near, far, |passed, piece| change(false, passed, piece)),
                });
            }
        }
    });
    address
}

fn pump(mut from: TcpStream, mut to: TcpStream, change: impl Fn(usize, &mut Vec<u8>) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut piece = buffer[..read].to_vec();
        let goes_on = change(passed, &mut piece);
        if !goes_on || to.write_all(&piece).is_err() {
            break;
        }
        passed += read;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
