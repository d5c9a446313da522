//! Reads a `multipart/byteranges` body (RFC 9110 §14.6) as it arrives, in whatever pieces.

/// A line of a part's head longer than this is not one.
const LONGEST_LINE: usize = 4096;

/// `Content-Range: bytes FIRST-LAST/SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    /// The byte after the last.
    pub(super) end: u64,
    pub(super) size: u64,
}

impl ContentRange {
    /// Parses the header's value; `None` if it is no range of bytes with a known size.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, size): (u64, u64, u64) =
            (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
        (first <= last && last < size).then_some(Self {
            first,
            end: last + 1,
            size,
        })
    }
}

/// The boundary in a Content-Type, if that is a multipart of ranges.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/byteranges") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"'))
    })
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    Part(ContentRange),
    /// Bytes of the current part, from this offset of the object on.
    Data(u64, &'a [u8]),
}

#[derive(Debug, PartialEq, Eq)]
enum Expect {
    Delimiter,
    Head,
    Data,
    Nothing,
}

/// The reader's state between pieces.
#[derive(Debug)]
pub(super) struct Multipart {
    delimiter: Vec<u8>,
    expect: Expect,
    line: Vec<u8>,
    range: Option<ContentRange>,
    at: u64,
}

impl Multipart {
    pub(super) fn new(boundary: &str) -> Self {
        let delimiter = format!("--{boundary}").into_bytes();
        Self {
            delimiter,
            expect: Expect::Delimiter,
            line: Vec::new(),
            range: None,
            at: 0,
        }
    }

    /// Takes a piece; `event` sees what is in it, and may stop the reading with an error.
    pub(super) fn feed<E: From<String>>(
        &mut self,
        mut piece: &[u8],
        event: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !piece.is_empty() {
            match self.expect {
                Expect::Nothing => return Ok(()),
                Expect::Data => {
                    let left = self.range.map_or(0, |range| range.end - self.at);
                    let (data, rest) = piece
                        .split_at(piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                    event(Event::Data(self.at, data))?;
                    self.at += data.len() as u64;
                    if data.len() as u64 == left {
                        self.expect = Expect::Delimiter;
                        self.range = None;
                    }
                    piece = rest;
                }
                Expect::Delimiter | Expect::Head => {
                    let end = piece
                        .iter()
                        .position(|&byte| byte == b'\n')
                        .map_or(piece.len(), |at| at + 1);
                    self.line.extend_from_slice(&piece[..end]);
                    piece = &piece[end..];
                    if self.line.len() > LONGEST_LINE {
                        return Err("a line of the multipart body does not end"
                            .to_owned()
                            .into());
                    }
                    if self.line.ends_with(b"\r\n") {
                        let mut line = std::mem::take(&mut self.line);
                        line.truncate(line.len() - 2);
                        if let Some(range) = self.line(&line)? {
                            event(Event::Part(range))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the body has ended where it says so.
    pub(super) fn ended(&self) -> bool {
        // The last line need not be ended.
        let closing = self.expect == Expect::Delimiter
            && self
                .line
                .strip_prefix(self.delimiter.as_slice())
                .is_some_and(|rest| rest.trim_ascii() == b"--");
        self.expect == Expect::Nothing || closing
    }

    /// A line between the data; gives the range when a part's head is complete.
    fn line(&mut self, line: &[u8]) -> Result<Option<ContentRange>, String> {
        if self.expect == Expect::Delimiter {
            match line
                .strip_prefix(self.delimiter.as_slice())
                .map(<[u8]>::trim_ascii)
            {
                Some(b"") => self.expect = Expect::Head,
                Some(b"--") => self.expect = Expect::Nothing,
                None if line.is_empty() => {}
                _ => {
                    return Err(format!(
                        "{:?} instead of a delimiter",
                        String::from_utf8_lossy(line)
                    ));
                }
            }
            return Ok(None);
        }
        if line.is_empty() {
            let range = self.range.ok_or("a part without Content-Range")?;
            self.at = range.first;
            self.expect = Expect::Data;
            return Ok(Some(range));
        }
        let line = String::from_utf8_lossy(line);
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-range")
        {
            let range =
                ContentRange::parse(value).ok_or_else(|| format!("a part with {line:?}"))?;
            self.range = Some(range);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"\r\n--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes 2-4/10\r\n\r\ncde\r\n\
        --xyz\r\ncontent-range: bytes 8-9/10\r\n\r\n\r\n\r\n--xyz--\r\n";

    /// The data, the parts, and whether the body has ended.
    type Seen = (Vec<u8>, Vec<(u64, u64)>, bool);

    fn read(pieces: impl Iterator<Item = &'static [u8]>) -> Result<Seen, String> {
        let mut multipart = Multipart::new("xyz");
        let (mut data, mut parts) = (Vec::new(), Vec::new());
        for piece in pieces {
            multipart.feed(piece, &mut |event| {
                match event {
                    Event::Part(range) => parts.push((range.first, range.end)),
                    Event::Data(_, bytes) => data.extend_from_slice(bytes),
                }
                Ok::<_, String>(())
            })?;
        }
        Ok((data, parts, multipart.ended()))
    }

    #[test]
    fn parts_are_found_however_the_body_is_cut_up() {
        for size in 1..BODY.len() {
            let (data, parts, ended) = read(BODY.chunks(size)).expect("a good body");
            assert_eq!(data, b"cde\r\n");
            assert_eq!(parts, [(2, 5), (8, 10)]);
            assert!(ended);
        }
    }

    #[test]
    fn a_body_without_its_closing_delimiter_has_not_ended() {
        let (_, _, ended) = read(BODY[..BODY.len() - 6].chunks(7)).expect("good so far");
        assert!(!ended);
        let (_, _, ended) =
            read(BODY[..BODY.len() - 2].chunks(7)).expect("only the line's end is missing");
        assert!(ended);
    }

    #[test]
    fn data_longer_than_its_range_is_an_error() {
        let body = b"--xyz\r\nContent-Range: bytes 0-0/10\r\n\r\nab\r\n--xyz--\r\n";
        assert!(read(body.chunks(100)).is_err());
    }

    #[test]
    fn boundaries_and_ranges_parse() {
        assert_eq!(
            boundary("multipart/byteranges; boundary=\"a b\""),
            Some("a b")
        );
        assert_eq!(boundary("Multipart/ByteRanges;x=y; Boundary=q"), Some("q"));
        assert_eq!(boundary("text/plain; boundary=q"), None);
        assert_eq!(
            ContentRange::parse("bytes 0-9/10"),
            Some(ContentRange {
                first: 0,
                end: 10,
                size: 10
            })
        );
        for bad in [
            "bytes 0-10/10",
            "bytes 5-4/10",
            "bytes */10",
            "bytes 0-9/*",
            "0-9/10",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }
}
