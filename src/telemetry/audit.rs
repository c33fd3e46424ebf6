//! What operators want to find again: who was refused, who insisted, who switched what. One line an
//! event under the target `seawall::audit`; `docs/logs.md` lists the events and their fields.

use parking_lot::Mutex;
use std::sync::LazyLock;
use tokio::time::Instant;

/// Writes the line of an event: its name, its fields, and what happened in words.
macro_rules! audit {
    ($event:literal, $($rest:tt)*) => {
        tracing::warn!(target: "seawall::audit", event = $event, $($rest)*)
    };
}

pub(crate) use audit;

/// The target of these lines, by which they are told from the rest of the log.
pub const TARGET: &str = "seawall::audit";

/// Lines that clients may cause in a minute. What operators do is written in any case; a client that
/// repeats itself must not fill the disk.
const LINES_MAX: u32 = 600;

/// For the whole process, as the log is.
static MINUTE: LazyLock<Mutex<Minute>> = LazyLock::new(|| Mutex::new(Minute::new(Instant::now())));

#[derive(Debug)]
struct Minute {
    began: Instant,
    number: u64,
    lines: u32,
    left_out: u64,
}

/// Writes an event that a client has caused, unless there were too many of them in this minute; the
/// first one after that minute is preceded by their number.
pub(crate) fn of_client(write: impl FnOnce()) {
    let (may, left_out) = MINUTE.lock().enter(Instant::now());
    if let Some(left_out) = left_out {
        audit!("left_out", left_out, "events of clients that were not written");
    }
    if may {
        write();
    }
}

impl Minute {
    fn new(began: Instant) -> Self {
        Self { began, number: 0, lines: 0, left_out: 0 }
    }

    /// Whether another line may be written, and how many were not before.
    fn enter(&mut self, now: Instant) -> (bool, Option<u64>) {
        let number = now.duration_since(self.began).as_secs() / 60;
        let mut told = None;
        if number > self.number {
            told = (self.left_out > 0).then_some(self.left_out);
            *self = Self { number, ..Self::new(self.began) };
        }
        let may = self.lines < LINES_MAX;
        self.lines += u32::from(may);
        self.left_out += u64::from(!may);
        (may, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_client_that_repeats_itself_is_counted_and_not_written() {
        let began = Instant::now();
        let mut minute = Minute::new(began);
        for _ in 0..LINES_MAX {
            assert_eq!(minute.enter(began), (true, None));
        }
        assert_eq!(minute.enter(began), (false, None));
        assert_eq!(minute.enter(began + Duration::from_secs(59)), (false, None));
        assert_eq!(minute.enter(began + Duration::from_secs(60)), (true, Some(2)));
        assert_eq!(minute.enter(began + Duration::from_secs(120)), (true, None));
    }
}
