//! Values that are written with their unit, and addresses.
//!
//! Each reads and prints itself, so that the file and the flags share one spelling.

use crate::{admission, upstream::Endpoint};
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::Unexpected};
use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time,
};

/// `250ms`, `10s`, `2m`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Duration(pub(super) time::Duration);

/// `512B`, `64KiB`, `4MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Size(pub(super) u64);

/// `20%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Percent(pub(super) u32);

/// `10/s`, `600/m`, `5/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate(pub(super) admission::Rate);

/// Addresses with the same beginning, or a single one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network(pub(super) IpNet);

/// An IP address with a port, to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub(super) SocketAddr);

/// An address to listen on, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionalAddress(pub(super) Option<SocketAddr>);

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Url(pub(super) Endpoint);

/// What is expected instead of a text that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub(super) struct Expected(&'static str);

/// A value that is written as text.
trait Text: FromStr<Err = Expected> + fmt::Display {
    const NAME: &'static str;
    const EXPECTED: Expected;
    /// For editors; [`FromStr`] decides.
    const PATTERN: &'static str;
}

/// `250ms`, `10s`, `2m`, as everywhere.
///
/// # Errors
///
/// What was expected instead.
pub fn parse_duration(text: &str) -> Result<time::Duration, String> {
    text.parse::<Duration>().map(|parsed| parsed.0).map_err(|expected| expected.to_string())
}

impl Text for Duration {
    const NAME: &'static str = "Duration";
    const EXPECTED: Expected = Expected("a duration such as 250ms, 10s or 2m");
    const PATTERN: &'static str = "^([0-9]+(h|m|s|ms))+$";
}

impl FromStr for Duration {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let mut rest = text;
        let mut total = time::Duration::ZERO;
        loop {
            let (number, unit) = leading_number(rest).ok_or(Self::EXPECTED)?;
            // `ms` before `m`, which it begins with.
            let (millis, tail) = DURATION_UNITS
                .into_iter()
                .rev()
                .find_map(|(name, millis)| Some((millis, unit.strip_prefix(name)?)))
                .ok_or(Self::EXPECTED)?;
            let part = number.checked_mul(millis).map(time::Duration::from_millis);
            total = part.and_then(|part| total.checked_add(part)).ok_or(Self::EXPECTED)?;
            if tail.is_empty() {
                return Ok(Self(total));
            }
            rest = tail;
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0.as_millis(), DURATION_UNITS, "s")
    }
}

impl Text for Size {
    const NAME: &'static str = "Size";
    const EXPECTED: Expected = Expected("a size such as 64KiB, 4MiB or 1GiB");
    const PATTERN: &'static str = "^[0-9]+(B|KiB|MiB|GiB)$";
}

impl FromStr for Size {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let (number, unit) = leading_number(text).ok_or(Self::EXPECTED)?;
        let known = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit);
        let bytes = known.and_then(|(_, bytes)| number.checked_mul(bytes));
        bytes.map(Self).ok_or(Self::EXPECTED)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, u128::from(self.0), SIZE_UNITS, "B")
    }
}

impl Text for Percent {
    const NAME: &'static str = "Percent";
    const EXPECTED: Expected = Expected("a percentage such as 20%");
    const PATTERN: &'static str = "^[0-9]+%$";
}

impl FromStr for Percent {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match leading_number(text) {
            Some((number, "%")) => number.try_into().map(Self).map_err(|_| Self::EXPECTED),
            _ => Err(Self::EXPECTED),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Text for Rate {
    const NAME: &'static str = "Rate";
    const EXPECTED: Expected = Expected("a rate of at least 1 such as 10/s, 600/m or 5/h");
    const PATTERN: &'static str = "^[1-9][0-9]*/(s|m|h)$";
}

impl FromStr for Rate {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let (number, unit) = leading_number(text).ok_or(Self::EXPECTED)?;
        let known = RATE_UNITS.into_iter().find(|(name, _)| *name == unit);
        match (u32::try_from(number), known) {
            (Ok(count @ 1..), Some((_, seconds))) => {
                let period = time::Duration::from_secs(seconds);
                Ok(Self(admission::Rate { count, period }))
            }
            _ => Err(Self::EXPECTED),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let admission::Rate { count, period } = self.0;
        let known = RATE_UNITS.into_iter().find(|(_, seconds)| *seconds == period.as_secs());
        // No other is ever read.
        let (unit, _) = known.unwrap_or(RATE_UNITS[0]);
        write!(f, "{count}{unit}")
    }
}

impl Text for Network {
    const NAME: &'static str = "Network";
    const EXPECTED: Expected =
        Expected("an IP address or a range of them such as 10.0.0.1, 10.0.0.0/8 or fd00::/8");
    const PATTERN: &'static str = "^[0-9a-fA-F.:]+(/[0-9]+)?$";
}

impl FromStr for Network {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let single = || text.parse().map(|address: IpAddr| IpNet::from(address));
        let network = text.parse().or_else(|_| single()).map_err(|_| Self::EXPECTED)?;
        // What follows the length means nothing.
        Ok(Self(network.trunc()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(f),
            false => self.0.fmt(f),
        }
    }
}

impl Text for Address {
    const NAME: &'static str = "Address";
    const EXPECTED: Expected =
        Expected("an IP address with a port such as 127.0.0.1:2379, 0.0.0.0:2379 or [::1]:2379");
    const PATTERN: &'static str = "^.+:[0-9]+$";
}

impl FromStr for Address {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        text.parse().map(Self).map_err(|_| Self::EXPECTED)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Text for OptionalAddress {
    const NAME: &'static str = "OptionalAddress";
    const EXPECTED: Expected = Expected("an IP address with a port such as 127.0.0.1:2381, or off");
    const PATTERN: &'static str = "^(off|.+:[0-9]+)$";
}

impl FromStr for OptionalAddress {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|address| Self(Some(address))).map_err(|_| Self::EXPECTED),
        }
    }
}

