//! What protects etcd, as a file that says the same.

use super::{Page, quoted};
use crate::{
    admission::{
        CoalescingConfig, Config, DeletesConfig, Limit, Match, Mode, PagingConfig, Pattern, Per,
        Priority, QueueConfig, QueuesConfig, Quota, Rule, SpaceConfig,
    },
    attribution,
    config::units,
    mirror,
};
use std::fmt::Display;

/// Settings are taken apart without `..`, so that none can be forgotten.
impl Page<'_> {
    pub(super) fn protection(&mut self, config: &Config) {
        let Config {
            mode,
            memory_bytes,
            coalescing,
            paging,
            queues,
            space,
            deletes,
            // Printed with what else there is to say of it.
            mirror: _,
            rules,
        } = config;
        self.value("mode", of_mode(*mode), "");
        self.size("memory", *memory_bytes);
        self.section("coalescing", |page| {
            let CoalescingConfig { enabled, waiters_max, pinned_bytes } = coalescing;
            page.value("enabled", enabled, "");
            page.value("waiters_max", waiters_max, "");
            page.size("pinned", *pinned_bytes);
        });
        self.section("paging", |page| {
            let PagingConfig { enabled, page_bytes } = paging;
            page.value("enabled", enabled, "");
            page.size("page_size", *page_bytes);
        });
        self.section("queues", |page| page.queues(queues));
        self.section("space", |page| page.space(space));
        self.section("deletes", |page| {
            let DeletesConfig { mode, keys_max, clients } = deletes;
            page.value("mode", of_mode(*mode), "");
            page.value("keys_max", keys_max, "");
            page.patterns("clients", clients, "none");
        });
        self.items("rules", rules, Self::rule);
    }

    fn queues(&mut self, queues: &QueuesConfig) {
        let QueuesConfig { mode, reads, writes, lists, concurrency_min, latency_margin } = queues;
        self.value("mode", of_mode(*mode), "");
        self.section("reads", |page| page.queue(reads));
        self.section("writes", |page| page.queue(writes));
        self.section("lists", |page| page.queue(lists));
        self.value("concurrency_min", concurrency_min, "");
        self.duration("latency_margin", *latency_margin);
    }

    fn queue(&mut self, queue: &QueueConfig) {
        let QueueConfig { concurrency, length_max, wait_max } = queue;
        self.value("concurrency", concurrency, "");
        self.value("length_max", length_max, "");
        self.duration("wait_max", *wait_max);
    }

    fn space(&mut self, space: &SpaceConfig) {
        let SpaceConfig { mode, warn_percent, refuse_low_percent, refuse_percent, quota_bytes } =
            space;
        self.value("mode", of_mode(*mode), "");
        self.value("warn", units::Percent(*warn_percent), "");
        self.value("refuse_low", units::Percent(*refuse_low_percent), "");
        self.value("refuse", units::Percent(*refuse_percent), "");
        let quota = quota_bytes.map(|bytes| units::Size(bytes).to_string()).unwrap_or_default();
        self.value("quota", quota, "as etcd tells, and no slope where it does not");
    }

    fn rule(&mut self, rule: &Rule) {
        let Rule {
            name,
            mode,
            when,
            limit,
            quota,
            weight,
            priority,
            mirror,
            coalesce,
            page,
            read_only,
            deny,
            exempt,
        } = rule;
        self.value("name", quoted(name), "");
        self.value("mode", of_mode(*mode), "");
        self.section("match", |page| page.when(when));
        self.section("limit", |page| page.limit(limit));
        self.section("quota", |page| page.quota(quota));
        self.maybe("weight", *weight, "not said here");
        self.maybe("priority", priority.map(of_priority), "not said here");
        self.maybe("mirror", *mirror, "not said here");
        self.maybe("coalesce", *coalesce, "not said here");
        self.maybe("page", *page, "not said here");
        self.value("read_only", read_only, "");
        self.value("deny", deny, "");
        self.value("exempt", exempt, "");
    }

    fn when(&mut self, when: &Match) {
        let Match { prefixes, namespaces, classes, shapes, methods, clients, addresses, clusters } =
            when;
        self.values("prefixes", prefixes.iter().map(|prefix| quoted(prefix)), "any");
        self.patterns("namespaces", namespaces, "any");
        self.values("classes", classes.iter().map(|class| class.as_str().into()), "any");
        self.values("shapes", shapes.iter().map(|shape| shape.as_str().into()), "any");
        self.values("methods", methods.iter().map(|method| method.name().into()), "any");
        self.patterns("clients", clients, "any");
        let addresses =
            addresses.iter().map(|network| quoted(&units::Network(*network).to_string()));
        self.values("addresses", addresses, "any");
        self.values("clusters", clusters.iter().map(|cluster| quoted(cluster)), "any");
    }

    fn limit(&mut self, limit: &Limit) {
        let Limit { requests, cost, creates, concurrency, burst, wait_max, per } = limit;
        self.maybe("requests", requests.map(units::Rate), "any number");
        self.maybe("cost", cost.map(units::Rate), "any");
        self.maybe("creates", creates.map(units::Rate), "any number");
        self.maybe("concurrency", *concurrency, "any number");
        self.duration("burst", *burst);
        self.duration("wait_max", *wait_max);
        self.values("per", per.iter().map(|per| of_per(*per).into()), "one limit for all");
    }

    fn quota(&mut self, quota: &Quota) {
        let Quota { objects, bytes, value_size, delete_keys, per_namespace } = quota;
        self.maybe("objects", *objects, "any number");
        self.maybe("bytes", bytes.map(units::Size), "any number");
        self.maybe("value_size", value_size.map(units::Size), "any");
        self.maybe("delete_keys", *delete_keys, "as protection.deletes says");
        self.value("per_namespace", per_namespace, "");
    }

    pub(super) fn mirror(&mut self, mode: Mode, config: &mirror::Config) {
        let mirror::Config {
            memory_bytes,
            history,
            wait_max,
            pinned,
            verify_interval,
            consistency_checks,
        } = config;
        self.value("mode", of_mode(mode), "");
        self.size("memory", *memory_bytes);
        self.size("history", history.bytes as u64);
        self.duration("wait_max", *wait_max);
        let prefixes = pinned.iter().map(|name| quoted(&String::from_utf8_lossy(name)));
        self.values("pinned", prefixes, "none");
        self.duration("verify_interval", verify_interval.unwrap_or_default());
        self.value("consistency_checks", consistency_checks, "");
    }

    pub(super) fn attribution(&mut self, config: &attribution::Config) {
        let attribution::Config { entries, slow, heavy_bytes, log_per_minute, trace } = config;
        self.value("entries", entries, "");
        self.duration("slow", *slow);
        self.size("heavy", *heavy_bytes);
        self.value("log_per_minute", log_per_minute, "");
        // What is not recorded has no bounds either.
        let Some(attribution::TraceConfig { file, bytes_max, hash_keys }) = trace else { return };
        self.section("trace", |page| {
            page.file("file", Some(file.as_path()), "");
            page.size("max", *bytes_max);
            page.value("hash_keys", hash_keys, "");
        });
    }

    pub(super) fn patterns(&mut self, key: &str, patterns: &[Pattern], meaning: &str) {
        self.values(key, patterns.iter().map(|pattern| quoted(&pattern.to_string())), meaning);
    }

    /// Nothing where nothing was given.
    fn maybe(&mut self, key: &str, value: Option<impl Display>, meaning: &str) {
        let value = value.map(|value| value.to_string()).unwrap_or_default();
        self.value(key, value, meaning);
    }
}

pub(super) fn of_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    }
}

fn of_per(per: Per) -> &'static str {
    match per {
        Per::Client => "client",
        Per::Collection => "collection",
        Per::Namespace => "namespace",
    }
}

fn of_priority(priority: Priority) -> &'static str {
    match priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}
