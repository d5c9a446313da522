//! A picture of a sheet, as SVG: for each row a bar from the first reader to the last, with a tick at the median, and
//! a line at what the links allow.

use std::fmt::Write as _;

use super::sheet::{Row, Sheet};

const WIDTH: f64 = 900.0;
const LABELS: f64 = 230.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const STEP: f64 = 34.0;
const BAR: f64 = 16.0;

/// The sheet as an SVG document. Rows without readers are left out.
pub(super) fn svg(sheet: &Sheet) -> String {
    let rows: Vec<&Row> = sheet
        .rows
        .iter()
        .filter(|row| !row.times.is_empty())
        .collect();
    let most = rows
        .iter()
        .flat_map(|row| [row.last(), row.ideal.unwrap_or(0.0)])
        .fold(0.0, f64::max)
        .max(1e-3);
    let unit = step(most);
    let end = (most / unit).ceil() * unit;
    let x = |seconds: f64| LABELS + (WIDTH - LABELS - RIGHT) * seconds / end;
    let bottom = TOP + STEP * rows.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\">{} (seconds; bar: first to last reader, white: median, red: what the links allow)</text>\n",
        escaped(&sheet.scenario),
        height = bottom + 40.0,
    );
    let mut mark = 0.0;
    while mark <= end * 1.0001 {
        let at = x(mark);
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
            bottom + 20.0,
            number(mark),
        );
        mark += unit;
    }
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + STEP * index as f64 + (STEP - BAR) / 2.0;
        bar(&mut out, row, y, &x);
    }
    out + "</svg>\n"
}

fn bar(out: &mut String, row: &Row, y: f64, x: &impl Fn(f64) -> f64) {
    let (first, median, last) = (x(row.first()), x(row.median()), x(row.last()));
    let colour = if row.report.met() {
        "#2a6f97"
    } else {
        "#b5651d"
    };
    let _ = writeln!(
        out,
        "<text x=\"12\" y=\"{:.1}\">{}, {} gw</text>\
         <rect x=\"{first:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
         <line x1=\"{median:.1}\" y1=\"{y:.1}\" x2=\"{median:.1}\" y2=\"{:.1}\" stroke=\"white\" stroke-width=\"2\"/>",
        y + BAR - 3.0,
        escaped(&row.name),
        row.gateways,
        // A single reader is a point, and must be seen.
        (last - first).max(3.0),
        y + BAR,
    );
    if let Some(ideal) = row.ideal {
        let at = x(ideal);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#c1121f\" stroke-width=\"2\"/>",
            y - 4.0,
            y + BAR + 4.0,
        );
    }
}

/// The distance between two marks: 1, 2 or 5 times a power of ten, so that there are at most ten.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 10.0).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0].into_iter();
    factors
        .map(|factor| factor * power)
        .find(|step| most / step <= 10.0)
        .unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::sheet::tests::row;
    use super::*;

    #[test]
    fn every_row_with_readers_has_a_bar_and_its_ideal() {
        let rows = vec![
            row("mapped", 1, &[68.0, 70.0, 71.0], 70.2),
            row("a < b", 8, &[8.0, 8.8, 9.0], 8.8),
            Row::bare("empty", 8, 1.0),
        ];
        let text = svg(&Sheet::new("fleet-start", 1, rows));
        assert_eq!(text.matches("fill=\"#2a6f97\"").count(), 2);
        assert_eq!(text.matches("#c1121f").count(), 2);
        assert!(text.contains("a &lt; b") && text.ends_with("</svg>\n"));
    }

    #[test]
    fn marks_are_round_and_at_most_ten() {
        for (most, expected) in [
            (70.0, 10.0),
            (8.8, 1.0),
            (0.56, 0.1),
            (11.0, 2.0),
            (45.0, 5.0),
        ] {
            assert!((step(most) - expected).abs() < 1e-9, "{most}");
        }
    }
}
