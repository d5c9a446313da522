//! Asking gateways of the same process, without sockets: for simulations and tests.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, header};
use http_body::Body as _;
use http_body_util::Full;

use super::{Peer, PeerBody};
use crate::gateway::Gateway;

/// The gateways of one process, by name. A gateway that is gone is refused like a port where nobody
/// listens.
#[derive(Debug, Default)]
pub struct InMemory {
    gateways: Mutex<HashMap<String, Weak<Gateway>>>,
}

impl InMemory {
    /// Lets `gateway` be asked under its name.
    pub fn add(&self, gateway: &Arc<Gateway>) {
        let name = gateway.state.name.to_string();
        self.lock().insert(name, Arc::downgrade(gateway));
    }

    /// Lets the gateway of this name be asked no more.
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<Gateway>>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer for InMemory {
    fn send<'a>(
        &'a self,
        to: &'a forebay_ring::Peer,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, io::Result<Response<PeerBody>>> {
        let gateway = self.lock().get(to.member.name()).and_then(Weak::upgrade);
        Box::pin(async move {
            let gateway = gateway.ok_or(io::ErrorKind::ConnectionRefused)?;
            let request = request.map(Full::new);
            let mut response = gateway.handle_peer("in memory", request).await;
            // What hyper would say of a body whose length is known.
            if let Some(length) = response.body().size_hint().exact() {
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, length.into());
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
