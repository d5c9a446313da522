//! What a socket holds for its client.
//!
//! The one module of this crate with `unsafe` in it: no other call says whether a client takes bytes of a socket
//! that is full, and none gives a socket that was bounded its freedom back.

#![allow(
    unsafe_code,
    reason = "needed: who takes a little at a time was cut for taking nothing, and a socket that was bounded once \
              stayed so for ever"
)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

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

/// Lets the kernel find the size of `socket`'s send buffer by itself again, after it was told one (`SO_BUF_LOCK`,
/// Linux 5.14).
///
/// # Errors
/// What the system says, such as that it knows no such option.
pub fn unbind(socket: impl AsFd) -> io::Result<()> {
    let nothing: c_int = 0;
    // SAFETY: the kernel reads as many bytes as it is told from where it is told, which is `nothing`, and keeps neither;
    // the descriptor is borrowed, so open, for as long as this takes.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw const nothing).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
