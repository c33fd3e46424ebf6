//! Rules: whether each says something, and something that can be.

use super::{Checks, MILLISECOND, protection::of_mode};
use crate::{
    admission::{Class, Limit, Match, Per, Priority, Quota, Rule, Shape},
    config::{decode::item, file, near},
    etcd::method::Method,
    routing, upstream,
};

impl Checks<'_> {
    pub(super) fn rules(
        &mut self,
        path: &str,
        files: Vec<file::Rule>,
        clusters: &[upstream::Config],
    ) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        for (index, file) in files.into_iter().enumerate() {
            let path = item(path, index);
            let rule = self.rule(&path, file, clusters);
            if rules.iter().any(|other| other.name == rule.name) && !rule.name.is_empty() {
                let text = format!("there are two rules of the name {}", rule.name);
                self.problem(&format!("{path}.name"), format!("{text}; give each its own"));
            }
            // What a rule says as a whole shows only when all of it was read.
            if !self.left_out.touches(&path) {
                self.consistent(&path, &rule);
            }
            rules.push(rule);
        }
        rules
    }

    fn rule(&mut self, path: &str, file: file::Rule, clusters: &[upstream::Config]) -> Rule {
        let at = |key: &str| format!("{path}.{key}");
        let file::Rule {
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
        } = file;
        self.name(&at("name"), &name);
        Rule {
            name,
            mode: of_mode(mode),
            when: self.when(&at("match"), when, clusters),
            limit: self.limit(&at("limit"), &limit),
            quota: of_quota(&quota),
            weight: weight.map(|weight| self.number(&at("weight"), weight, 1..=WEIGHT_MAX)),
            priority: priority.map(of_priority),
            mirror,
            coalesce,
            page,
            read_only,
            deny,
            exempt,
        }
    }

    fn when(&mut self, path: &str, file: file::Match, clusters: &[upstream::Config]) -> Match {
        let at = |key: &str| format!("{path}.{key}");
        let file::Match {
            prefixes,
            namespaces,
            classes,
            shapes,
            methods,
            clients,
            addresses,
            clusters: named,
        } = file;
        let known_classes = Class::ALL.map(|class| (class.as_str(), class));
        let known_shapes: Vec<_> = Shape::ALL.iter().map(|it| (it.as_str(), *it)).collect();
        let known_methods: Vec<_> = Method::ALL.iter().map(|it| (it.name(), *it)).collect();
        let known_clusters: Vec<_> =
            clusters.iter().map(|it| (&it.name[..], it.name.clone())).collect();
        Match {
            prefixes: self.prefixes(&at("prefixes"), &prefixes),
            namespaces: self.patterns(&at("namespaces"), &namespaces),
            classes: self.known(&at("classes"), "class", &classes, &known_classes),
            shapes: self.known(&at("shapes"), "shape", &shapes, &known_shapes),
            methods: self.known(&at("methods"), "method", &methods, &known_methods),
            clients: self.patterns(&at("clients"), &clients),
            addresses: addresses.iter().map(|network| network.0).collect(),
            clusters: self.known(&at("clusters"), "cluster", &named, &known_clusters),
        }
    }

    /// As routes take them.
    fn prefixes(&mut self, path: &str, given: &[String]) -> Vec<String> {
        let mut prefixes = Vec::new();
        for (index, prefix) in given.iter().enumerate() {
            let path = item(path, index);
            match routing::normalize(&prefix.clone().into()) {
                Ok(_) => prefixes.push(prefix.strip_suffix('/').unwrap_or(prefix).to_owned()),
                Err(routing::Error::WholeKeySpace(_)) => {
                    let text = format!("the prefix {prefix:?} would take every key");
                    self.problem(&path, format!("{text}; leave prefixes out instead"));
                }
                Err(error) => self.problem(&path, error.to_string()),
            }
        }
        prefixes
    }

    /// What each name stands for, where it stands for something.
    pub(super) fn known<T: Clone>(
        &mut self,
        path: &str,
        kind: &str,
        given: &[String],
        known: &[(&str, T)],
    ) -> Vec<T> {
        let mut found = Vec::new();
        for (index, name) in given.iter().enumerate() {
            match known.iter().find(|(known, _)| known == name) {
                Some((_, value)) => found.push(value.clone()),
                // That there is none at all was reported already.
                None if known.is_empty() => {}
                None => {
                    let hint = near::hint(name, known.iter().map(|(known, _)| *known));
                    let text = format!("there is no {kind} {name:?}; {hint}");
                    self.problem(&item(path, index), text);
                }
            }
        }
        found
    }

    fn limit(&mut self, path: &str, file: &file::Limit) -> Limit {
        let file::Limit { requests, cost, creates, concurrency, burst, wait_max, per } = file;
        let at = |key: &str| format!("{path}.{key}");
        Limit {
            requests: requests.map(|rate| rate.0),
            cost: cost.map(|rate| rate.0),
            creates: creates.map(|rate| rate.0),
            concurrency: concurrency.map(|calls| self.at_least_one(&at("concurrency"), calls)),
            burst: self.duration(&at("burst"), *burst, MILLISECOND),
            wait_max: wait_max.0,
            per: per.iter().copied().map(of_per).collect(),
        }
    }

    fn consistent(&mut self, path: &str, rule: &Rule) {
        let at = |key: &str| format!("{path}.{key}");
        let says = says(rule);
        let beside = |key: &str| {
            let others = says.iter().copied().filter(|other| *other != key);
            others.collect::<Vec<_>>().join(", ")
        };
        if says.is_empty() {
            let what = "a limit, a quota, weight, priority, mirror, coalesce, page, read_only, deny or exempt";
            self.expected(path, what, "a rule that does nothing");
        } else if rule.exempt && says.len() > 1 {
            let text = "nothing holds for calls that are exempt; take out";
            self.problem(&at("exempt"), format!("{text} {}", beside("exempt")));
        } else if rule.deny && says.len() > 1 {
            let text = "what is refused needs nothing else; take out";
            self.problem(&at("deny"), format!("{text} {}", beside("deny")));
        }
        self.consistent_quota(&at("quota"), rule);
    }

    /// What is stored is counted below prefixes.
    fn consistent_quota(&mut self, path: &str, rule: &Rule) {
        let Quota { objects, bytes, per_namespace, .. } = &rule.quota;
        let counted = [("objects", objects.is_some()), ("bytes", bytes.is_some())];
        if rule.when.prefixes.is_empty() {
            for (key, _) in counted.into_iter().filter(|(_, given)| *given) {
                let what = "match.prefixes beside it, below which keys are counted";
                self.expected(&format!("{path}.{key}"), what, "none");
            }
        }
        if *per_namespace && !counted.iter().any(|(_, given)| *given) {
            let path = format!("{path}.per_namespace");
            self.expected(&path, "objects or bytes beside it", "neither");
        }
    }
}

