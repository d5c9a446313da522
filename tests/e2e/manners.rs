//! How the gateway takes what clients write, byte by byte over raw sockets: what is lawful is served in whatever form it
//! comes, what is not is refused or closed, and nobody who comes next notices.

mod broken;
mod forms;
mod malformed;

use forebay_tests::cluster::Gateway;
use forebay_tests::http::{Answer, Connection};

/// What the gateway says to these bytes on a connection of their own, whose writing side stays open: `None` if it closes.
fn say(gateway: &Gateway, bytes: &[u8]) -> Option<Answer> {
    let mut connection = Connection::open(gateway.address());
    connection.send(bytes);
    connection.answer(bytes.starts_with(b"HEAD"))
}

/// The first bytes, for messages.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned()
}
