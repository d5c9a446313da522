//! Grouped bars, lying: a group for each thing that is compared, a bar for each who took part, a dot for each run.

use super::{Anchor, Colour, Drawing, FAINT, INK, Size};

/// A bar: its value, and the runs that it is the median of.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Who; its place in the legend and its colour.
    pub who: usize,
    /// How long it is.
    pub value: f64,
    /// Each run, drawn as a dot.
    pub runs: Vec<f64>,
}

/// What is compared in one place.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it is.
    pub name: String,
    /// The unit of its values.
    pub unit: String,
    /// Who took part.
    pub bars: Vec<Bar>,
}

/// A chart of groups under each other, each with a scale of its own from 0, since their units differ.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Written on top.
    pub title: String,
    /// Written below it, a line each.
    pub notes: Vec<String>,
    /// The names and colours that [`Bar::who`] counts in.
    pub legend: Vec<(String, Colour)>,
    /// The groups.
    pub groups: Vec<Group>,
}

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 260.0;
const RIGHT: f64 = 1060.0;
const BAR: f64 = 18.0;
const GAP: f64 = 22.0;
const LINE: f64 = 22.0;

impl Bars {
    /// Draws it.
    pub fn draw(&self) -> Drawing {
        let head = 60.0 + LINE * self.notes.len() as f64 + 2.0 * LINE;
        let bars: usize = self.groups.iter().map(|group| group.bars.len()).sum();
        let height = head + bars as f64 * BAR + (self.groups.len() + 1) as f64 * GAP;
        let mut drawing = Drawing::new(WIDTH as u32, height.ceil() as u32);
        drawing.words((24.0, 30.0), &self.title, Size::Large, Anchor::Start, INK);
        let mut y = 60.0;
        for note in &self.notes {
            drawing.words((24.0, y), note, Size::Small, Anchor::Start, INK);
            y += LINE;
        }
        self.draw_legend(&mut drawing, y + 6.0);
        y = head;
        for group in &self.groups {
            self.draw_group(&mut drawing, group, y);
            y += group.bars.len() as f64 * BAR + GAP;
        }
        drawing
    }

    fn draw_legend(&self, drawing: &mut Drawing, y: f64) {
        let step = (WIDTH - 48.0) / self.legend.len().max(1) as f64;
        for (place, (name, colour)) in self.legend.iter().enumerate() {
            let x = 24.0 + step * place as f64;
            drawing.rect((x, y - 6.0), (12.0, 12.0), *colour);
            drawing.words((x + 18.0, y), name, Size::Small, Anchor::Start, INK);
        }
    }

    fn draw_group(&self, drawing: &mut Drawing, group: &Group, top: f64) {
        let bottom = top + group.bars.len() as f64 * BAR;
        let most = group
            .bars
            .iter()
            .flat_map(|bar| bar.runs.iter().copied().chain([bar.value]))
            .fold(f64::MIN_POSITIVE, f64::max);
        let place = |value: f64| LEFT + (RIGHT - LEFT) * value / most;
        for quarter in 0..=4 {
            let x = LEFT + (RIGHT - LEFT) * f64::from(quarter) / 4.0;
            drawing.line((x, top - 4.0), (x, bottom + 4.0), 1.0, FAINT);
        }
        let middle = f64::midpoint(top, bottom);
        let name = (LEFT - 14.0, middle - 9.0);
        drawing.words(name, &group.name, Size::Small, Anchor::End, INK);
        let unit = (LEFT - 14.0, middle + 9.0);
        drawing.words(unit, &group.unit, Size::Small, Anchor::End, [110, 110, 110]);
        for (index, bar) in group.bars.iter().enumerate() {
            let y = top + index as f64 * BAR;
            let colour = self.legend.get(bar.who).map_or(INK, |(_, colour)| *colour);
            let size = (place(bar.value) - LEFT, BAR - 4.0);
            drawing.rect((LEFT, y + 2.0), size, colour);
            for run in &bar.runs {
                let at = (place(*run) - 2.0, y + BAR / 2.0 - 2.0);
                drawing.rect(at, (4.0, 4.0), INK);
            }
            let end = bar.runs.iter().copied().fold(bar.value, f64::max);
            let at = (place(end) + 8.0, y + BAR / 2.0);
            drawing.words(at, shown(bar.value), Size::Small, Anchor::Start, INK);
        }
        drawing.line((LEFT, top - 4.0), (LEFT, bottom + 4.0), 1.5, INK);
    }
}

/// Three digits that count.
fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_and_every_run_is_drawn() {
        let bar = |who, value, runs: &[f64]| Bar {
            who,
            value,
            runs: runs.to_vec(),
        };
        let chart = Bars {
            title: "rates".to_owned(),
            notes: vec!["one machine".to_owned()],
            legend: vec![("a".to_owned(), [1, 2, 3]), ("b".to_owned(), [4, 5, 6])],
            groups: vec![Group {
                name: "1 MiB".to_owned(),
                unit: "GB/s".to_owned(),
                bars: vec![bar(0, 2.0, &[1.0, 2.0, 3.0]), bar(1, 1.0, &[1.0])],
            }],
        };
        let svg = chart.draw().svg();
        // The legend's square and the bar, of each colour; a dot a run.
        assert_eq!(svg.matches("fill=\"#010203\"").count(), 2);
        assert_eq!(svg.matches("fill=\"#040506\"").count(), 2);
        let dots = svg.matches("width=\"4.0\" height=\"4.0\"").count();
        assert_eq!(dots, 4);
        assert!(svg.contains(">2.00</text>"), "{svg}");
    }
}
