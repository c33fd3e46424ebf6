//! The stream to a cluster for those watchers that memory could serve, and how they come back from it.

use std::time::Duration;
use tokio::time::Instant;

/// How long etcd has to say how far the watchers are. It does not while one of them is behind.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What is known of such a stream beside its watchers.
///
/// ```text
/// Staying --etcd is asked how far all are--> Due --it has answered--> Left
///    ^                                        |
///    `--a request goes there, or no answer ---'
/// ```
///
/// All watchers of the stream come back at once. The task that relays it makes the cut, under the lock
/// that the ids have, with the message in its hands in which etcd says that all have been sent
/// everything up to a revision; behind that message nothing is relayed any more, and the stream is
/// dropped. So a watcher has seen everything up to that revision and nothing after it, and no
/// revision and no fragments are torn apart. What could go wrong otherwise:
///
/// - *The answer is from before a watcher was created*, since created answers overtake it. It counts
///   for a watcher only beyond the revision that etcd had once that was created.
/// - *An answer to the client gets lost with the stream.* A request that creates or cancels takes
///   `Due` back before it is sent, and while a cancel is not answered there is no cut. Requests for
///   progress may get lost, as they may at etcd.
/// - *The client cancels between the cut and its place in memory.* The watcher is nowhere then: it is
///   taken out of those that return, or has no place when its turn comes, and the task of memory answers.
/// - *The client asks how far all are, and memory answers before the watcher has its place there.* It is
///   on its way until the task of memory seats it, and so the answer is about the others alone.
/// - *etcd has cancelled one of them.* It does not come back, and its id stays taken.
/// - *The id goes to etcd again, where there is something left of it.* etcd keeps what it did not send
///   before a cancel for the next watcher of that id on the stream. This is why nothing is cancelled
///   and the stream is dropped: who has no place in memory goes on, as those who leave it, on another.
/// - *The store is another one by then.* The cut remembers store and revision, and the answer to the
///   read that comes before the place in memory must be of that store and no older.
///
/// Those that cannot come back never are on such a stream, but for one whose id is being cancelled
/// there: that keeps the others.
#[derive(Debug, Default)]
pub(super) struct Away {
    parting: Parting,
    progress: Progress,
}

#[derive(Debug, Default)]
enum Parting {
    #[default]
    Staying,
    Due {
        until: Instant,
    },
    Left,
}

/// Whom the next answer about all watchers is for.
#[derive(Debug, Default)]
enum Progress {
    /// Nobody who is known to have asked.
    #[default]
    Any,
    /// Seawall alone.
    Ours,
    /// The client as well.
    Clients,
}

impl Away {
    /// Seawall asks how far all watchers are, in order to have them leave.
    pub(super) fn ask(&mut self, now: Instant) {
        self.parting = Parting::Due { until: now + ANSWER_MAX };
        if !matches!(self.progress, Progress::Clients) {
            self.progress = Progress::Ours;
        }
    }

    /// The client asks that, too.
    pub(super) fn client_asks(&mut self) {
        self.progress = Progress::Clients;
    }

    /// etcd has answered. Whether that is for the client.
    pub(super) fn answered(&mut self) -> bool {
        !matches!(std::mem::take(&mut self.progress), Progress::Ours)
    }

    /// Whether all leave with the answer.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(self.parting, Parting::Due { until } if now < until)
    }

    pub(super) fn leave(&mut self) {
        self.parting = Parting::Left;
    }

    pub(super) fn has_left(&self) -> bool {
        matches!(self.parting, Parting::Left)
    }

    /// Keeps the stream for a request, unless it is too late for that.
    pub(super) fn hold(&mut self) {
        if let Parting::Due { .. } = self.parting {
            self.parting = Parting::Staying;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_hears_of_what_it_may_have_asked_for() {
        let mut away = Away::default();
        assert!(away.answered());
        away.ask(Instant::now());
        assert!(!away.answered());
        for ours_first in [true, false] {
            if ours_first {
                away.ask(Instant::now());
            }
            away.client_asks();
            away.ask(Instant::now());
            assert!(away.answered());
        }
    }

    #[test]
    fn a_request_keeps_the_stream_and_an_old_answer_does_not_end_it() {
        let (mut away, now) = (Away::default(), Instant::now());
        away.ask(now);
        assert!(away.is_due(now) && !away.is_due(now + ANSWER_MAX));
        away.hold();
        assert!(!away.is_due(now));
        away.leave();
        away.hold();
        assert!(away.has_left());
    }
}
