//! What the service manager is told (sd_notify(3)): ready, stopping, and that we live, if it wants to hear that.
//!
//! The protocol is a datagram of lines to the Unix socket that `$NOTIFY_SOCKET` names; where nobody set that, nothing
//! is sent. It is a few lines, so no library is taken for it.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// The service manager, if there is one that listens.
#[derive(Clone, Debug)]
pub struct Notify {
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The manager that the environment names. A socket that cannot be reached is told in the log, and then nothing
    /// more is sent: a gateway serves without a manager too.
    pub fn from_environment() -> Self {
        let watchdog = watchdog(env::var_os("WATCHDOG_USEC"), env::var_os("WATCHDOG_PID"));
        let socket = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        let socket = socket.and_then(|path| match connect(path.as_bytes()) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                tracing::warn!(%error, "the service manager's socket cannot be reached");
                None
            }
        });
        Self { socket, watchdog }
    }

    /// The gateway takes requests. From here on to the end of the runtime the manager's watchdog, if one runs, hears
    /// from us.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=serving\n");
        if let (Some(time), Some(_)) = (self.watchdog, &self.socket) {
            tokio::spawn(self.clone().keep_alive(time));
        }
    }

    /// The gateway has begun to stop.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping: running bodies may end\n");
    }

    /// Twice as often as the watchdog wants, from a task of the runtime that serves: if that hangs, so does this.
    async fn keep_alive(self, time: Duration) {
        let mut beat = tokio::time::interval(time / 2);
        loop {
            beat.tick().await;
            self.send("WATCHDOG=1\n");
        }
    }

    fn send(&self, lines: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(lines.as_bytes())
        {
            tracing::warn!(%error, "the service manager takes no notice");
        }
    }
}

/// A path, or after an `@` a name in the abstract namespace (unix(7)).
fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let address = match path {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the gateway.
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// The watchdog's time, if it watches this process (sd_watchdog_enabled(3)).
fn watchdog(microseconds: Option<OsString>, pid: Option<OsString>) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    let ours = match pid {
        Some(pid) => number(pid) == Some(u64::from(std::process::id())),
        None => true,
    };
    let microseconds = number(microseconds?)?;
    (ours && microseconds > 0).then(|| Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that listens, and what would tell it.
    fn pair(name: &str) -> (UnixDatagram, Notify) {
        let name = format!("forebay-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let listens = UnixDatagram::bind_addr(&address).expect("a free name");
        let socket = connect(format!("@{name}").as_bytes()).expect("it listens");
        let notify = Notify {
            socket: Some(Arc::new(socket)),
            watchdog: Some(Duration::from_millis(20)),
        };
        (listens, notify)
    }

    fn told(listens: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = listens.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn ready_keeps_the_watchdog_content_and_stopping_is_told() {
        let (listens, notify) = pair("notify");
        notify.ready();
        let heard = tokio::task::spawn_blocking(move || {
            let heard = [told(&listens), told(&listens), told(&listens)];
            (listens, heard)
        });
        let (listens, heard) = heard.await.expect("no panic");
        assert!(heard[0].starts_with("READY=1\n"));
        assert_eq!(heard[1..], ["WATCHDOG=1\n", "WATCHDOG=1\n"]);
        notify.stopping();
        let last = tokio::task::spawn_blocking(move || {
            loop {
                let line = told(&listens);
                if !line.starts_with("WATCHDOG") {
                    return line;
                }
            }
        });
        assert!(last.await.expect("no panic").starts_with("STOPPING=1\n"));
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let text = |text: &str| Some(OsString::from(text));
        let own = text(&std::process::id().to_string());
        assert_eq!(watchdog(text("2000000"), own), Some(Duration::from_secs(2)));
        assert_eq!(
            watchdog(text("2000000"), None),
            Some(Duration::from_secs(2))
        );
        assert_eq!(watchdog(text("2000000"), text("1")), None);
        assert_eq!(watchdog(text("0"), None), None);
        assert_eq!(watchdog(text("soon"), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
