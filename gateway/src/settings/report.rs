//! Where a setting stands, and the collector of everything that is wrong with the settings.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the settings file as a whole.
    File,
    /// On this line of the settings file, counted from 1.
    Line(usize),
    /// In this flag of the command line.
    Flag(String),
}

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

impl<T> Placed<T> {
    /// A value that a flag gave.
    pub(super) fn by_flag(flag: &str, value: T) -> Self {
        Self {
            place: Place::Flag(flag.to_owned()),
            value,
        }
    }
}

/// Everything that is wrong with the settings, in the order of the file, the flags after it.
///
/// Shown one mistake a line, each as `FILE:LINE: sentence` or `--flag: sentence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// The mistakes, one string each. There is at least one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Collects mistakes while the settings are read.
pub(super) struct Report {
    file: String,
    /// Offset in the file at which each line after the first begins.
    line_starts: Vec<usize>,
    /// The file does not parse: what is missing may stand in the part that was lost.
    broken: bool,
    /// Files that values refer to.
    files: Vec<PathBuf>,
    mistakes: Vec<(Place, String)>,
}

impl Report {
    /// A report about `config`, or about flags alone.
    pub(super) fn new(config: Option<&Path>) -> Self {
        let file = config
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        Self {
            file,
            line_starts: Vec::new(),
            broken: false,
            files: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// Learns where the file's lines begin.
    pub(super) fn set_text(&mut self, text: &str) {
        self.line_starts = text
            .match_indices('\n')
            .map(|(offset, _)| offset + 1)
            .collect();
    }

    /// The place of a span of the file.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        Place::Line(
            1 + self
                .line_starts
                .partition_point(|start| *start <= span.start),
        )
    }

    /// Notes the file that a value may refer to, as `{ file = … }`.
    pub(super) fn reads(&mut self, value: &DeValue<'_>) {
        let file = value.as_table().and_then(|table| table.get("file"));
        let path = file.and_then(|file| file.get_ref().as_str());
        self.files.extend(path.map(PathBuf::from));
    }

    /// The files that were noted.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    /// Adds a mistake of the file's syntax.
    pub(super) fn syntax(&mut self, span: Option<Range<usize>>, message: &str) {
        self.broken = true;
        let place = span.map_or(Place::File, |span| self.place(&span));
        // One slip often breaks several rules; the first says enough about its line.
        if !self.mistakes.iter().any(|(other, _)| *other == place) {
            self.mistakes
                .push((place, format!("this is not TOML: {message}")));
        }
    }

    /// Adds a mistake, unless its line does not even parse.
    pub(super) fn add(&mut self, place: &Place, sentence: impl Into<String>) {
        let unreadable = |(other, said): &(Place, String)| {
            other == place && said.starts_with("this is not TOML")
        };
        if !self.mistakes.iter().any(unreadable) {
            self.mistakes.push((place.clone(), sentence.into()));
        }
    }

    /// Adds that something is missing, unless it may stand in a part that does not parse.
    pub(super) fn missing(&mut self, place: &Place, sentence: impl Into<String>) {
        if !self.broken {
            self.add(place, sentence);
        }
    }

    /// How a sentence names a place: `FILE:LINE`, or the flag.
    pub(super) fn shown(&self, place: &Place) -> String {
        match place {
            Place::File => self.file.clone(),
            Place::Line(line) => format!("{}:{line}", self.file),
            Place::Flag(flag) => flag.clone(),
        }
    }

    /// All that was added, or `None` if nothing was.
    pub(super) fn finish(mut self) -> Option<Mistakes> {
        if self.mistakes.is_empty() {
            return None;
        }
        let mut mistakes = std::mem::take(&mut self.mistakes);
        mistakes.sort_by(|(one, _), (other, _)| one.cmp(other));
        let shown =
            |(place, sentence): &(Place, String)| format!("{}: {sentence}", self.shown(place));
        Some(Mistakes(mistakes.iter().map(shown).collect()))
    }
}
