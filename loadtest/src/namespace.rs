//! A network namespace, as a place where sockets and processes are made.
//!
//! A socket belongs for ever to the namespace of the thread that made it, and a process begins in that of the thread
//! that started it (network_namespaces(7)). So a short-lived thread enters the namespace and makes what is wanted;
//! everything after that runs on the one runtime, whatever namespace its sockets are in.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Where iproute2 keeps its names of namespaces (ip-netns(8)).
pub(crate) const NAMED: &str = "/run/netns";

/// Readers that start together connect together: each gateway sees hundreds of handshakes in a moment.
const BACKLOG: u32 = 4096;

/// One namespace that `ip netns add` has named; it lives as long as its name or any handle.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Namespace {
    /// Opens a namespace by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: &str) -> io::Result<Self> {
        Ok(Self {
            name: name.into(),
            file: Arc::new(File::open(format!("{NAMED}/{name}"))?),
        })
    }

    /// The one that this process is in. It has no name that `ip` knows.
    #[cfg(test)]
    pub(crate) fn own() -> Self {
        Self {
            name: "own".into(),
            file: Arc::new(File::open("/proc/self/ns/net").expect("every process has one")),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. Dropping the future does not stop the thread.
    ///
    /// # Errors
    /// No thread can be had, entering is not allowed (it needs CAP_SYS_ADMIN), or `work` fails.
    pub async fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = Arc::clone(&self.file);
        let (done, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn(move || {
                let entered =
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
                let made = entered.map_err(io::Error::from).and_then(|()| work());
                // Nobody waits any more: what was made is dropped.
                let _ = done.send(made);
            })?;
        result
            .await
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    }

    /// Connects from the namespace.
    ///
    /// # Errors
    /// As [`TcpStream::connect`], or [`Self::within`].
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.within(move || socket(address)).await?;
        socket.connect(address).await
    }

    /// Listens in the namespace.
    ///
    /// # Errors
    /// As [`TcpListener::bind`], or [`Self::within`].
    pub async fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.within(move || socket(address)).await?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// Starts a process in the namespace.
    ///
    /// # Errors
    /// As [`Command::spawn`], or [`Self::within`].
    pub async fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let runtime = Handle::current();
        self.within(move || {
            let _runtime = runtime.enter();
            command.spawn()
        })
        .await
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
}
