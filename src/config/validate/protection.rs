//! What protects etcd, but for its rules, and what is remembered of who loads it.

use super::{Checks, MILLISECOND};
use crate::{
    admission::{
        CoalescingConfig, Config, DeletesConfig, Mode, PagingConfig, Pattern, QueueConfig,
        QueuesConfig, SpaceConfig,
    },
    attribution,
    config::{
        decode::item,
        file,
        units::{Percent, Size},
    },
    upstream,
};
use std::ops::RangeInclusive;

impl Checks<'_> {
    /// Rules may name any of `clusters`.
    pub(super) fn protection(
        &mut self,
        file: file::Protection,
        mirror: file::Mode,
        clusters: &[upstream::Config],
    ) -> Config {
        let file::Protection { mode, memory, coalescing, paging, queues, space, deletes, rules } =
            file;
        Config {
            mode: of_mode(mode),
            memory_bytes: self.size("protection.memory", memory, MEMORY_MIN..=SIZE_MAX),
            coalescing: self.coalescing(&coalescing, memory),
            paging: self.paging(&paging),
            queues: self.queues(&queues),
            space: self.space(&space),
            deletes: self.deletes(&deletes),
            mirror: of_mode(mirror),
            rules: self.rules("protection.rules", rules, clusters),
        }
    }

    fn coalescing(&mut self, file: &file::Coalescing, memory: Size) -> CoalescingConfig {
        let file::Coalescing { enabled, waiters_max, pinned } = *file;
        if pinned > memory {
            let most = format!("at most the memory of {memory}");
            self.expected("protection.coalescing.pinned", most, pinned);
        }
        let path = "protection.coalescing.waiters_max";
        CoalescingConfig {
            enabled,
            waiters_max: self.number(path, waiters_max, 1..=CALLS_MAX) as usize,
            pinned_bytes: pinned.0,
        }
    }

    fn paging(&mut self, file: &file::Paging) -> PagingConfig {
        let file::Paging { enabled, page_size } = *file;
        let page_bytes = self.size("protection.paging.page_size", page_size, PAGE_MIN..=PAGE_MAX);
        PagingConfig { enabled, page_bytes }
    }

    fn queues(&mut self, file: &file::Queues) -> QueuesConfig {
        let file::Queues { mode, reads, writes, lists, concurrency_min, latency_margin } = file;
        let defaults = file::Queues::default();
        let lists = self.queue("protection.queues.lists", lists, &defaults.lists);
        let path = "protection.queues.concurrency_min";
        let concurrency_min = self.at_least_one(path, *concurrency_min);
        if concurrency_min > lists.concurrency.max(1) {
            let most = format!("at most the concurrency of lists, {}", lists.concurrency);
            self.expected(path, most, concurrency_min);
        }
        QueuesConfig {
            mode: of_mode(*mode),
            reads: self.queue("protection.queues.reads", reads, &defaults.reads),
            writes: self.queue("protection.queues.writes", writes, &defaults.writes),
            lists,
            concurrency_min,
            latency_margin: self.duration(
                "protection.queues.latency_margin",
                *latency_margin,
                MILLISECOND,
            ),
        }
    }

    fn queue(&mut self, path: &str, file: &file::Queue, default: &file::Queue) -> QueueConfig {
        let mut number = |key: &str, given: Option<u32>, default: Option<u32>, least: u32| {
            let value = given.or(default).unwrap_or_default();
            self.number(&format!("{path}.{key}"), value, least..=CALLS_MAX)
        };
        let concurrency = number("concurrency", file.concurrency, default.concurrency, 1);
        let length_max = number("length_max", file.length_max, default.length_max, 0) as usize;
        let wait_max = file.wait_max.or(default.wait_max).unwrap_or_default();
        let wait_max = self.duration(&format!("{path}.wait_max"), wait_max, MILLISECOND);
        QueueConfig { concurrency, length_max, wait_max }
    }

    /// Each step of the slope comes no sooner than the one before it.
    fn space(&mut self, file: &file::Space) -> SpaceConfig {
        let file::Space { mode, warn, refuse_low, refuse, quota } = *file;
        let steps = [("warn", warn), ("refuse_low", refuse_low), ("refuse", refuse)];
        for (key, percent) in steps {
            if !(1..=100).contains(&percent.0) {
                let path = format!("protection.space.{key}");
                self.expected(&path, "a percentage from 1% to 100%", percent);
            }
        }
        for pair in steps.windows(2) {
            let [(lower, least), (key, percent)] = *pair else { continue };
            if percent < least && least <= Percent(100) {
                let least = format!("at least the {lower} of {least}");
                self.expected(&format!("protection.space.{key}"), least, percent);
            }
        }
        SpaceConfig {
            mode: of_mode(mode),
            warn_percent: warn.0,
            refuse_low_percent: refuse_low.0,
            refuse_percent: refuse.0,
            quota_bytes: quota
                .map(|quota| self.size("protection.space.quota", quota, QUOTA_MIN..=SIZE_MAX)),
        }
    }

    fn deletes(&mut self, file: &file::Deletes) -> DeletesConfig {
        let file::Deletes { mode, keys_max, clients } = file;
        if *keys_max == 0 {
            self.expected("protection.deletes.keys_max", "at least 1", keys_max);
        }
        DeletesConfig {
            mode: of_mode(*mode),
            keys_max: *keys_max,
            clients: self.patterns("protection.deletes.clients", clients),
        }
    }

    pub(super) fn patterns(&mut self, path: &str, texts: &[String]) -> Vec<Pattern> {
        for (index, _) in texts.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            self.expected(&item(path, index), "a name, or a pattern such as team-*", "nothing");
        }
        texts.iter().map(|text| Pattern::new(text)).collect()
    }

    pub(super) fn number(&mut self, path: &str, value: u32, range: RangeInclusive<u32>) -> u32 {
        if !range.contains(&value) {
            let (least, most) = range.into_inner();
            self.expected(path, format_args!("a number from {least} to {most}"), value);
        }
        value
    }

    pub(super) fn attribution(&mut self, file: &file::Attribution) -> attribution::Config {
        let file::Attribution { entries, slow, heavy, log_per_minute, ref trace } = *file;
        let file::Trace { file, max, hash_keys } = trace;
        let bytes_max = self.size("attribution.trace.max", *max, Size(1)..=SIZE_MAX);
        attribution::Config {
            entries: self.number("attribution.entries", entries, 1..=ENTRIES_MAX) as usize,
            slow: self.duration("attribution.slow", slow, MILLISECOND),
            heavy_bytes: self.size("attribution.heavy", heavy, Size(1)..=SIZE_MAX),
            log_per_minute,
            trace: file.clone().map(|file| attribution::TraceConfig {
                file,
                bytes_max,
                hash_keys: *hash_keys,
            }),
        }
    }
}

pub(super) fn of_mode(mode: file::Mode) -> Mode {
    match mode {
        file::Mode::Off => Mode::Off,
        file::Mode::Observe => Mode::Observe,
        file::Mode::Enforce => Mode::Enforce,
    }
}

/// Room for what is pinned by default, so that a lower bound needs no second key.
const MEMORY_MIN: Size = Size(64 << 20);

/// What no machine has: a slip of the unit.
pub(super) const SIZE_MAX: Size = Size(1 << 40);

/// Below that a list is more calls than data; above, a page is a list.
const PAGE_MIN: Size = Size(64 << 10);
const PAGE_MAX: Size = Size(64 << 20);

/// The database of an etcd that has just started has tens of KiB.
const QUOTA_MIN: Size = Size(1 << 20);

/// More calls than a machine has memory for.
const CALLS_MAX: u32 = 1_000_000;

/// As many lines of metrics are more than whoever reads them bears.
const ENTRIES_MAX: u32 = 100_000;
