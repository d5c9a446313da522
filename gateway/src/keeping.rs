//! What outlives a run: documents, and who works on what they say.
//!
//! | module | its part |
//! |---|---|
//! | [`cabinet`] | small documents that are written only if nobody else wrote them meanwhile: in a state store, or below the data directory |
//! | [`mod@file`] | one file, whole or not at all |
//! | [`lease`] | who works on a document, and when it is anybody's |
//! | [`unread`] | those that can't be read, told of once |

pub mod cabinet;
pub mod file;
pub mod lease;
pub mod unread;

use std::time::{Duration, SystemTime};

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// The time of so many milliseconds since 1970.
pub fn time(millis: u64) -> SystemTime {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
