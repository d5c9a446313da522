//! Drawings for reports: one list of shapes, written as SVG and as PNG.
//!
//! Ours, because a report needs bars, lines and words and nothing else: plotting libraries want a font of the system
//! to write with, or a file of one, and machines that run checks have neither. Here the PNG's letters come
//! rasterised in a crate (`noto-sans-mono-bitmap`, no dependencies), `png` packs the pixels, and the SVG leaves its
//! letters to whoever shows it.

mod bars;
mod raster;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

pub use self::bars::{Bar, Bars, Group};

/// A colour: red, green, blue.
pub type Colour = [u8; 3];

/// Colours that are told apart in print and by colour-blind eyes (Okabe and Ito, 2008), in the order of use.
pub const PALETTE: [Colour; 8] = [
    [0, 114, 178],
    [230, 159, 0],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [213, 94, 0],
    [240, 228, 66],
    [128, 128, 128],
];

/// What words are written in.
pub const INK: Colour = [32, 32, 32];

/// What guides are drawn in.
pub const FAINT: Colour = [221, 221, 221];

/// Which side of a word its place is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// The word begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// How large words are: the height of a line, in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 16 pixels.
    Small,
    /// 20 pixels.
    Medium,
    /// 24 pixels, bold.
    Large,
}

impl Size {
    /// The height of a line, in pixels.
    pub fn height(self) -> f64 {
        match self {
            Self::Small => 16.0,
            Self::Medium => 20.0,
            Self::Large => 24.0,
        }
    }
}

/// Something that is drawn; places are pixels from the upper left corner.
#[derive(Clone, Debug)]
enum Shape {
    Rect {
        at: (f64, f64),
        size: (f64, f64),
        colour: Colour,
    },
    Line {
        from: (f64, f64),
        to: (f64, f64),
        width: f64,
        colour: Colour,
    },
    Words {
        at: (f64, f64),
        text: String,
        size: Size,
        anchor: Anchor,
        colour: Colour,
    },
}

/// A white sheet with shapes on it; later ones cover earlier ones.
#[derive(Clone, Debug)]
pub struct Drawing {
    width: u32,
    height: u32,
    shapes: Vec<Shape>,
}

impl Drawing {
    /// An empty sheet of so many pixels.
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            shapes: Vec::new(),
        }
    }

    /// A filled rectangle from its upper left corner.
    pub fn rect(&mut self, at: (f64, f64), size: (f64, f64), colour: Colour) {
        self.shapes.push(Shape::Rect { at, size, colour });
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), width: f64, colour: Colour) {
        self.shapes.push(Shape::Line {
            from,
            to,
            width,
            colour,
        });
    }

    /// Words whose line is centred on `at` from top to bottom.
    pub fn words(
        &mut self,
        at: (f64, f64),
        text: impl Into<String>,
        size: Size,
        anchor: Anchor,
        colour: Colour,
    ) {
        self.shapes.push(Shape::Words {
            at,
            text: text.into(),
            size,
            anchor,
            colour,
        });
    }

    /// The drawing as an SVG document.
    pub fn svg(&self) -> String {
        let (width, height) = (self.width, self.height);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        for shape in &self.shapes {
            // Writing to a string cannot fail.
            let _ = match shape {
                Shape::Rect { at, size, colour } => writeln!(
                    out,
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                    at.0,
                    at.1,
                    size.0,
                    size.1,
                    hex(*colour)
                ),
                Shape::Line {
                    from,
                    to,
                    width,
                    colour,
                } => writeln!(
                    out,
                    "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{}\" stroke-width=\"{width}\"/>",
                    from.0,
                    from.1,
                    to.0,
                    to.1,
                    hex(*colour)
                ),
                Shape::Words {
                    at,
                    text,
                    size,
                    anchor,
                    colour,
                } => writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{:.0}\" text-anchor=\"{}\" fill=\"{}\"{}>{}</text>",
                    at.0,
                    // Letters stand on a line a third of their height below the middle.
                    at.1 + size.height() * 0.27,
                    size.height() * 0.8,
                    match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    },
                    hex(*colour),
                    if *size == Size::Large {
                        " font-weight=\"bold\""
                    } else {
                        ""
                    },
                    escaped(text)
                ),
            };
        }
        out.push_str("</svg>\n");
        out
    }

    /// The drawing as a PNG file.
    ///
    /// # Errors
    /// The sheet is empty or too large for the format.
    pub fn png(&self) -> anyhow::Result<Vec<u8>> {
        raster::png(self)
    }

    /// Writes the drawing to `file`, by its ending: `.svg` or `.png`; without one, both are added to the name.
    ///
    /// # Errors
    /// Another ending, or a file that can't be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let write = |file: &Path, bytes: &[u8]| {
            fs::write(file, bytes).with_context(|| format!("write {}", file.display()))
        };
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => write(file, self.svg().as_bytes()),
            Some("png") => write(file, &self.png()?),
            None => {
                write(&file.with_extension("svg"), self.svg().as_bytes())?;
                write(&file.with_extension("png"), &self.png()?)
            }
            Some(other) => bail!("give a plot file that ends in .svg or .png, not in .{other}"),
        }
    }
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing() -> Drawing {
        let mut drawing = Drawing::new(60, 40);
        drawing.rect((10.0, 10.0), (20.0, 10.0), [255, 0, 0]);
        drawing.line((0.0, 35.0), (60.0, 35.0), 2.0, [0, 0, 255]);
        drawing.words((40.0, 12.0), "a<b", Size::Small, Anchor::Start, INK);
        drawing
    }

    /// The colour of one pixel of the decoded file.
    fn pixel(file: &[u8], x: usize, y: usize) -> Colour {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file))
            .read_info()
            .expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a small sheet")];
        let info = reader.next_frame(&mut pixels).expect("one frame");
        let at = y * info.line_size + 3 * x;
        [pixels[at], pixels[at + 1], pixels[at + 2]]
    }

    #[test]
    fn shapes_are_where_they_were_put_in_the_png() {
        let file = drawing().png().expect("a PNG");
        assert_eq!(pixel(&file, 15, 15), [255, 0, 0]);
        assert_eq!(pixel(&file, 35, 15), [255, 255, 255]);
        assert_eq!(pixel(&file, 30, 35), [0, 0, 255]);
        let inked = (40..60).any(|x| (4..20).any(|y| pixel(&file, x, y) == INK));
        assert!(inked, "the words left no ink");
    }

    #[test]
    fn words_are_escaped_in_the_svg() {
        let svg = drawing().svg();
        assert!(svg.contains(">a&lt;b</text>"), "{svg}");
        assert!(svg.contains("fill=\"#ff0000\""), "{svg}");
    }

    #[test]
    fn another_ending_is_refused() {
        let error = drawing()
            .write(Path::new("plot.gif"))
            .expect_err("no such format");
        assert!(error.to_string().contains(".svg or .png"));
    }
}
