//! What protections make of a request, in words.

use super::line;
use crate::{
    admission::{
        Class, Config, Explanation, Limit, Line, Matched, Mode, Per, Priority, Quota, Rate, Rule,
        Shape, Subject,
    },
    cli::{
        request::{Method, Request},
        top::format::bytes,
    },
};

pub(super) fn lines(
    explanation: &Explanation,
    config: &Config,
    request: &Request,
    subject: &Subject,
) -> Vec<String> {
    let cost = [
        line("cost", explanation.cost.to_string()),
        line("", "as assumed at first; the running process goes by what such calls have cost"),
    ];
    let mut lines = Vec::from(cost);
    lines.push(line("queue", queue(explanation, config, subject.class)));
    if subject.class != Class::Critical {
        lines.extend(reading(explanation, config, request, subject).map(|it| line("answer", it)));
        lines.extend(rules(&explanation.rules, subject));
    }
    lines.push(line("outcome", outcome(explanation, request, subject)));
    lines
}

fn queue(explanation: &Explanation, config: &Config, class: Class) -> String {
    match &explanation.queue {
        Some((queue, bounds)) => format!(
            "{}: at most {} at etcd at once, {} wait, each for {:?}",
            queue.as_str(),
            bounds.concurrency,
            bounds.length_max,
            bounds.wait_max
        ),
        None if Line::of(class).is_none() => format!("none for calls of class {}", class.as_str()),
        None if config.queues.mode.min(config.mode) != Mode::Enforce => {
            "none, since queues are not enforced".into()
        }
        None => "none, by a rule that exempts".into(),
    }
}

/// How a range is answered.
fn reading(
    explanation: &Explanation,
    config: &Config,
    request: &Request,
    subject: &Subject,
) -> Option<String> {
    let memory = if explanation.recalls { "from memory where that is ready, else " } else { "" };
    answered(explanation, config, request, subject).map(|answer| format!("{memory}{answer}"))
}

fn answered(
    explanation: &Explanation,
    config: &Config,
    request: &Request,
    subject: &Subject,
) -> Option<String> {
    let page = bytes(config.paging.page_bytes);
    let pages = explanation.pages && subject.shape == Shape::List;
    let paged = format!("cut into pages of about {page}, if it is larger than two of them");
    let shared = "shared with equal reads that come before etcd is asked";
    match request.method {
        Method::Range => Some(match (explanation.coalesces, pages) {
            (true, true) => format!("{shared}; {paged}"),
            (true, false) => shared.into(),
            (false, true) => format!("not shared; {paged}"),
            (false, false) => "neither shared nor cut: passed on as it comes".into(),
        }),
        Method::RangeStream if explanation.pages => {
            Some(format!("streamed by etcd where it can, else read in pages of about {page}"))
        }
        Method::RangeStream => Some("streamed by etcd, where it can".into()),
        _ => None,
    }
}

fn rules(matched: &[Matched], subject: &Subject) -> Vec<String> {
    if matched.is_empty() {
        return vec![line("rules", "none matches")];
    }
    let head = std::iter::once("rules").chain(std::iter::repeat(""));
    let texts = matched.iter().map(|matched| {
        let rule = matched.rule();
        let effects = effects(rule, subject).join("; ");
        match matched.mode {
            Mode::Off => format!("{} (off): not looked at", rule.name),
            Mode::Observe => format!("{} (observe): would, if enforced: {effects}", rule.name),
            Mode::Enforce => format!("{} (enforce): {effects}", rule.name),
        }
    });
    head.zip(texts).map(|(name, text)| line(name, text)).collect()
}

/// What a rule does to a call like this.
fn effects(rule: &Rule, subject: &Subject) -> Vec<String> {
    let mut effects = Vec::new();
    let mut say = |whether: bool, text: &str| effects.extend(whether.then(|| text.to_owned()));
    say(rule.exempt, "waits in no queue, and no later rule is looked at");
    say(rule.deny, "denied");
    say(rule.read_only && subject.is_write(), "refused as a write");
    say(rule.read_only && !subject.is_write(), "passes, only writes are refused");
    effects.extend(limit(&rule.limit, subject));
    effects.extend(quota(&rule.quota, subject));
    effects.extend(rule.weight.map(|weight| format!("weight {weight} in its queue")));
    effects.extend(rule.priority.map(|priority| match priority {
        Priority::High => "goes first in its queue".to_owned(),
        Priority::Normal => "normal priority in its queue".to_owned(),
        Priority::Low => "goes last in its queue".to_owned(),
    }));
    let memory = |it| if it { "from memory" } else { "not from memory" };
    effects.extend(rule.mirror.map(|it| memory(it).into()));
    effects.extend(rule.coalesce.map(|it| if it { "is shared" } else { "is not shared" }.into()));
    effects.extend(rule.page.map(|it| if it { "is cut" } else { "is not cut" }.into()));
    if effects.is_empty() {
        effects.push("nothing for a call like this".into());
    }
    effects
}

