//! Texts that others had a hand in, made fit for one line.
//!
//! A key may hold any character, and whoever writes to an origin chooses keys: one with a line feed in it would make a
//! line of its own of what a log or a client takes for ours.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

/// The text with its control characters written out, such as `\n`, so that it is one line and moves no cursor.
pub fn one_line(text: &str) -> Cow<'_, str> {
    one_line_but(text, |_| false)
}

fn one_line_but(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let plain = |c: char| !c.is_control() || stays(c);
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if plain(c) {
            line.push(c);
        } else {
            // A String takes all that is written into it.
            let _ = write!(line, "{}", c.escape_default());
        }
    }
    Cow::Owned(line)
}

/// Writes each event of a log as one line.
#[derive(Debug)]
pub struct Lines<W> {
    to: W,
    /// Our own formatter colours what a terminal shows.
    colours: bool,
}

impl<W> Lines<W> {
    /// Writes to `to`; with `colours`, escapes of a terminal stay.
    pub fn new(to: W, colours: bool) -> Self {
        Self { to, colours }
    }
}

impl<W: io::Write> io::Write for Lines<W> {
    /// Takes one event, with its line feed: the formatter hands each over whole.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (body, end) = match text.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (&*text, ""),
        };
        let colours = self.colours;
        let line = one_line_but(body, |c| c == '\t' || (colours && c == '\x1b'));
        match line {
            Cow::Borrowed(_) => self.to.write_all(event)?,
            Cow::Owned(line) => self.to.write_all(format!("{line}{end}").as_bytes())?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_text_of_others_is_one_line_and_moves_no_cursor() {
        assert_eq!(one_line("a/b ä"), "a/b ä");
        assert_eq!(
            one_line("a\r\ndone 1 2 bytes\x1b[2K\u{9b}"),
            "a\\r\\ndone 1 2 bytes\\u{1b}[2K\\u{9b}"
        );
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        for (colours, escape) in [(false, "\\u{1b}[1m"), (true, "\x1b[1m")] {
            let mut log = Vec::new();
            let mut lines = Lines::new(&mut log, colours);
            let _ = lines.write(b"\x1b[1mINFO a\nWARN forged\n").unwrap_or(0);
            let expected = format!("{escape}INFO a\\nWARN forged\n");
            assert_eq!(String::from_utf8_lossy(&log), expected);
        }
    }
}
