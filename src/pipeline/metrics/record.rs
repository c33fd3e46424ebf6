//! What becomes of one call, from its arrival to the end of its answer.

use super::{CODES, Cell, Labels, Metrics};
use crate::{
    admission::{Answered, Charge, Class, Cost, Permit, Subject},
    attribution::{Attribution, Observation},
    etcd::{
        method::{Method, Shape},
        range_response::End,
    },
    pipeline::turn::Turn,
    telemetry::CallSpan,
};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;
use tonic::Code;

/// One call, counted when it ends. A call that ends without a status was given up by its client.
#[derive(Debug)]
pub struct Record {
    metrics: Arc<Metrics>,
    method: Option<Method>,
    started: Instant,
    bytes: u64,
    /// Of the bytes, those that are in the metric.
    counted: u64,
    /// Those of the bytes that came last, where they were looked at.
    end: End,
    /// Known once the call was placed.
    cell: Option<Arc<Cell>>,
    account: Option<Account>,
    /// Its turn at etcd, if it has one that ends with the answer.
    turn: Option<Box<Turn>>,
    /// Where the call is traced.
    span: Option<Box<CallSpan>>,
}

/// Whom a call is put down to.
#[derive(Debug)]
pub struct Account {
    pub attribution: Arc<Attribution>,
    pub worker: usize,
    pub cluster: Arc<str>,
    pub subject: Subject,
    pub request_bytes: usize,
    /// How many keys it reads at most; 0 without a limit.
    pub limit: u64,
    /// What the call has cost etcd, if that is not to be told from its answer.
    pub cost: Option<Cost>,
    /// What it was charged with, if it went to etcd by itself and that is of use.
    pub charge: Option<Charge>,
    /// Time it waited for rates and stood in queues.
    pub waited: Duration,
}

impl Metrics {
    /// Begins to count a call that arrived just now.
    pub fn record(self: &Arc<Self>, method: Option<Method>) -> Record {
        Record {
            metrics: Arc::clone(self),
            method,
            started: Instant::now(),
            bytes: 0,
            counted: 0,
            end: End::default(),
            cell: None,
            account: None,
            turn: None,
            span: None,
        }
    }
}

impl Record {
    /// The call is traced by `span`, which ends with it.
    pub fn traced(&mut self, span: Option<Box<CallSpan>>) {
        self.span = span;
    }

    /// The call goes to `cluster` as one of `class`.
    pub fn placed(&mut self, class: Class, cluster: &Arc<str>) {
        let cell = self.metrics.cell(self.method, class, cluster);
        cell.open.inc();
        if let Some(before) = self.cell.replace(cell) {
            before.open.dec();
        }
    }

    /// The call is put down to `account`.
    pub fn attribute(&mut self, account: Account) {
        self.account = Some(account);
    }

    /// The account that the call is put down to, if there is one.
    pub fn account(&mut self) -> Option<&mut Account> {
        self.account.as_mut()
    }

    /// The call has its turn until its answer has ended, or its client has kept that waiting.
    pub fn in_turn(&mut self, permit: Permit) {
        self.turn = Some(Box::new(Turn::new(permit)));
    }