/// The keys by which a rule does something.
fn says(rule: &Rule) -> Vec<&'static str> {
    let Rule {
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
        ..
    } = rule;
    let Limit { requests, cost, creates, concurrency, burst: _, wait_max: _, per: _ } = limit;
    let Quota { objects, bytes, value_size, delete_keys, per_namespace: _ } = quota;
    let keys = [
        ("limit.requests", requests.is_some()),
        ("limit.cost", cost.is_some()),
        ("limit.creates", creates.is_some()),
        ("limit.concurrency", concurrency.is_some()),
        ("quota.objects", objects.is_some()),
        ("quota.bytes", bytes.is_some()),
        ("quota.value_size", value_size.is_some()),
        ("quota.delete_keys", delete_keys.is_some()),
        ("weight", weight.is_some()),
        ("priority", priority.is_some()),
        ("mirror", mirror.is_some()),
        ("coalesce", coalesce.is_some()),
        ("page", page.is_some()),
        ("read_only", *read_only),
        ("deny", *deny),
        ("exempt", *exempt),
    ];
    keys.into_iter().filter(|(_, said)| *said).map(|(key, _)| key).collect()
}

fn of_quota(file: &file::Quota) -> Quota {
    let file::Quota { objects, bytes, value_size, delete_keys, per_namespace } = *file;
    Quota {
        objects,
        bytes: bytes.map(|size| size.0),
        value_size: value_size.map(|size| size.0),
        delete_keys,
        per_namespace,
    }
}

fn of_per(per: file::Per) -> Per {
    match per {
        file::Per::Client => Per::Client,
        file::Per::Collection => Per::Collection,
        file::Per::Namespace => Per::Namespace,
    }
}

fn of_priority(priority: file::Priority) -> Priority {
    match priority {
        file::Priority::High => Priority::High,
        file::Priority::Normal => Priority::Normal,
        file::Priority::Low => Priority::Low,
    }
}

/// Beyond that the others might as well be refused.
const WEIGHT_MAX: u32 = 1_000;
