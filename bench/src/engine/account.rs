use super::truth::Fact;
use std::ops::Range;

/// What one watcher has heard.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// Of revisions whose events it was to hear, each with its end; the last goes on.
    spans: Vec<Range<i64>>,
    pub(super) next: i64,
    count: u64,
    /// Of all events in any order.
    hash: u64,
}

impl Account {
    /// One that hears everything from a revision on.
    pub(super) fn new(next: i64) -> Self {
        Self { spans: std::iter::once(next..i64::MAX).collect(), next, count: 0, hash: 0 }
    }

    pub(super) fn hear(&mut self, fact: &Fact) {
        self.count += 1;
        self.hash ^= fact.hash;
    }

    /// What it should have heard and did not, or heard otherwise.
    pub(super) fn differs(&self, facts: &[&Fact]) -> Option<(&'static str, u64)> {
        let (mut count, mut hash) = (0, 0);
        for fact in
            facts.iter().filter(|fact| self.spans.iter().any(|s| s.contains(&fact.revision)))
        {
            count += 1;
            hash ^= fact.hash;
        }
        match self.count {
            less if less < count => Some(("events that did not come", count - less)),
            more if more > count => Some(("events that came twice", more - count)),
            _ if self.hash != hash => Some(("events that are not etcd's", 1)),
            _ => None,
        }
    }

    /// It goes on from a list at this revision, and was not to hear what happened before.
    pub(super) fn relisted(&mut self, revision: i64) {
        let next = self.next;
        if let Some(span) = self.spans.last_mut() {
            span.end = next;
        }
        self.next = self.next.max(revision + 1);
        self.spans.push(self.next..i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<Fact> {
        let fact =
            |revision: i64| Fact { revision, key: "/registry/pods/a".into(), hash: 1 << revision };
        (5..10).map(fact).collect()
    }

    fn heard(start: i64, revisions: &[i64]) -> Option<(&'static str, u64)> {
        let (facts, mut account) = (facts(), Account::new(start));
        for &revision in revisions {
            account.hear(facts.iter().find(|fact| fact.revision == revision).expect("it happened"));
        }
        account.differs(&facts.iter().collect::<Vec<_>>())
    }

    #[test]
    fn lost_and_doubled_events_come_out_as_such() {
        assert_eq!(heard(5, &[5, 6, 7, 8, 9]), None);
        assert_eq!(heard(7, &[7, 8, 9]), None);
        assert_eq!(heard(5, &[5, 6, 8, 9]), Some(("events that did not come", 1)));
        assert_eq!(heard(5, &[5, 6, 6, 7, 8, 9]), Some(("events that came twice", 1)));
        assert_eq!(heard(5, &[5, 6, 6, 8, 9]), Some(("events that are not etcd's", 1)));
    }

    #[test]
    fn what_a_list_has_shown_is_not_missed() {
        let facts = facts();
        let mut account = Account::new(5);
        account.hear(&facts[0]);
        account.next = 6;
        // 6 and 7 were in the list.
        account.relisted(7);
        facts[3..].iter().for_each(|fact| account.hear(fact));
        assert_eq!(account.differs(&facts.iter().collect::<Vec<_>>()), None);
    }
}
