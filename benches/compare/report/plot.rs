//! Plots: the ratios of all cases at a glance.

use super::{Measured, Ratio};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fs;
use std::io;
use std::path::Path;

/// The files, and what they show.
pub(super) const FILES: [(&str, &str); 3] = [
    (
        "rates.svg",
        "Rates of Headwater, as multiples of the other's: more is better",
    ),
    (
        "p99.svg",
        "Slowest hundredth of Headwater, as a multiple of the other's: less is better",
    ),
    (
        "cpu.svg",
        "Processor time of Headwater, as a multiple of the other's: less is better",
    ),
];

/// The figures of each file; of a case, the first that it has.
const FIGURES: [&[&str]; 3] = [
    &["per second", "sessions per second", "MiB per second"],
    &[
        "p99 ms",
        "delivery p99 ms",
        "request p99 ms",
        "whole read p99 ms",
    ],
    &[
        "server CPU µs each",
        "server CPU µs per delivery",
        "server CPU µs per MiB",
    ],
];

const WIDTH: u32 = 900;
const TITLE_HEIGHT: i32 = 40;
const BAR_HEIGHT: i32 = 24;
const LABELS_WIDTH: i32 = 430;
const VALUES_WIDTH: i32 = 60;
const VALUE_WIDTH: i32 = 36;
const FASTER: RGBColor = RGBColor(38, 120, 178);
const SLOWER: RGBColor = RGBColor(214, 110, 52);
const FONT: &str = "sans-serif";

/// Writes all plots.
pub(super) fn write(cases: &[Measured], dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for ((file, title), figures) in FILES.iter().zip(FIGURES) {
        let bars: Vec<(&str, Ratio)> = cases
            .iter()
            .filter_map(|case| {
                let ratio = figures.iter().find_map(|name| case.ratio(name))?;
                Some((case.title.as_str(), ratio))
            })
            .collect();
        draw(&dir.join(file), title, &bars).map_err(|error| io::Error::other(error.to_string()))?;
    }
    Ok(())
}

/// A bar for each case, with the spread of its pairs, and a line where both are equal.
fn draw(
    path: &Path,
    title: &str,
    bars: &[(&str, Ratio)],
) -> Result<(), Box<dyn std::error::Error>> {
    let height = TITLE_HEIGHT + BAR_HEIGHT * (bars.len() as i32 + 1);
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(title, (10, 10), (FONT, 16)))?;
    let greatest = bars
        .iter()
        .map(|(_, ratio)| ratio.greatest)
        .fold(1.0, f64::max);
    // What is far ahead would make all else too small to see.
    let end = greatest.min(END_MAX);
    let width = WIDTH as i32 - LABELS_WIDTH - VALUES_WIDTH;
    let at = |ratio: f64| LABELS_WIDTH + (ratio.min(end) / end * f64::from(width)) as i32;
    let right = TextStyle::from((FONT, 12)).pos(Pos::new(HPos::Right, VPos::Center));
    let left = TextStyle::from((FONT, 12)).pos(Pos::new(HPos::Left, VPos::Center));
    let more_is_better = title.ends_with("more is better");
    for (index, (name, ratio)) in bars.iter().enumerate() {
        let top = TITLE_HEIGHT + BAR_HEIGHT * index as i32;
        let middle = top + BAR_HEIGHT / 2;
        let ahead = (ratio.median >= 1.0) == more_is_better;
        let color = if ahead { FASTER } else { SLOWER };
        let corners = [
            (LABELS_WIDTH, top + 4),
            (at(ratio.median), top + BAR_HEIGHT - 4),
        ];
        root.draw(&Rectangle::new(corners, color.filled()))?;
        let whisker = vec![(at(ratio.least), middle), (at(ratio.greatest), middle)];
        root.draw(&PathElement::new(whisker, BLACK.stroke_width(1)))?;
        root.draw(&Text::new(*name, (LABELS_WIDTH - 8, middle), right.clone()))?;
        let value = format!("{:.2}", ratio.median);
        let end = at(ratio.greatest.max(ratio.median));
        // Not across the line where both are equal.
        let crosses = end <= at(1.0) && end + VALUE_WIDTH > at(1.0);
        let beside = if crosses { at(1.0) } else { end } + 6;
        root.draw(&Text::new(value, (beside, middle), left.clone()))?;
    }
    let bottom = height - BAR_HEIGHT / 2;
    let equal = vec![(at(1.0), TITLE_HEIGHT - 4), (at(1.0), bottom)];
    root.draw(&PathElement::new(equal, BLACK.stroke_width(1)))?;
    root.present()?;
    Ok(())
}

const END_MAX: f64 = 4.0;
