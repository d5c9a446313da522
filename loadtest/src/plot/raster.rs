//! A drawing as pixels.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster};

use super::{Anchor, Colour, Drawing, Shape, Size};

/// Three bytes a pixel, rows from the top.
struct Pixels {
    width: u32,
    height: u32,
    bytes: Vec<u8>,
}

pub(super) fn png(drawing: &Drawing) -> anyhow::Result<Vec<u8>> {
    let (width, height) = (drawing.width, drawing.height);
    let mut pixels = Pixels {
        width,
        height,
        bytes: vec![255; width as usize * height as usize * 3],
    };
    for shape in &drawing.shapes {
        match shape {
            Shape::Rect { at, size, colour } => pixels.rect(*at, *size, *colour),
            Shape::Line {
                from,
                to,
                width,
                colour,
            } => pixels.line(*from, *to, *width, *colour),
            Shape::Words {
                at,
                text,
                size,
                anchor,
                colour,
            } => pixels.words(*at, text, *size, *anchor, *colour),
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels.bytes)?;
    writer.finish()?;
    Ok(file)
}

impl Pixels {
    /// Lays `colour` over a pixel, so much of it: from 0 to 1. Off the sheet nothing happens.
    fn blend(&mut self, x: i64, y: i64, colour: Colour, part: f64) {
        let inside =
            (0..i64::from(self.width)).contains(&x) && (0..i64::from(self.height)).contains(&y);
        if !inside || part <= 0.0 {
            return;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        for (byte, new) in self.bytes[at..at + 3].iter_mut().zip(colour) {
            let old = f64::from(*byte);
            *byte = (old + (f64::from(new) - old) * part.min(1.0)).round() as u8;
        }
    }

    /// The pixels that a rectangle covers, each by how much of it is covered.
    fn rect(&mut self, at: (f64, f64), size: (f64, f64), colour: Colour) {
        let (left, top, right, bottom) = (at.0, at.1, at.0 + size.0, at.1 + size.1);
        for y in top.floor() as i64..bottom.ceil() as i64 {
            let down = (bottom.min(y as f64 + 1.0) - top.max(y as f64)).max(0.0);
            for x in left.floor() as i64..right.ceil() as i64 {
                let across = (right.min(x as f64 + 1.0) - left.max(x as f64)).max(0.0);
                self.blend(x, y, colour, down * across);
            }
        }
    }

    /// The pixels near a line, the fainter the farther their middle is past its edge.
    fn line(&mut self, from: (f64, f64), to: (f64, f64), width: f64, colour: Colour) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy).max(f64::MIN_POSITIVE);
        let reach = width / 2.0 + 1.0;
        let span = |a: f64, b: f64| (a.min(b) - reach).floor() as i64..=(a.max(b) + reach) as i64;
        for y in span(from.1, to.1) {
            for x in span(from.0, to.0) {
                let (px, py) = (x as f64 + 0.5 - from.0, y as f64 + 0.5 - from.1);
                let along = ((px * dx + py * dy) / (length * length)).clamp(0.0, 1.0);
                let away = (px - along * dx).hypot(py - along * dy);
                self.blend(x, y, colour, width / 2.0 + 0.5 - away);
            }
        }
    }

    fn words(&mut self, at: (f64, f64), text: &str, size: Size, anchor: Anchor, colour: Colour) {
        let glyphs: Vec<RasterizedChar> = text.chars().filter_map(|c| glyph(c, size)).collect();
        let width: usize = glyphs.iter().map(RasterizedChar::width).sum();
        let back = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width as f64 / 2.0,
            Anchor::End => width as f64,
        };
        let mut left = (at.0 - back).round() as i64;
        let top = (at.1 - size.height() / 2.0).round() as i64;
        for glyph in glyphs {
            for (y, row) in (top..).zip(glyph.rows()) {
                for (x, ink) in (left..).zip(row) {
                    self.blend(x, y, colour, f64::from(*ink) / 255.0);
                }
            }
            left += glyph.width() as i64;
        }
    }
}

/// The letter, or what stands for it where the font has none.
fn glyph(letter: char, size: Size) -> Option<RasterizedChar> {
    let (weight, height) = match size {
        Size::Small => (FontWeight::Regular, RasterHeight::Size16),
        Size::Medium => (FontWeight::Regular, RasterHeight::Size20),
        Size::Large => (FontWeight::Bold, RasterHeight::Size24),
    };
    let plain = match letter {
        '≥' => '>',
        '≤' => '<',
        '–' | '−' => '-',
        letter => letter,
    };
    get_raster(plain, weight, height).or_else(|| get_raster('?', weight, height))
}
