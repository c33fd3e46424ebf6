//! How figures are summed up and written.

use std::fmt;

pub(super) const BYTES_PER_MIB: f64 = (1 << 20) as f64;

/// The median of some rounds, with the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
    rounds: usize,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Self { median, lowest, highest, rounds: values.len() })
    }

    pub(super) fn median(&self) -> f64 {
        self.median
    }

    /// How far the rounds are from their median, as a part of it; `unknown` where one round says
    /// nothing of that.
    pub(super) fn noise(&self, unknown: f64) -> f64 {
        if self.rounds < 2 || self.median <= 0.0 {
            return unknown;
        }
        (self.highest - self.median).max(self.median - self.lowest) / self.median
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&number(self.median))?;
        if self.rounds > 1 {
            write!(f, " ({}–{})", number(self.lowest), number(self.highest))?;
        }
        Ok(())
    }
}

/// Three digits that matter, and thousands separated.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 999.5 => thousands(value),
        large if large >= 99.95 => format!("{value:.0}"),
        medium if medium >= 9.995 => format!("{value:.1}"),
        small if small >= 0.0995 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut separated = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let written = [0.0, 0.0094, 0.0981, 0.2449, 9.994, 43.21, 99.96, 999.7, 28_997.4, 1e6];
        let expected =
            ["0", "0.009", "0.098", "0.24", "9.99", "43.2", "100", "1,000", "28,997", "1,000,000"];
        assert_eq!(written.map(number), expected);
    }

    #[test]
    fn a_spread_is_the_median_with_its_bounds() {
        let written = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.to_string());
        assert_eq!(written(&[3.0, 1.0, 2.0]).as_deref(), Some("2.00 (1.00–3.00)"));
        assert_eq!(written(&[4.0, 1.0]).as_deref(), Some("2.50 (1.00–4.00)"));
        assert_eq!(written(&[4.0]).as_deref(), Some("4.00"));
        assert_eq!(written(&[]), None);
    }
}
