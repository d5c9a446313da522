//! Request targets: which place in the gateway a request names (RFC 9112 §3.2).
//!
//! Origin-form and absolute-form are one here: the host decides nothing, unless it names a dataset. The path is percent-decoded exactly
//! once and then split at its first two slashes; empty and dot segments are part of a key, as S3 has it, and
//! are never folded.

use std::borrow::Cow;
use std::sync::Arc;

use http::Uri;
use percent_encoding::percent_decode_str;

/// S3's limit on the length of a key in UTF-8 bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// A request target, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The query, decoded.
    pub query: Query,
    /// What the path names.
    pub place: Place,
}

/// What a path names. All texts are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `/`: all datasets.
    Root,
    /// `/name` or `/name/`. The name may be anything, even empty, as for `//`.
    Dataset {
        /// The dataset's name, as asked.
        name: String,
        /// Whether a slash follows the name.
        slash: bool,
    },
    /// `/dataset/key`.
    Object {
        /// The dataset's name, as asked.
        dataset: String,
        /// The key: everything after the second slash, 1 to [`MAX_KEY_BYTES`] bytes.
        key: Arc<str>,
    },
    /// `/-` and below: no dataset can be named `-`.
    Ours {
        /// What follows `/-/`.
        rest: String,
    },
}

/// The decoded `name=value` pairs of a query, in order.
///
/// `+` is a space, as S3 reads it; a name without `=` has an empty value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// Why a target cannot be read. All are the client's mistake, with status 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// `*` or `host:port`, which only OPTIONS and CONNECT use.
    #[error("the request target is not a path; send /DATASET/KEY")]
    NotAPath,
    /// A `%` without two hexadecimal digits behind it.
    #[error(
        "the request target holds a '%' without two hexadecimal digits; send '%25' for a percent sign"
    )]
    BadEscape,
    /// The decoded path or query is not UTF-8.
    #[error(
        "the request target is not valid UTF-8 once decoded; percent-encode the key's UTF-8 bytes"
    )]
    NotUtf8,
    /// The decoded path holds a NUL.
    #[error("the request target holds a NUL character, which no key can")]
    Nul,
    /// The key is too long.
    #[error("the key is {bytes} bytes long; at most {MAX_KEY_BYTES} are allowed")]
    KeyTooLong {
        /// The key's length in bytes.
        bytes: usize,
    },
}

impl Target {
    /// Reads a request target.
    ///
    /// # Errors
    /// [`TargetError`], when the target is not a path, is not properly escaped UTF-8, or names a key that
    /// cannot exist.
    pub fn parse(uri: &Uri) -> Result<Self, TargetError> {
        Self::parse_by(uri, Place::of)
    }

    /// Reads a request target whose host names the dataset: all of the path is a key, `/-/` too.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_in(uri: &Uri, dataset: &str) -> Result<Self, TargetError> {
        Self::parse_by(uri, |path| match &path[1..] {
            "" => Ok(Place::Dataset {
                name: dataset.to_owned(),
                slash: true,
            }),
            key => Place::object(dataset, key),
        })
    }

    fn parse_by(
        uri: &Uri,
        place: impl FnOnce(&str) -> Result<Place, TargetError>,
    ) -> Result<Self, TargetError> {
        let raw_path = uri.path();
        if !raw_path.starts_with('/') {
            return Err(TargetError::NotAPath);
        }
        let path = decode(raw_path)?;
        if path.contains('\0') {
            return Err(TargetError::Nul);
        }
        Ok(Self {
            query: Query::parse(uri.query().unwrap_or_default())?,
            place: place(&path)?,
        })
    }
}

impl Place {
    /// The name of the dataset that it is, or is in.
    pub fn dataset(&self) -> Option<&str> {
        match self {
            Self::Dataset { name, .. } | Self::Object { dataset: name, .. } => Some(name),
            Self::Root | Self::Ours { .. } => None,
        }
    }

    /// The place that a decoded path, which begins with a slash, names.
    fn of(path: &str) -> Result<Self, TargetError> {
        let path = &path[1..];
        if path.is_empty() {
            return Ok(Self::Root);
        }
        let (name, rest) = match path.split_once('/') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        if name == "-" {
            return Ok(Self::Ours {
                rest: rest.unwrap_or_default().to_owned(),
            });
        }
        match rest {
            None | Some("") => Ok(Self::Dataset {
                name: name.to_owned(),
                slash: rest.is_some(),
            }),
            Some(key) => Self::object(name, key),
        }
    }

    fn object(dataset: &str, key: &str) -> Result<Self, TargetError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(TargetError::KeyTooLong { bytes: key.len() });
        }
        Ok(Self::Object {
            dataset: dataset.to_owned(),
            key: key.into(),
        })
    }
}

impl Query {
    /// Reads a query, without its `?`.
    ///
    /// # Errors
    /// [`TargetError::BadEscape`] and [`TargetError::NotUtf8`].
    pub fn parse(raw: &str) -> Result<Self, TargetError> {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode_form(name)?, decode_form(value)?))
        });
        Ok(Self {
            pairs: pairs.collect::<Result<_, _>>()?,
        })
    }

    /// The value of the first pair of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    /// Whether a pair of this name is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn decode_form(raw: &str) -> Result<String, TargetError> {
    if raw.contains('+') {
        return decode(&raw.replace('+', " ")).map(Cow::into_owned);
    }
    decode(raw).map(Cow::into_owned)
}

fn decode(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    // Most texts hold none, and a presigned request has a dozen texts.
    if !raw.contains('%') {
        return Ok(raw.into());
    }
    let bytes = raw.as_bytes();
    let escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    for (at, _) in escapes {
        if !matches!(bytes.get(at + 1..at + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit))
        {
            return Err(TargetError::BadEscape);
        }
    }
    percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| TargetError::NotUtf8)
}

#[cfg(test)]
mod tests;