impl fmt::Display for OptionalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl Text for Url {
    const NAME: &'static str = "Url";
    const EXPECTED: Expected =
        Expected("a URL of scheme, host and port such as https://10.0.0.1:2379");
    const PATTERN: &'static str = "^https?://[^/]+:[0-9]+/?$";
}

impl FromStr for Url {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let uri: http::Uri = text.parse().map_err(|_| Self::EXPECTED)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(Self::EXPECTED),
        };
        let authority = uri.authority().ok_or(Self::EXPECTED)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let bare = uri.path() == "/" && uri.query().is_none() && !text.contains(['@', '#', '?']);
        match authority.port_u16() {
            Some(port) if bare && port != 0 && !host.is_empty() => {
                Ok(Self(Endpoint { tls, host: host.into(), port }))
            }
            _ => Err(Self::EXPECTED),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const RATE_UNITS: [(&str, u64); 3] = [("/s", 1), ("/m", 60), ("/h", 3_600)];

/// In the largest unit that leaves a whole number.
fn print(
    f: &mut fmt::Formatter<'_>,
    value: u128,
    units: [(&str, u64); 4],
    zero: &str,
) -> fmt::Result {
    let units = units.map(|(name, size)| (name, u128::from(size)));
    match units.into_iter().find(|(_, size)| value != 0 && value.is_multiple_of(*size)) {
        Some((name, size)) => write!(f, "{}{name}", value / size),
        None => write!(f, "{value}{zero}"),
    }
}

/// Digits and what follows them.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

/// Serde and the schema, for each of the types alike.
macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(<$type>::EXPECTED.0)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
                    }
                }

                deserializer.deserialize_str(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                <$type>::NAME.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": <$type>::EXPECTED.0,
                    "pattern": <$type>::PATTERN,
                })
            }
        }
    )+};
}

as_text!(Duration, Size, Percent, Rate, Network, Address, OptionalAddress, Url);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn duration(text: &str) -> Option<u128> {
        text.parse::<Duration>().ok().map(|duration| duration.0.as_millis())
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Some(250));
        assert_eq!(duration("10s"), Some(10_000));
        assert_eq!(duration("2m"), Some(120_000));
        assert_eq!(duration("1h30m"), Some(5_400_000));
        assert_eq!(duration("0s"), Some(0));
        for wrong in ["", "10", "s", "-1s", "1.5s", "1 s", "1d", "1s ", "99999999999999999999s"] {
            assert_eq!(duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_binary_and_need_a_unit() {
        let size = |text: &str| text.parse::<Size>().ok().map(|size| size.0);
        assert_eq!(size("4MiB"), Some(4 << 20));
        assert_eq!(size("512B"), Some(512));
        for wrong in ["", "4", "4MB", "4M", "4 MiB", "MiB", "99999999999GiB"] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn rates_have_a_count_and_a_time() {
        for text in ["1/s", "600/m", "4294967295/h"] {
            assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()), Ok(text.into()));
        }
        for wrong in ["", "10", "0/s", "10/", "10/d", "10/ms", "1.5/s", "10 /s", "4294967296/s"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn networks_may_be_single_addresses() {
        let network = |text: &str| text.parse::<Network>().ok().map(|network| network.to_string());
        assert_eq!(network("10.0.0.0/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(network("fd00::1/128").as_deref(), Some("fd00::1"));
        for wrong in ["", "10.0.0", "10.0.0.0/33", "host", "10.0.0.1:80"] {
            assert_eq!(network(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn urls_have_scheme_host_and_port() {
        let url = |text: &str| text.parse::<Url>().ok().map(|url| url.to_string());
        assert_eq!(url("http://127.0.0.1:2379").as_deref(), Some("http://127.0.0.1:2379"));
        assert_eq!(url("https://etcd-0.local:2379/").as_deref(), Some("https://etcd-0.local:2379"));
        assert_eq!(url("https://[::1]:2379").as_deref(), Some("https://[::1]:2379"));
        for wrong in [
            "",
            "127.0.0.1:2379",
            "http://a",
            "unix:///a",
            "http://a:1/b",
            "http://u@a:1",
            "http://:1",
            "http://a:0",
            "http://a:1?b",
            "ftp://a:1",
            "http://a:1 http://b:1",
            "http://a:1#b",
        ] {
            assert_eq!(url(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_address_is_no_name() {
        assert!("127.0.0.1:0".parse::<Address>().is_ok());
        assert!("localhost:2379".parse::<Address>().is_err());
        assert!(":2379".parse::<Address>().is_err());
        assert_eq!("off".parse(), Ok(OptionalAddress(None)));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(millis in 0u64..1 << 40, bytes in 0u64..1 << 50) {
            let duration = Duration(time::Duration::from_millis(millis));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            let size = Size(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
