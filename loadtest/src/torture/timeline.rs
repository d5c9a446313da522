//! A picture of a run over its time: a row of marks for each kind of fault, and below them what the readers got each second, with
//! their stalls.

use super::kind::{Kind, Takes};
use super::sheet::Sheet;
use crate::plot::{Anchor, Colour, Drawing, FAINT, INK, PALETTE, Size};

const WIDTH: f64 = 1600.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 1560.0;
const TOP: f64 = 70.0;
const ROW: f64 = 16.0;
const RATE: f64 = 240.0;
const GAP: f64 = 30.0;

/// What is shaded behind all: the origin is away.
const AWAY: Colour = [250, 232, 220];

const RED: Colour = [193, 18, 31];

/// Draws it.
pub(super) fn draw(sheet: &Sheet) -> Drawing {
    let end = sheet.took.max(1.0);
    let x = |seconds: f64| LEFT + (RIGHT - LEFT) * (seconds / end).clamp(0.0, 1.0);
    let middle = TOP + ROW * Kind::ALL.len() as f64 + GAP;
    let bottom = middle + RATE;
    let mut drawing = Drawing::new(WIDTH as u32, (bottom + 60.0) as u32);
    let title = format!(
        "Torture, seed {}: {} faults of {} kinds; shaded: the origin was away",
        sheet.seed,
        sheet.faults.len(),
        sheet.kinds.len()
    );
    drawing.words((24.0, 34.0), title, Size::Large, Anchor::Start, INK);
    for fault in sheet.faults.iter().filter(|fault| is_away(fault.kind)) {
        let (from, to) = (x(fault.from), x(fault.to));
        drawing.rect((from, TOP), ((to - from).max(1.0), bottom - TOP), AWAY);
    }
    marks(&mut drawing, end, &x, (TOP, bottom));
    faults(&mut drawing, sheet, &x);
    rate(&mut drawing, sheet, &x, (middle, bottom));
    for stall in &sheet.stalls {
        let at = x(stall.at + stall.lasted);
        let colour = if stall.excused { PALETTE[7] } else { RED };
        let width = (at - x(stall.at)).max(2.0);
        drawing.rect((x(stall.at), bottom + 4.0), (width, 8.0), colour);
    }
    let note = "s; below the line: stalls over 2 s, grey while the origin was away";
    let place = (LEFT, bottom + 46.0);
    drawing.words(place, note, Size::Small, Anchor::Start, INK);
    drawing
}

fn is_away(name: &str) -> bool {
    let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
    kind.is_some_and(|kind| kind.takes() == Takes::OnlyPath)
}

fn marks(drawing: &mut Drawing, end: f64, x: &impl Fn(f64) -> f64, (top, bottom): (f64, f64)) {
    let step = [5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    let step = step.into_iter().find(|step| end / step <= 16.0);
    let step = step.unwrap_or(3600.0);
    let mut at = 0.0;
    while at <= end {
        drawing.line((x(at), top), (x(at), bottom), 1.0, FAINT);
        let place = (x(at), bottom + 26.0);
        drawing.words(place, format!("{at:.0}"), Size::Small, Anchor::Middle, INK);
        at += step;
    }
}

fn faults(drawing: &mut Drawing, sheet: &Sheet, x: &impl Fn(f64) -> f64) {
    for (row, kind) in Kind::ALL.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let place = (LEFT - 8.0, y + ROW / 2.0);
        drawing.words(place, kind.name(), Size::Small, Anchor::End, INK);
        let colour = match kind.takes() {
            Takes::Member => PALETTE[5],
            Takes::Silently => PALETTE[3],
            Takes::Disk => PALETTE[2],
            Takes::Answers => PALETTE[1],
            Takes::OnlyPath => RED,
            Takes::Nothing => PALETTE[0],
        };
        let of_kind = sheet.faults.iter().filter(|one| one.kind == kind.name());
        for fault in of_kind {
            let width = (x(fault.to) - x(fault.from)).max(3.0);
            drawing.rect((x(fault.from), y + 3.0), (width, ROW - 6.0), colour);
        }
    }
}

fn rate(drawing: &mut Drawing, sheet: &Sheet, x: &impl Fn(f64) -> f64, (top, bottom): (f64, f64)) {
    let pairs = sheet.seconds.windows(2);
    let rates: Vec<f64> = pairs.map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
    let most = rates.iter().copied().fold(1.0, f64::max);
    let y = |rate: f64| bottom - (bottom - top) * rate / most;
    let label = |drawing: &mut Drawing, rate: f64| {
        let place = (LEFT - 8.0, y(rate));
        let text = format!("{rate:.0} MB/s");
        drawing.words(place, text, Size::Small, Anchor::End, INK);
    };
    label(drawing, 0.0);
    label(drawing, most);
    drawing.line((LEFT, bottom), (RIGHT, bottom), 1.0, INK);
    for (second, pair) in rates.windows(2).enumerate() {
        let at = second as f64 + 0.5;
        let (from, to) = ((x(at), y(pair[0])), (x(at + 1.0), y(pair[1])));
        drawing.line(from, to, 2.0, PALETTE[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Fault, Sums};
    use super::*;

    #[test]
    fn every_fault_is_a_mark_and_what_the_origin_lacks_is_shaded() {
        let fault = |kind: Kind| Fault {
            kind: kind.name(),
            host: None,
            key: None,
            from: 5.0,
            to: 7.0,
        };
        let sums = Sums {
            faults: vec![fault(Kind::Silent), fault(Kind::Kill)],
            seconds: vec![0, 5_000_000, 9_000_000],
            ..Sums::default()
        };
        let sheet = Sheet::new(3, 20.0, sums, &Ok(()));
        let svg = draw(&sheet).svg();
        assert_eq!(svg.matches("fill=\"#fae8dc\"").count(), 1, "{svg}");
        assert_eq!(svg.matches("fill=\"#c1121f\"").count(), 1);
        assert_eq!(svg.matches("fill=\"#d55e00\"").count(), 1);
        draw(&sheet).png().expect("a PNG");
    }
}
