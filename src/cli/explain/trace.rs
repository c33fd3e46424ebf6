//! What the rules of a configuration would have made of calls that were recorded.

use super::table;
use crate::{
    admission::{
        Bucket, Class, Client, Cost, Explanation, Limit, Mode, Per, Place, Protection, Rule, Shape,
        Subject,
    },
    attribution::{TraceLine, read_trace},
    cli::Failure,
    config::Loaded,
    etcd::{key_range::KeyRange, method::Method},
    routing::{Located, Table},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

/// A line for each rule, and one for each shape of calls.
pub(super) fn summary(
    loaded: &Loaded,
    protection: &Protection,
    path: &Path,
    text: &str,
) -> Result<String, Failure> {
    let mut calls = read_trace(path, text).map_err(Failure::Usage)?;
    // Rules are about watches that begin.
    calls.retain(|call| !call.ended);
    let listeners = &loaded.settings.listeners;
    let listener =
        listeners.first().ok_or_else(|| Failure::Usage("there is no listener".into()))?;
    let table = table(listener)?;
    let mut trial = Trial::default();
    for (index, call) in calls.iter().enumerate() {
        let subject = subject(call).ok_or_else(|| {
            let text = format!("{}: call {} is of no known kind", path.display(), index + 1);
            Failure::Usage(text)
        })?;
        let cluster = cluster(&table, &subject);
        let explanation = protection.explain(&subject, cluster);
        let at = Duration::from_micros(call.at_us);
        let cost = Cost { keys: call.keys, bytes: call.bytes }.units();
        trial.try_all(&explanation, &subject, at, cost);
    }
    let clients: BTreeSet<_> = calls.iter().map(|call| &call.client).collect();
    let seconds = calls.last().map_or(0.0, |last| last.at_us as f64 / 1e6);
    let mut lines = vec![
        format!("{} calls of {} clients in {seconds:.1} s", calls.len(), clients.len()),
        String::new(),
    ];
    lines.extend(trial.lines());
    lines.push(String::new());
    lines.push(
        "Rates are tried at the times of the record. What depends on how quickly etcd answers, such as \
         queues and limits of concurrency, is not."
            .into(),
    );
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// The first of those that hold its keys.
fn cluster<'t>(table: &'t Table<String>, subject: &Subject) -> &'t str {
    let keys = subject.keys.clone().unwrap_or_else(|| KeyRange::single(Bytes::new()));
    match table.locate(&keys) {
        Located::One(cluster) => cluster,
        Located::Several(segments) => segments.first().map_or("", |segment| segment.cluster),
    }
}

/// None if the record is of another version, or no record.
fn subject(call: &TraceLine) -> Option<Subject> {
    let shape = Shape::ALL.iter().find(|shape| shape.as_str() == call.shape)?;
    let class = Class::ALL.iter().find(|class| class.as_str() == call.class)?;
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let keys = KeyRange::of(bytes(&call.key), bytes(&call.range_end));
    let keys = Some(keys).filter(|_| !call.key.is_empty());
    let address = call.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Some(Subject {
        method: Method::ALL.iter().copied().find(|method| method.name() == call.method),
        shape: *shape,
        class: *class,
        place: keys.as_ref().map(Place::of).unwrap_or_default(),
        keys,
        others: Vec::new(),
        client: Arc::new(Client { name: call.client.as_str().into(), address }),
        value_size: call.value_bytes,
    })
}

/// What has become of the calls so far.
#[derive(Default)]
struct Trial {
    rules: BTreeMap<String, Tried>,
    shapes: BTreeMap<&'static str, Counts>,
}

/// A rule, and how much of its rates is used up.
struct Tried {
    mode: Mode,
    counts: Counts,
    limits: HashMap<Flow, Buckets>,
}

/// What each limit of a rule is told apart by.
type Flow = (Option<Arc<Client>>, Option<Bytes>, Option<Option<Bytes>>);

struct Buckets {
    requests: Option<Bucket>,
    cost: Option<Bucket>,
    creates: Option<Bucket>,
}

#[derive(Default)]
struct Counts {
    calls: u64,
    waited: u64,
    longest: Duration,
    refused: u64,
}

/// What a rule would have done to a call.
enum Outcome {
    Passes,
    Waits(Duration),
    Refused,
}

