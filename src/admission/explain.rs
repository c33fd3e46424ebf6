//! What protections would make of a call.

use super::{
    Class, Cost, Line, Mode, Protection, QueueConfig, Refusal, Rule, Subject, assumed,
    rules::{RunningRule, matching},
};
use std::sync::Arc;

/// What protections would make of a call.
#[derive(Debug)]
pub struct Explanation {
    /// As assumed while nothing has been learnt.
    pub cost: Cost,
    /// Those that match, in their order, up to one that exempts.
    pub rules: Vec<Matched>,
    /// Whether something keeps the queue away, and the rules that are not in `rules`.
    pub exempt: bool,
    /// The queue it waits in, and what bounds it.
    pub queue: Option<(Line, QueueConfig)>,
    /// How full etcd's database may be for it to pass, in percent of the quota.
    pub space_percent: Option<u32>,
    /// Keys that it may delete by ranges.
    pub delete_keys: Option<u64>,
    pub recalls: bool,
    pub coalesces: bool,
    pub pages: bool,
}

/// A rule that is about the call.
#[derive(Debug)]
pub struct Matched {
    running: Arc<RunningRule>,
    pub mode: Mode,
    /// What it refuses the call with, or would while observing.
    pub refusal: Option<Refusal>,
}

impl Protection {
    /// What would be made of a call to `cluster`. It is charged with nothing, and counted nowhere.
    pub fn explain(&self, subject: &Subject, cluster: &str) -> Explanation {
        let plan = self.planned(subject, cluster);
        let current = self.current();
        let config = &current.config;
        let matched = |(running, mode): (&Arc<RunningRule>, Mode)| {
            let refusal = running.rule.forbids(subject);
            Matched { running: Arc::clone(running), mode, refusal }
        };
        let rules = match subject.class {
            Class::Critical => Vec::new(),
            _ => matching(&current.rules, subject, cluster).map(matched).collect(),
        };
        let queues = self.queues(&plan) == Mode::Enforce;
        let queue = Line::of(subject.class).filter(|_| queues);
        let guards = !plan.exempt && current.modes.space == Mode::Enforce;
        Explanation {
            cost: assumed(subject),
            rules,
            exempt: plan.exempt,
            queue: queue.map(|line| (line, config.queues.of(line).clone())),
            space_percent: config.space.refuses_from(subject, &plan).filter(|_| guards),
            delete_keys: self.delete_keys_max(subject, &plan).filter(|_| subject.is_write()),
            recalls: self.mirror() == Mode::Enforce && self.recalls(&plan),
            coalesces: self.coalesces(&plan),
            pages: self.pages(&plan),
        }
    }
}

impl Explanation {
    /// The rules that do something to it.
    pub fn acting(&self) -> impl Iterator<Item = &Matched> {
        self.rules.iter().filter(|matched| matched.mode == Mode::Enforce)
    }

    /// What it is refused with, if it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.acting().filter_map(|matched| matched.refusal.as_ref()).next()
    }
}

impl Matched {
    pub fn rule(&self) -> &Rule {
        &self.running.rule
    }
}
