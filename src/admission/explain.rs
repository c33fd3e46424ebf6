//! What protections would make of a call, told from the configuration alone.

use super::{Class, Config, Cost, Line, Mode, Plan, QueueConfig, Refusal, Rule, Subject, assumed};

/// What protections would make of a call.
#[derive(Debug)]
pub struct Explanation<'c> {
    /// As assumed while nothing has been learnt.
    pub cost: Cost,
    /// Those that match, in their order, up to one that exempts.
    pub rules: Vec<Matched<'c>>,
    /// Whether one of them keeps the rules after it and the queue away.
    pub exempt: bool,
    /// The queue it waits in, and what bounds it.
    pub queue: Option<(Line, &'c QueueConfig)>,
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
pub struct Matched<'c> {
    pub rule: &'c Rule,
    pub mode: Mode,
    /// What it refuses the call with, or would while observing.
    pub refusal: Option<Refusal>,
}

impl<'c> Explanation<'c> {
    pub fn new(config: &'c Config, subject: &Subject, cluster: &str) -> Self {
        let mut plan = Plan::default();
        // What the control plane hangs on meets no protection at all.
        let met = subject.class != Class::Critical;
        let rules = match met {
            true => matching(config, subject, cluster, &mut plan),
            false => Vec::new(),
        };
        let mode_of = |mode: Mode| mode.min(config.mode);
        let writes = met && subject.is_write();
        let guarded = writes && !plan.exempt;
        let queue = Line::of(subject.class).filter(|_| !plan.exempt);
        Self {
            cost: assumed(subject),
            exempt: plan.exempt,
            queue: queue
                .filter(|_| mode_of(config.queues.mode) == Mode::Enforce)
                .map(|line| (line, config.queues.of(line))),
            space_percent: config
                .space
                .refuses_from(subject, &plan)
                .filter(|_| guarded && mode_of(config.space.mode) == Mode::Enforce),
            delete_keys: delete_keys(config, &rules, subject, plan.exempt).filter(|_| writes),
            recalls: mode_of(config.mirror) == Mode::Enforce && plan.mirror.unwrap_or(true),
            coalesces: config.coalescing.enabled
                && config.mode == Mode::Enforce
                && plan.coalesce.unwrap_or(true),
            pages: config.paging.enabled
                && config.mode == Mode::Enforce
                && plan.page.unwrap_or(true),
            rules,
        }
    }

    /// The rules that do something to it.
    pub fn acting(&self) -> impl Iterator<Item = &Matched<'c>> {
        self.rules.iter().filter(|matched| matched.mode == Mode::Enforce)
    }

    /// What it is refused with, if it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.acting().filter_map(|matched| matched.refusal.as_ref()).next()
    }
}

/// The rules that match; `plan` takes over what they say of how the call is treated.
fn matching<'c>(
    config: &'c Config,
    subject: &Subject,
    cluster: &str,
    plan: &mut Plan,
) -> Vec<Matched<'c>> {
    let mut rules = Vec::new();
    for rule in config.rules.iter().filter(|rule| rule.when.matches(subject, cluster)) {
        let mode = rule.mode.min(config.mode);
        rules.push(Matched { rule, mode, refusal: rule.forbids(subject) });
        if mode == Mode::Enforce {
            plan.follow(rule);
        }
        if plan.exempt {
            break;
        }
    }
    rules
}

/// As the guard on deletes has it: the first rule that holds and says a number, else the
/// configuration, which is not about what is exempt.
fn delete_keys(
    config: &Config,
    rules: &[Matched<'_>],
    subject: &Subject,
    exempt: bool,
) -> Option<u64> {
    let acting = rules.iter().filter(|matched| matched.mode == Mode::Enforce);
    let by_rule =
        acting.filter_map(|matched| Some((matched.rule.quota.delete_keys?, matched.mode))).next();
    let deletes = &config.deletes;
    let allowed = deletes.clients.iter().any(|name| name.matches(&subject.client.name));
    let by_default = (deletes.keys_max, deletes.mode.min(config.mode));
    let (keys, mode) = by_rule.unwrap_or(by_default);
    let unbounded = (allowed || exempt) && by_rule.is_none();
    (mode == Mode::Enforce && !unbounded).then_some(keys)
}
