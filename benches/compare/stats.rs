//! Figures and what repeated runs say of them.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Better {
    More,
    Less,
}

/// One measured number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) better: Better,
}

impl Figure {
    pub(crate) fn more(name: impl Into<String>, value: f64) -> Self {
        let better = Better::More;
        Self {
            name: name.into(),
            value,
            better,
        }
    }

    pub(crate) fn less(name: impl Into<String>, value: f64) -> Self {
        let better = Better::Less;
        Self {
            name: name.into(),
            value,
            better,
        }
    }
}

/// The quantiles of a latency in nanoseconds, as figures in milliseconds whose names begin with
/// `what`.
pub(crate) fn latency(what: &str, histogram: &Histogram<u64>) -> Vec<Figure> {
    let ms = |ns: u64| ns as f64 / 1e6;
    let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
    let figures = quantiles.map(|(name, quantile)| {
        let value = ms(histogram.value_at_quantile(quantile));
        Figure::less(format!("{what}{name} ms"), value)
    });
    figures.to_vec()
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The least and the greatest.
pub(crate) fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let greatest = values.iter().copied().max_by(f64::total_cmp)?;
    Some((least, greatest))
}

/// What Headwater must reach in a figure.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) figure: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Times the figure of the server it is compared with.
    AtLeast(f64),
    AtMost(f64),
    /// Whatever the other has.
    Below(f64),
}

impl Target {
    pub(crate) fn at_least(figure: &'static str, ratio: f64) -> Self {
        let bound = Bound::AtLeast(ratio);
        Self { figure, bound }
    }

    pub(crate) fn at_most(figure: &'static str, ratio: f64) -> Self {
        let bound = Bound::AtMost(ratio);
        Self { figure, bound }
    }

    pub(crate) fn below(figure: &'static str, value: f64) -> Self {
        let bound = Bound::Below(value);
        Self { figure, bound }
    }

    /// Whether it is met, if that can be told.
    pub(crate) fn is_met(&self, value: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        match self.bound {
            Bound::AtLeast(bound) => ratio.map(|ratio| ratio >= bound),
            Bound::AtMost(bound) => ratio.map(|ratio| ratio <= bound),
            Bound::Below(bound) => value.map(|value| value < bound),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bound {
            Bound::AtLeast(ratio) => write!(f, "at least {ratio:.1} times"),
            Bound::AtMost(ratio) => write!(f, "at most {ratio:.1} times"),
            Bound::Below(value) => write!(f, "below {value}"),
        }
    }
}
