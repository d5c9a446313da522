//! What a socket holds for its client.
//!
//! The one module of this crate with `unsafe` in it: no other call says whether a client takes bytes of a socket
//! that is full.

#![allow(
    unsafe_code,
    reason = "needed: who takes a little at a time was cut for taking nothing"
)]

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ` as most machines number it (tcp(7), asm-generic/ioctls.h).
const OUT_QUEUE: Opcode = 0x5411;

/// Bytes that `socket` has taken and its client's kernel has not: unsent ones, and those sent that nobody has
/// acknowledged.
///
/// # Errors
/// What the system says, such as that it is no socket.
pub fn held(socket: impl AsFd) -> io::Result<usize> {
    // SAFETY: for a socket the kernel writes one int for this number, no more, to where it is told (tcp(7)), and
    // `Getter` has an int there; what is no socket refuses it or, a terminal, writes one int as well.
    let held = unsafe { ioctl(socket, Getter::<OUT_QUEUE, c_int>::new()) }?;
    Ok(usize::try_from(held).unwrap_or(0))
}
