//! Numbers, short enough for a column.

/// 999, 12.3k, 4.56M.
pub(super) fn count(number: f64) -> String {
    scaled(number, 1_000.0, ["", "k", "M", "G", "T"])
}

/// 512 B, 1.50 MiB.
pub(in crate::cli) fn bytes(number: u64) -> String {
    scaled(number as f64, 1_024.0, [" B", " KiB", " MiB", " GiB", " TiB"])
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

pub(super) fn milliseconds(number: f64) -> String {
    if number < 100.0 { format!("{number:.2} ms") } else { format!("{number:.0} ms") }
}

/// 59s, 3m07s, 2h05m, 4d03h.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m{:02}s", seconds % 60),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Three digits and the unit, the first of which is the whole number's.
fn scaled(mut number: f64, step: f64, units: [&str; 5]) -> String {
    let mut unit = 0;
    // What would be rounded up to the next unit is written in it.
    while number >= step - 0.5 && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let digits = match number {
        _ if unit == 0 => 0,
        0.0..9.995 => 2,
        9.995..99.95 => 1,
        _ => 0,
    };
    format!("{number:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (999_999.0, "1.00M"),
            (4_560_000.0, "4.56M"),
        ] {
            assert_eq!(count(number), expected);
        }
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536 * 1_024), "1.50 MiB");
        assert_eq!(percent(0.1234), "12.3 %");
        assert_eq!(
            (span(59), span(187), span(7_500)),
            ("59s".into(), "3m07s".into(), "2h05m".into())
        );
    }
}
