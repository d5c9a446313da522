//! Writing XML as S3 does: a declaration, elements without attributes but the namespace, escaped text.

use std::fmt::Write;

/// The namespace of S3's documents.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A document being written. Elements stand without white space between them.
#[derive(Debug)]
pub struct Document {
    text: String,
}

impl Document {
    /// Begins a document: the declaration only.
    pub fn new() -> Self {
        Self {
            text: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(),
        }
    }

    /// Writes the element `name` with S3's namespace; `children` writes what is in it.
    pub fn root(&mut self, name: &str, children: impl FnOnce(&mut Self)) {
        self.push(&["<", name, " xmlns=\"", NAMESPACE, "\">"]);
        children(self);
        self.push(&["</", name, ">"]);
    }

    /// Writes the element `name`; `children` writes what is in it.
    pub fn element(&mut self, name: &str, children: impl FnOnce(&mut Self)) {
        self.push(&["<", name, ">"]);
        children(self);
        self.push(&["</", name, ">"]);
    }

    /// Writes an element that holds only text.
    pub fn leaf(&mut self, name: &str, text: &str) {
        self.element(name, |document| document.text(text));
    }

    /// Writes escaped text. Characters that XML 1.0 cannot hold (§2.2) become U+FFFD.
    pub fn text(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' => self.text.push_str("&quot;"),
                '\'' => self.text.push_str("&apos;"),
                // Unescaped, a reader would take it for a line feed (§2.11).
                '\r' => self.text.push_str("&#13;"),
                '\t' | '\n' => self.text.push(character),
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => self.text.push('\u{fffd}'),
                _ => self.text.push(character),
            }
        }
    }

    /// Writes an element that holds a number.
    pub fn number(&mut self, name: &str, number: u64) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "<{name}>{number}</{name}>");
    }

    /// The document's text.
    pub fn finish(self) -> String {
        self.text
    }

    fn push(&mut self, texts: &[&str]) {
        self.text.extend(texts.iter().copied());
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut document = Document {
            text: String::new(),
        };
        document.text(text);
        document.finish()
    }

    #[test]
    fn text_is_escaped() {
        for (text, expected) in [
            ("a<b>&\"'c", "a&lt;b&gt;&amp;&quot;&apos;c"),
            ("&amp;", "&amp;amp;"),
            ("]]>", "]]&gt;"),
            ("\t\n", "\t\n"),
            ("\r", "&#13;"),
            ("\0\u{1}\u{1f}", "\u{fffd}\u{fffd}\u{fffd}"),
            ("\u{fffe}\u{ffff}", "\u{fffd}\u{fffd}"),
            ("模型 \u{1F600}", "模型 \u{1F600}"),
            ("\u{7f}\u{85}", "\u{7f}\u{85}"),
        ] {
            assert_eq!(escaped(text), expected, "{text:?}");
        }
    }

    #[test]
    fn elements_nest() {
        let mut document = Document::new();
        document.root("R", |root| {
            root.leaf("A", "x&y");
            root.element("B", |inner| inner.number("C", u64::MAX));
            root.leaf("D", "");
        });
        assert_eq!(
            document.finish(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <R xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><A>x&amp;y</A>\
             <B><C>18446744073709551615</C></B><D></D></R>"
        );
    }
}
