//! What happened last, for those who look at the process and not at its log.

use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::VecDeque,
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{Layer, filter::Targets, layer::Context};

/// Something that was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Happening {
    /// Milliseconds since 1970.
    pub at: u64,
    pub level: &'static str,
    pub message: String,
    /// `key=value`, separated by spaces.
    pub details: String,
    /// How often it happened, one after the other; details are those of the last time.
    pub times: u64,
}

/// Enough to tell what led to an incident.
const HAPPENINGS_MAX: usize = 100;

/// So many of a kind are told apart, such as the members of a cluster.
const ALIKE_MAX: usize = 5;

/// Some carry the text of an error.
const DETAILS_MAX: usize = 400;

/// Like the log, of which there is one in a process.
static RECENT: Mutex<VecDeque<Happening>> = Mutex::new(VecDeque::new());

/// What happened last, the newest first.
pub fn recent() -> Vec<Happening> {
    RECENT.lock().iter().rev().cloned().collect()
}

/// What is remembered, whatever the level of the log is, and nothing of single calls. A layer without a
/// filter would have all that anybody traces be put together, on every call.
pub(super) fn wanted() -> Targets {
    Targets::new()
        .with_target("seawall", LevelFilter::INFO)
        .with_target("seawall::slow", LevelFilter::OFF)
}

/// Remembers what is logged.
#[derive(Debug)]
pub(super) struct Recent;

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let happening = Happening {
            at: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            level: event.metadata().level().as_str(),
            message: text.message,
            details: text.details,
            times: 1,
        };
        remember(&mut RECENT.lock(), happening);
    }
}

/// What happens again and again takes no further place, so that it does not push out what led to it.
fn remember(recent: &mut VecDeque<Happening>, mut happening: Happening) {
    let again = |last: &&Happening| last.message == happening.message;
    let repeated = recent.iter().rev().take_while(again).count();
    if let Some(last) = recent.back_mut()
        && (repeated >= ALIKE_MAX || repeated > 0 && last.details == happening.details)
    {
        happening.times = last.times + 1;
        *last = happening;
        return;
    }
    if recent.len() == HAPPENINGS_MAX {
        recent.pop_front();
    }
    recent.push_back(happening);
}

#[derive(Default)]
struct Text {
    message: String,
    details: String,
}

impl Text {
    fn add(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if name == "message" {
            self.message = value.to_string();
        } else if self.details.len() < DETAILS_MAX {
            let space = if self.details.is_empty() { "" } else { " " };
            // Writing into a string does not fail.
            let _ = write!(self.details, "{space}{name}={value}");
            let ends = self.details.char_indices().map(|(at, _)| at);
            let end = ends.take_while(|at| *at <= DETAILS_MAX).last().unwrap_or_default();
            if self.details.len() > DETAILS_MAX {
                self.details.truncate(end);
            }
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn happening(message: &str, details: &str) -> Happening {
        let (message, details) = (message.to_owned(), details.to_owned());
        Happening { at: 0, level: "WARN", message, details, times: 1 }
    }

    #[test]
    fn what_happens_again_and_again_takes_few_places() {
        let mut recent = VecDeque::new();
        for details in ["a", "b", "b", "c", "d", "e", "f", "g"] {
            remember(&mut recent, happening("refused", details));
        }
        remember(&mut recent, happening("healthy", ""));
        let told: Vec<_> =
            recent.iter().map(|happening| (&*happening.details, happening.times)).collect();
        assert_eq!(told, [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("g", 3), ("", 1)]);
    }

    #[test]
    fn what_single_calls_trace_is_not_even_put_together() {
        let wanted = wanted();
        for (target, level, expected) in [
            ("seawall::upstream::member", Level::INFO, true),
            ("seawall::audit", Level::WARN, true),
            ("seawall::upstream::lane", Level::DEBUG, false),
            ("seawall::slow", Level::WARN, false),
            ("h2::codec", Level::TRACE, false),
            ("h2::codec", Level::ERROR, false),
        ] {
            assert_eq!(wanted.would_enable(target, &level), expected, "{target} {level}");
        }
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut recent = VecDeque::new();
        for number in 0..=HAPPENINGS_MAX {
            remember(&mut recent, happening(&number.to_string(), ""));
        }
        assert_eq!(recent.len(), HAPPENINGS_MAX);
        assert_eq!(recent[0].message, "1");
    }

    #[test]
    fn details_are_bounded_between_characters() {
        let mut text = Text::default();
        text.add("error", format_args!("{}", "ü".repeat(DETAILS_MAX)));
        text.add("more", format_args!("x"));
        assert!(text.details.len() <= DETAILS_MAX && text.details.ends_with('ü'));
    }
}
