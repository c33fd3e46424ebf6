//! From values to places on a chart.

use super::figures::number;

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    /// Values with what is written at them.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Scale {
    /// From 0 to a round number above all values.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let highest = values.fold(0.0, f64::max);
        let step = round_step(highest / 4.0);
        let steps = (highest / step).ceil().max(1.0);
        let ticks = (0..=steps as u32).map(|n| f64::from(n) * step);
        Self {
            low: 0.0,
            high: steps * step,
            is_logarithmic: false,
            ticks: ticks.map(|value| (value, number(value))).collect(),
        }
    }

    /// From a power of ten below all values to one above.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            (lowest, highest) = (lowest.min(value), highest.max(value));
        }
        if !lowest.is_finite() {
            (lowest, highest) = (1.0, 10.0);
        }
        let low = lowest.log10().floor() as i32;
        let high = (highest.log10().ceil() as i32).max(low + 1);
        let ticks = (low..=high).map(|power| 10_f64.powi(power));
        Self {
            low: 10_f64.powi(low),
            high: 10_f64.powi(high),
            is_logarithmic: true,
            ticks: ticks.map(|value| (value, number(value))).collect(),
        }
    }

    /// Of quantiles: each nine has the same room.
    pub(super) fn quantiles() -> Self {
        let ticks = [(0.0, "min"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];
        let mut ticks = ticks.map(|(q, name)| (nines(q), name.to_owned())).to_vec();
        ticks.push((NINES_MAX, "max".to_owned()));
        Self { low: 0.0, high: NINES_MAX, is_logarithmic: false, ticks }
    }

    /// From 0 at the beginning to 1 at the end of the axis.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = if self.is_logarithmic {
            let value = value.max(self.low);
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }
}

/// Where the largest value stands: beyond four nines.
const NINES_MAX: f64 = 4.5;

/// How many nines a quantile has.
pub(super) fn nines(quantile: f64) -> f64 {
    if quantile >= 1.0 { NINES_MAX } else { -(1.0 - quantile).log10() }
}

/// 1, 2 or 5 times a power of ten, at least this.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= least * 0.999);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let names = |scale: &Scale| -> Vec<String> {
            scale.ticks.iter().map(|(_, name)| name.clone()).collect()
        };
        assert_eq!(names(&Scale::linear([3.7].into_iter())), ["0", "1.00", "2.00", "3.00", "4.00"]);
        assert_eq!(names(&Scale::linear([0.0].into_iter())), ["0", "1.00"]);
        let logarithmic = Scale::logarithmic([0.3, 42.0, 0.0].into_iter());
        assert_eq!(names(&logarithmic), ["0.10", "1.00", "10.0", "100"]);
        assert!((logarithmic.place(1.0) - 1.0 / 3.0).abs() < 1e-9);
        assert!((logarithmic.place(0.0)).abs() < 1e-9);
    }

    #[test]
    fn each_nine_has_the_same_room() {
        assert!((nines(0.99) - 2.0).abs() < 1e-9);
        let scale = Scale::quantiles();
        let room = |low, high| scale.place(nines(high)) - scale.place(nines(low));
        assert!((room(0.9, 0.99) - room(0.99, 0.999)).abs() < 1e-9);
    }
}
