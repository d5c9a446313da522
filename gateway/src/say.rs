//! Standard output for a person, who may have seen enough: `forebay check | head`.

use std::fmt::Arguments;
use std::io::Write;

/// Writes a line. Where nobody reads any more, nothing is written and nothing is wrong: what a
/// command found out is in its exit code too.
pub(crate) fn line(line: Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// [`println!`] that does not panic once its reader is gone.
macro_rules! say {
    ($($said:tt)*) => { $crate::say::line(format_args!($($said)*)) };
}

pub(crate) use say;