impl Trial {
    fn try_all(&mut self, explanation: &Explanation, subject: &Subject, at: Duration, cost: f64) {
        let mut worst = Outcome::Passes;
        for matched in &explanation.rules {
            let tried = self.rules.entry(matched.rule().name.clone()).or_insert_with(|| Tried {
                mode: matched.mode,
                counts: Counts::default(),
                limits: HashMap::new(),
            });
            let outcome = match matched.refusal {
                Some(_) => Outcome::Refused,
                None => tried.take(matched.rule(), subject, at, cost),
            };
            tried.counts.add(&outcome);
            worst = worst.or(outcome);
        }
        self.shapes.entry(subject.shape.as_str()).or_default().add(&worst);
    }

    fn lines(&self) -> Vec<String> {
        let head = ["rule", "calls", "wait", "at most", "refused"];
        let line = |[name, calls, waited, longest, refused]: [&str; 5]| {
            format!("{name:<32}{calls:>10}{waited:>10}{longest:>12}{refused:>10}")
        };
        let counted = |name: String, counts: &Counts| {
            let Counts { calls, waited, longest, refused } = counts;
            let [calls, waited, refused] = [calls, waited, refused].map(u64::to_string);
            line([&name, &calls, &waited, &format!("{}ms", longest.as_millis()), &refused])
        };
        let mut lines = vec![line(head)];
        for (name, Tried { mode, counts, .. }) in &self.rules {
            let mode = if *mode == Mode::Enforce { "" } else { " (not enforced)" };
            lines.push(counted(format!("{name}{mode}"), counts));
        }
        if self.rules.is_empty() {
            lines.push("  no rule matches any of them".into());
        }
        lines.push(String::new());
        lines.push(line(["shape", head[1], head[2], head[3], head[4]]));
        lines.extend(self.shapes.iter().map(|(shape, counts)| counted((*shape).into(), counts)));
        lines
    }
}

impl Tried {
    fn take(&mut self, rule: &Rule, subject: &Subject, at: Duration, cost: f64) -> Outcome {
        let limit = &rule.limit;
        let of = |per| limit.per.contains(&per);
        let flow = (
            of(Per::Client).then(|| Arc::clone(&subject.client)),
            of(Per::Collection).then(|| subject.place.collection.clone()),
            of(Per::Namespace).then(|| subject.place.namespace.clone()),
        );
        let buckets = self.limits.entry(flow).or_insert_with(|| Buckets::new(limit));
        let creates = buckets.creates.as_ref().filter(|_| subject.may_create());
        let charged = [(&buckets.requests, 1.0), (&buckets.cost, cost)];
        let charged =
            charged.into_iter().filter_map(|(bucket, units)| Some((bucket.as_ref()?, units)));
        // Nobody waits to watch: the other watches of the stream would wait, too.
        let wait_max = if subject.shape == Shape::Watch { Duration::ZERO } else { limit.wait_max };
        let mut longest = Duration::ZERO;
        for (bucket, units) in charged.chain(creates.map(|bucket| (bucket, 1.0))) {
            match bucket.take_at(at, units, wait_max) {
                Ok(wait) => longest = longest.max(wait),
                Err(_) => return Outcome::Refused,
            }
        }
        if longest.is_zero() { Outcome::Passes } else { Outcome::Waits(longest) }
    }
}

impl Buckets {
    fn new(limit: &Limit) -> Self {
        let bucket = |rate| Bucket::new(rate, limit.burst);
        Self {
            requests: limit.requests.map(bucket),
            cost: limit.cost.map(bucket),
            creates: limit.creates.map(bucket),
        }
    }
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        self.calls += 1;
        match outcome {
            Outcome::Passes => {}
            Outcome::Waits(wait) => {
                self.waited += 1;
                self.longest = self.longest.max(*wait);
            }
            Outcome::Refused => self.refused += 1,
        }
    }
}

impl Outcome {
    /// The one that is worse for the call.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Refused, _) | (_, Self::Refused) => Self::Refused,
            (Self::Waits(one), Self::Waits(other)) => Self::Waits(one.max(other)),
            (Self::Waits(wait), Self::Passes) | (Self::Passes, Self::Waits(wait)) => {
                Self::Waits(wait)
            }
            (Self::Passes, Self::Passes) => Self::Passes,
        }
    }
}