fn limit(limit: &Limit, subject: &Subject) -> Option<String> {
    let Limit { requests, cost, creates, concurrency, burst: _, wait_max, per } = limit;
    // A watcher meets rates when it is created, and nothing while it stays.
    let watches = subject.class == Class::Watch;
    let (cost, concurrency) = (cost.filter(|_| !watches), concurrency.filter(|_| !watches));
    let creates = creates.as_ref().filter(|_| subject.may_create());
    let rates = [(requests.as_ref(), "calls"), (cost.as_ref(), "of cost"), (creates, "creates")];
    let mut parts: Vec<_> = rates
        .into_iter()
        .filter_map(|(rate, what)| Some(format!("{} {what}", per_time(rate?))))
        .collect();
    parts.extend(concurrency.map(|number| format!("{number} at etcd at once")));
    if parts.is_empty() {
        return None;
    }
    let per: Vec<_> = per
        .iter()
        .map(|per| match per {
            Per::Client => "client",
            Per::Collection => "collection",
            Per::Namespace => "namespace",
        })
        .collect();
    let per =
        if per.is_empty() { String::new() } else { format!(" for each {}", per.join(" and ")) };
    // It would hold up the other watchers of its stream.
    let more = match wait_max.is_zero() || watches {
        true => "is refused".to_owned(),
        false => format!("waits up to {wait_max:?} or is refused"),
    };
    Some(format!("at most {}{per}; what is more {more}", parts.join(", ")))
}

/// `600/m`
fn per_time(rate: &Rate) -> String {
    let unit = match rate.period.as_secs() {
        60 => "m",
        3_600 => "h",
        _ => "s",
    };
    format!("{}/{unit}", rate.count)
}

fn quota(quota: &Quota, subject: &Subject) -> Option<String> {
    let Quota { objects, bytes: size, value_size, delete_keys, per_namespace } = quota;
    let creates = subject.may_create();
    let mut parts = Vec::new();
    parts.extend(objects.filter(|_| creates).map(|objects| format!("{objects} keys")));
    parts.extend(size.filter(|_| creates).map(|size| format!("{} of values", bytes(size))));
    if !parts.is_empty() {
        let whose = if *per_namespace { "in each namespace" } else { "below each of its prefixes" };
        parts = vec![format!("room for {} {whose}", parts.join(" and "))];
    }
    let writes = subject.is_write();
    let value = value_size.filter(|_| writes);
    parts.extend(value.map(|size| format!("values up to {}", bytes(size))));
    let deletes = delete_keys.filter(|_| writes);
    parts.extend(deletes.map(|keys| format!("deletes of up to {keys} keys at once")));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The last word.
fn outcome(explanation: &Explanation, request: &Request, subject: &Subject) -> String {
    if subject.class == Class::Critical {
        return "passes at once: no protection looks at calls of class critical".into();
    }
    if explanation.exempt {
        return "passes at once, by a rule that exempts".into();
    }
    if let Some(refusal) = explanation.refusal() {
        return format!("refused: {refusal}");
    }
    let mut limits = explanation.acting().filter_map(|it| limit(&it.rule().limit, subject));
    let limited = limits.next().is_some();
    let waits = subject.class != Class::Watch && (limited || explanation.queue.is_some());
    let turn = if waits { " when its turn comes" } else { "" };
    let mut unless = obstacles(explanation, request, subject);
    if limited && !waits {
        unless.push("more come at once than a rule lets".into());
    }
    match unless.is_empty() {
        true => format!("passes{turn}"),
        false => format!("passes{turn}, unless {}", unless.join(" or ")),
    }
}

/// What refuses a write by what is stored.
fn obstacles(explanation: &Explanation, request: &Request, subject: &Subject) -> Vec<String> {
    let mut unless = Vec::new();
    let keys = explanation.delete_keys.filter(|_| request.deletes_ranges());
    unless.extend(keys.map(|keys| format!("it deletes more than {keys} keys")));
    let space = explanation.space_percent;
    unless.extend(space.map(|percent| format!("etcd's database is {percent}% full")));
    let full = |quota: &Quota| quota.objects.is_some() || quota.bytes.is_some();
    if subject.may_create() && explanation.acting().any(|it| full(&it.rule().quota)) {
        unless.push("the quota of a rule is used up".into());
    }
    unless
}