    /// What comes of `sending`, during which the answer waits for the client and not for etcd.
    pub(in crate::pipeline) async fn sending<T>(&mut self, sending: impl Future<Output = T>) -> T {
        match &mut self.turn {
            Some(turn) => turn.sending(sending).await,
            None => sending.await,
        }
    }

    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        // It may last for days.
        if let (true, Some(cell)) = (self.is_stream(), &self.cell) {
            cell.bytes.inc_by(self.bytes - self.counted);
            self.counted = self.bytes;
        }
    }

    /// Looks at bytes of etcd's that go on to the client.
    pub fn look(&mut self, chunk: &[u8]) {
        self.end.add(chunk);
    }

    /// The call has ended.
    pub fn end(mut self, code: Code) {
        self.count(code);
    }

    fn count(&mut self, code: Code) {
        let cell = match self.cell.take() {
            Some(cell) => {
                cell.open.dec();
                cell
            }
            // Refused before it got anywhere.
            None => self.metrics.cell(self.method, Class::Admin, &Arc::from("none")),
        };
        let account = self.account.take();
        if let Some(account) = &account {
            self.put_down(account, code);
        }
        if let Some(span) = self.span.take() {
            trace(*span, &cell.labels, account.as_ref(), code, self.bytes);
        }
        let code = code as usize;
        cell.codes[code].get_or_init(|| self.metrics.counter(&cell.labels, CODES[code])).inc();
        cell.bytes.inc_by(self.bytes - self.counted);
        if !self.is_stream() {
            let took = self.started.elapsed();
            cell.seconds.observe(took.as_secs_f64());
            cell.micros.fetch_add(took.as_micros() as u64, Relaxed);
        }
    }

    fn put_down(&self, account: &Account, code: Code) {
        let Account { attribution, worker, cluster, subject, request_bytes, limit, waited, .. } =
            account;
        let cost = self.cost(account, code);
        if let Some(charge) = &account.charge {
            charge.settle(cluster, subject, cost, self.answered(code));
        }
        attribution.observe(
            *worker,
            &Observation {
                code,
                bytes: self.bytes + *request_bytes as u64,
                took: self.started.elapsed(),
                waited: *waited,
                limit: *limit,
                stream: self.is_stream(),
                ..Observation::of(cluster, subject, cost)
            },
        );
    }

    /// What the call has cost etcd, as far as its answer tells: what was sent of it, and how many keys
    /// etcd says that there were, or that many bytes mean.
    fn cost(&self, account: &Account, code: Code) -> Cost {
        let Account { cost, charge, subject, .. } = account;
        let ranges = matches!(self.method, Some(Method::Range | Method::RangeStream));
        let told = || self.end.count().filter(|_| ranges && code == Code::Ok);
        let meant = || Some(charge.as_ref()?.keys_of(subject, self.bytes));
        let keys = || told().or_else(meant).unwrap_or_default().max(1);
        cost.unwrap_or_else(|| Cost { keys: keys(), bytes: self.bytes })
    }

    fn answered(&self, code: Code) -> Answered {
        match self.method.map(Method::shape) {
            _ if code == Code::Ok => Answered::Whole,
            _ if self.bytes == 0 && is_refusal(code) => Answered::Refused,
            Some(Shape::ServerStream) => Answered::Streamed,
            _ => Answered::Cut,
        }
    }

    fn is_stream(&self) -> bool {
        self.method.is_none_or(|method| method.shape() == Shape::Bidi)
    }
}

/// Whether it is said of the request itself, or of who makes it. With the others etcd may have tried.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::OutOfRange
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

