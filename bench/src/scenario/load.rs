use super::Span;
use serde::{Deserialize, Serialize};

/// How operations come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub(crate) enum Load {
    /// So many loops, each of which waits for its answer and asks again: as often as it can, or this
    /// often.
    Closed { in_flight: usize, operations: Option<u64> },
    /// So many a second, however long they take, and at most so many out at once.
    Open { per_second: f64, in_flight: usize },
    /// So many within a time, as soon as the phase begins.
    Burst { requests: u64, within: Span, in_flight: usize },
}

/// As it stands in a scenario: one of `in_flight`, `per_second` and `burst` says which it is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<Span>,
}

/// Three seconds' worth of what a scenario writes at most, before the client itself must wait.
const OPEN_IN_FLIGHT: usize = 512;
const IN_FLIGHT_MAX: usize = 20_000;

impl TryFrom<Fields> for Load {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let Fields { in_flight, operations, per_second, burst, within } = fields;
        if in_flight.is_some_and(|in_flight| !(1..=IN_FLIGHT_MAX).contains(&in_flight)) {
            return Err(format!("in_flight is from 1 to {IN_FLIGHT_MAX}"));
        }
        let open = in_flight.unwrap_or(OPEN_IN_FLIGHT);
        match (in_flight, operations, per_second, burst, within) {
            (Some(in_flight), operations, None, None, None) => {
                Ok(Self::Closed { in_flight, operations })
            }
            (_, None, Some(per_second), None, None) if per_second > 0.0 && per_second < 1e6 => {
                Ok(Self::Open { per_second, in_flight: open })
            }
            (_, None, None, Some(requests), Some(within))
                if requests > 0 && !within.0.is_zero() =>
            {
                Ok(Self::Burst { requests, within, in_flight: open })
            }
            _ => Err("a load is {in_flight: N}, perhaps with operations, {per_second: N}, or \
                      {burst: N, within: TIME}"
                .to_owned()),
        }
    }
}

impl From<Load> for Fields {
    fn from(load: Load) -> Self {
        match load {
            Load::Closed { in_flight, operations } => {
                Self { in_flight: Some(in_flight), operations, ..Self::default() }
            }
            Load::Open { per_second, in_flight } => {
                let (in_flight, per_second) = (Some(in_flight), Some(per_second));
                Self { in_flight, per_second, ..Self::default() }
            }
            Load::Burst { requests, within, in_flight } => Self {
                in_flight: Some(in_flight),
                burst: Some(requests),
                within: Some(within),
                ..Self::default()
            },
        }
    }
}

impl Load {
    /// The most operations that are out at once.
    pub(crate) fn in_flight(self) -> usize {
        match self {
            Self::Closed { in_flight, .. }
            | Self::Open { in_flight, .. }
            | Self::Burst { in_flight, .. } => in_flight,
        }
    }

    pub(super) fn scaled(self, factor: f64) -> Self {
        let scale = |count: f64| (count * factor).round().max(1.0);
        match self {
            Self::Closed { in_flight, operations } => {
                Self::Closed { in_flight: scale(in_flight as f64) as usize, operations }
            }
            Self::Open { per_second, in_flight } => {
                Self::Open { per_second: per_second * factor, in_flight }
            }
            Self::Burst { requests, within, in_flight } => {
                Self::Burst { requests: scale(requests as f64) as u64, within, in_flight }
            }
        }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed { in_flight, operations: None } => {
                write!(f, "closed loop, {in_flight} in flight")
            }
            Self::Closed { in_flight, operations: Some(operations) } => {
                write!(f, "closed loop, {in_flight} in flight, {operations} each")
            }
            Self::Open { per_second, .. } => write!(f, "open loop, {per_second}/s"),
            Self::Burst { requests, within, .. } => {
                write!(f, "open loop, {requests} within {within}")
            }
        }
    }
}
