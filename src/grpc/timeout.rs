//! `grpc-timeout`, the time a client gives a call.

use http::HeaderMap;
use std::time::Duration;
use tokio::time::Instant;

/// When the call with these headers ends; `None` for a call without an end, and for a header that
/// makes no sense, which etcd is left to complain about.
pub fn deadline(headers: &HeaderMap, now: Instant) -> Option<Instant> {
    let timeout = parse(headers.get("grpc-timeout")?.as_bytes())?;
    now.checked_add(timeout)
}

/// At most eight digits and a unit.
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_nothing_else() {
        assert_eq!(parse(b"2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse(b"3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse(b"99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse(b"1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(parse(b"7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse(b"7n"), Some(Duration::from_nanos(7)));
        for nonsense in [&b""[..], b"S", b"5", b"-1S", b"123456789S", b"1 S", b"1x"] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }
}