/// Ends the span of a call. Names of keys go no further than the prefix that they share.
fn trace(mut span: CallSpan, labels: &Labels, account: Option<&Account>, code: Code, bytes: u64) {
    span.describe([
        ("seawall.class", labels.class.to_owned()),
        ("seawall.cluster", labels.cluster.clone()),
    ]);
    if let Some(Account { subject, waited, .. }) = account {
        span.describe([
            ("seawall.shape", subject.shape.as_str().to_owned()),
            ("seawall.client", subject.client.name.to_string()),
            ("seawall.prefix", subject.place.collection.escape_ascii().to_string()),
            ("seawall.waited", format!("{waited:?}")),
        ]);
    }
    span.end(code, bytes);
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.cell.is_some() {
            self.count(Code::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{Config, Limit, Protection, Rate, Rule, Shape},
        attribution,
        etcd::proto::etcdserverpb::{RangeResponse, ResponseHeader},
    };
    use prometheus_client::registry::Registry;
    use prost::Message;

    const ATTRIBUTION: attribution::Config = attribution::Config {
        entries: 10,
        slow: Duration::MAX,
        heavy_bytes: u64::MAX,
        log_per_minute: 0,
        trace: None,
    };

    /// Has `answer` sent for a list, ends like this, and tells what the next list is charged with and
    /// how long it waits, at one unit in each millisecond.
    async fn listed(
        method: Method,
        sent: usize,
        answer: &[u8],
        code: Option<Code>,
    ) -> (Cost, u128) {
        let cost = Some(Rate { count: 1_000, period: Duration::from_secs(1) });
        let limit = Limit { cost, burst: Duration::ZERO, ..Rule::fixture().limit };
        let rules = vec![Rule { limit, ..Rule::fixture() }];
        let protection =
            Protection::new(Config { rules, ..Config::fixture() }, &mut Default::default());
        let cluster = Arc::from("main");
        let gate = protection.gate(&cluster);
        let (shape, class) = (Shape::List, Class::HeavyList);
        let subject = Subject { shape, class, ..Subject::fixture("/registry/pods/") };
        let enter = async || {
            let plan = protection.plan(&gate, &subject, None).await.expect("a plan");
            protection.enter(&gate, &subject, &plan, None).await.expect("a turn")
        };
        let mut registry = Registry::default();
        let mut record = Arc::new(Metrics::register(&mut registry)).record(Some(method));
        record.placed(class, &cluster);
        record.attribute(Account {
            attribution: Attribution::new(ATTRIBUTION, 1, &mut registry),
            worker: 0,
            cluster: Arc::clone(&cluster),
            subject: subject.clone(),
            request_bytes: 0,
            limit: 0,
            cost: None,
            charge: enter().await.take_charge(&protection, &subject),
            waited: Duration::ZERO,
        });
        record.look(answer);
        record.add_bytes(sent);
        match code {
            Some(code) => record.end(code),
            None => drop(record),
        }
        let next = enter().await;
        (next.estimate(), next.waited.as_millis())
    }

    /// Lists that were passed on as they came were charged with what was assumed of any list, however
    /// much they brought.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_passed_on_is_charged_with_what_it_was() {
        let header = Some(ResponseHeader { revision: 300, raft_term: 7, ..Default::default() });
        let answer = RangeResponse { header, count: 9_000, ..Default::default() }.encode_to_vec();
        let bytes = 40_000_000;
        let whole = listed(Method::Range, bytes, &answer, Some(Code::Ok)).await;
        assert_eq!(whole, (Cost { keys: 9_000, bytes: bytes as u64 }, 410));
        // As many keys as are common in so many bytes.
        let keys = 19_073;
        let left = listed(Method::Range, bytes, &answer, None).await;
        assert_eq!(left, (Cost { keys, bytes: bytes as u64 }, 421));
        let streamed = listed(Method::RangeStream, bytes, &answer, Some(Code::Unavailable)).await;
        assert_eq!(streamed, left);
    }

    /// etcd has read all of it, where it does not stream it.
    #[tokio::test(start_paused = true)]
    async fn leaving_early_makes_a_list_no_cheaper() {
        let assumed = Cost { keys: 1_000, bytes: 2 << 20 };
        for (method, waited) in [(Method::Range, 23), (Method::RangeStream, 2)] {
            assert_eq!(listed(method, 10_000, &[], None).await, (assumed, waited), "{method:?}");
        }
    }

    /// Who continues a list at a compacted revision, again and again, used up what its lists may cost.
    #[tokio::test(start_paused = true)]
    async fn what_etcd_refuses_at_once_has_cost_it_a_call() {
        for code in [Code::OutOfRange, Code::PermissionDenied, Code::InvalidArgument] {
            let (_, waited) = listed(Method::Range, 0, &[], Some(code)).await;
            assert_eq!(waited, 1, "{code:?}");
        }
        let (_, waited) = listed(Method::Range, 0, &[], Some(Code::Unavailable)).await;
        assert_eq!(waited, 23, "it may have tried");
        let (_, waited) = listed(Method::Range, 10_000, &[], Some(Code::OutOfRange)).await;
        assert_eq!(waited, 23, "it has read what it sends");
    }

    /// What had been counted of a cluster stayed when a reload had taken it out.
    #[test]
    fn nothing_is_shown_of_a_cluster_that_is_gone() {
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        let shown = |cluster: &str| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text.lines().filter(|line| line.contains(&format!("cluster=\"{cluster}\""))).count()
        };
        let call = |cluster: &str| {
            let mut call = metrics.record(Some(Method::Range));
            call.placed(Class::PointRead, &Arc::from(cluster));
            call
        };
        for cluster in ["main", "gone"] {
            call(cluster).end(Code::Ok);
        }
        let open = call("gone");
        let (main, gone) = (shown("main"), shown("gone"));
        assert!(main > 0 && gone == main);
        metrics.forget("gone");
        open.end(Code::Unavailable);
        assert_eq!((shown("main"), shown("gone")), (main, 0));
        assert!(metrics.totals().iter().all(|total| total.cluster == "main"));
        call("gone").end(Code::Ok);
        assert_eq!(shown("gone"), gone, "another of that name");
    }

    /// A dashboard showed what a watch had sent for hours as sent in the second in which it ended.
    #[test]
    fn what_a_stream_sends_is_counted_while_it_lasts() {
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let sent = || metrics.totals().iter().map(|total| total.bytes).sum::<u64>();
        let mut watch = metrics.record(Some(Method::Watch));
        watch.placed(Class::Watch, &Arc::from("main"));
        watch.add_bytes(100);
        assert_eq!(sent(), 100);
        watch.add_bytes(20);
        watch.end(Code::Ok);
        assert_eq!(sent(), 120);
    }
}
