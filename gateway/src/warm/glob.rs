//! Patterns of keys: `*` and `?` stay between two slashes, `**` does not, `[a-z]` and `[!a-z]` are one character.

/// A pattern, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Exactly(char),
    /// `?`: any character but a slash.
    One,
    /// `*`: any characters but slashes.
    Some,
    /// `**`: any characters.
    All,
    /// `[…]`: one of these, or none of these.
    Of {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Takes a pattern apart.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a glob that is empty matches nothing: leave it out".into());
        }
        let mut pieces = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(letter) = rest.next() {
            pieces.push(match letter {
                '?' => Piece::One,
                '*' if rest.next_if_eq(&'*').is_some() => Piece::All,
                '*' => Piece::Some,
                '[' => set(&mut rest)
                    .ok_or_else(|| format!("the glob {text:?} has a [ that no ] closes"))?,
                '\\' => {
                    let escaped = rest.next();
                    let escaped = escaped
                        .ok_or_else(|| format!("the glob {text:?} ends in a lone backslash"))?;
                    Piece::Exactly(escaped)
                }
                letter => Piece::Exactly(letter),
            });
        }
        Ok(Self(pieces))
    }

    /// Whether the whole of `text` matches. Takes time in proportion to both lengths, whatever the pattern is.
    pub fn matches(&self, text: &str) -> bool {
        let pieces = &self.0;
        // Which places in the pattern what was read so far may have led to.
        let mut places = vec![false; pieces.len() + 1];
        places[0] = true;
        skip(pieces, &mut places);
        let mut next = vec![false; pieces.len() + 1];
        for letter in text.chars() {
            next.fill(false);
            for (at, piece) in pieces.iter().enumerate() {
                if !places[at] {
                    continue;
                }
                match piece {
                    Piece::All => next[at] = true,
                    Piece::Some if letter != '/' => next[at] = true,
                    Piece::Some => {}
                    piece if piece.takes(letter) => next[at + 1] = true,
                    _ => {}
                }
            }
            skip(pieces, &mut next);
            std::mem::swap(&mut places, &mut next);
        }
        places[pieces.len()]
    }
}

impl Piece {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Exactly(wanted) => *wanted == letter,
            Self::One => letter != '/',
            Self::Of { not, ranges } => {
                let within = |(first, last): &(char, char)| (*first..=*last).contains(&letter);
                letter != '/' && ranges.iter().any(within) != *not
            }
            Self::Some | Self::All => false,
        }
    }
}

/// What matches nothing may be passed over.
fn skip(pieces: &[Piece], places: &mut [bool]) {
    for (at, piece) in pieces.iter().enumerate() {
        if places[at] && matches!(piece, Piece::Some | Piece::All) {
            places[at + 1] = true;
        }
    }
}

fn set(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Piece> {
    let not = rest.next_if(|letter| matches!(letter, '!' | '^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let first = rest.next()?;
        if first == ']' && !ranges.is_empty() {
            return Some(Piece::Of { not, ranges });
        }
        let last = match rest.next_if_eq(&'-') {
            Some(_) if rest.peek() == Some(&']') => {
                ranges.push(('-', '-'));
                first
            }
            Some(_) => rest.next()?,
            None => first,
        };
        ranges.push((first, last));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stars_stay_between_slashes_and_two_do_not() {
        for (glob, yes, no) in [
            (
                "*.safetensors",
                vec!["a.safetensors", ".safetensors"],
                vec!["b/a.safetensors", "a.bin"],
            ),
            ("**.bin", vec!["a.bin", "b/a.bin"], vec!["a.bin/c"]),
            ("**/a?", vec!["x/ab", "x/y/ab"], vec!["ab", "x/a/"]),
            (
                "[a-c][!0-9]-[]x]",
                vec!["ab-]", "cx-x"],
                vec!["d1-x", "a1-x", "a/-x"],
            ),
            ("a\\*", vec!["a*"], vec!["ab"]),
            (
                "model-0000[12]-of-*",
                vec!["model-00001-of-9"],
                vec!["model-00003-of-9"],
            ),
        ] {
            let glob = Glob::parse(glob).unwrap();
            assert!(yes.iter().all(|text| glob.matches(text)), "{glob:?}");
            assert!(!no.iter().any(|text| glob.matches(text)), "{glob:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_a_sentence() {
        for text in ["", "[a", "[", "[]", "a\\"] {
            let sentence = Glob::parse(text).unwrap_err();
            assert!(sentence.contains(' '), "{sentence}");
        }
    }

    #[test]
    fn many_stars_take_no_more_than_their_number() {
        let glob = Glob::parse(&"**a".repeat(60)).unwrap();
        let short = format!("{}{}", "a".repeat(59), "b".repeat(400));
        assert!(!glob.matches(&short));
        assert!(glob.matches(&"a".repeat(500)));
    }
}
