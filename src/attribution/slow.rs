//! The log of slow and heavy requests.

use super::{Config, Observation};
use parking_lot::Mutex;
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Writes a line for each, up to a number a minute, and tells how many it has left out.
#[derive(Debug)]
pub(super) struct SlowLog {
    minute: Mutex<Minute>,
    /// Lines left out and not yet told of; read without the lock by each call.
    untold: AtomicU64,
    suppressed: Counter,
}

#[derive(Debug, Default)]
struct Minute {
    number: u64,
    lines: u32,
}

impl SlowLog {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let suppressed = Counter::default();
        registry.register(
            "slow_log_suppressed",
            "Lines of slow and heavy requests that were not logged",
            suppressed.clone(),
        );
        Self { minute: Mutex::default(), untold: AtomicU64::new(0), suppressed }
    }

    /// `age` is the time since the start.
    pub(super) fn see(&self, age: Duration, config: &Config, seen: &Observation<'_>) {
        self.tell_suppressed(age);
        let slow = seen.took > config.slow && !seen.stream;
        let heavy = seen.bytes > config.heavy_bytes;
        if !slow && !heavy {
            return;
        }
        if !self.may_write(age, config.log_per_minute) {
            self.untold.fetch_add(1, Relaxed);
            self.suppressed.inc();
        } else if slow {
            write_slow(seen);
        } else {
            write_heavy(seen);
        }
    }

    fn may_write(&self, age: Duration, lines_max: u32) -> bool {
        let mut minute = self.minute.lock();
        minute.enter(age);
        let may = minute.lines < lines_max;
        minute.lines += u32::from(may);
        may
    }

    /// Once a minute has ended in which lines were left out, with whatever call comes next.
    fn tell_suppressed(&self, age: Duration) {
        if self.untold.load(Relaxed) == 0 || !self.minute.lock().enter(age) {
            return;
        }
        let suppressed = self.untold.swap(0, Relaxed);
        tracing::warn!(
            target: "seawall::slow",
            suppressed,
            "more requests were slow or heavy than are logged in a minute"
        );
    }
}

impl Minute {
    /// Whether another one has begun.
    fn enter(&mut self, age: Duration) -> bool {
        let number = age.as_secs() / 60;
        let begins = self.number < number;
        if begins {
            *self = Self { number, lines: 0 };
        }
        begins
    }
}

macro_rules! write_line {
    ($level:ident, $seen:ident, $message:literal) => {
        tracing::$level!(
            target: "seawall::slow",
            method = $seen.method,
            code = ?$seen.code,
            class = $seen.class.as_str(),
            shape = $seen.shape.as_str(),
            cluster = &**$seen.cluster,
            client = &*$seen.client.name,
            address = %$seen.client.address,
            prefix = %$seen.place.collection.escape_ascii(),
            namespace = $seen.place.namespace.as_ref().map(|name| name.escape_ascii().to_string()),
            cost = $seen.cost,
            keys = $seen.keys,
            bytes = $seen.bytes,
            took_ms = $seen.took.as_secs_f64() * 1e3,
            waited_ms = $seen.waited.as_secs_f64() * 1e3,
            $message
        )
    };
}

fn write_slow(seen: &Observation<'_>) {
    write_line!(warn, seen, "slow request");
}

fn write_heavy(seen: &Observation<'_>) {
    write_line!(info, seen, "heavy request");
}
