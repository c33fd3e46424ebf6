//! The data threads. Each runs a scheduler of its own and serves whole connections on upstream
//! connections of its own, so that a call crosses no thread on its way.

use futures_util::future::join_all;
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::{Instant, sleep},
};

/// The data threads of the process. Dropping them ends what runs on them.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    threads: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// One data thread.
#[derive(Debug)]
pub struct Worker {
    /// Its connections to etcd are found under this number; 0 is the control thread's.
    pub index: usize,
    pub handle: Handle,
    /// Client connections it serves.
    load: Arc<AtomicUsize>,
    /// Since when it is to run something of ours, until it has. Held for moments.
    asked: Arc<Mutex<Option<Instant>>>,
}

/// How often threads are asked for a turn. What is looked for takes many times as long.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Counts a connection for as long as it is kept.
#[derive(Debug)]
pub struct Load(Arc<AtomicUsize>);

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut this = Self { workers: Vec::new(), threads: Vec::new() };
        for index in 1..=count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (stop, stopped) = oneshot::channel();
            let handle = runtime.handle().clone();
            // Ends when `stop` is dropped.
            let thread = thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                let _ = runtime.block_on(stopped);
            })?;
            let (load, asked) = Default::default();
            this.workers.push(Worker { index, handle, load, asked });
            this.threads.push((stop, thread));
        }
        Ok(this)
    }

    /// The thread that serves the fewest connections, and its count raised by one.
    pub fn least_loaded(&self) -> (&Worker, Load) {
        let least = self.workers.iter().min_by_key(|worker| worker.load.load(Relaxed));
        let worker = least.unwrap_or(&self.workers[0]);
        worker.load.fetch_add(1, Relaxed);
        (worker, Load(Arc::clone(&worker.load)))
    }

    /// The data threads.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// Keeps asking the threads for turns, for [`Worker::late`] to tell. Ends when it is dropped.
    pub async fn ask(&self) {
        loop {
            self.workers.iter().for_each(|worker| worker.ask(Instant::now()));
            sleep(ASK_INTERVAL).await;
        }
    }

    /// Returns when every thread has run something: not while one of them is stuck.
    pub async fn turned(&self) {
        join_all(self.workers.iter().map(|worker| worker.handle.spawn(async {}))).await;
    }
}

impl Worker {
    /// How long the thread has been running one thing only.
    pub fn late(&self, now: Instant) -> Duration {
        let asked = *self.asked.lock();
        asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked))
    }

    /// Asks for a turn, unless one is waited for already.
    fn ask(&self, now: Instant) {
        let mut asked = self.asked.lock();
        if asked.is_none() {
            *asked = Some(now);
            let asked = Arc::clone(&self.asked);
            self.handle.spawn(async move { *asked.lock() = None });
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (stop, thread) in self.threads.drain(..) {
            drop(stop);
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::{pin::pin, sync::mpsc::sync_channel};

    #[tokio::test]
    async fn has_not_turned_while_a_thread_is_stuck() {
        let workers = Workers::start(2).expect("two threads");
        let (release, stuck) = sync_channel::<()>(0);
        workers.workers[0].handle.spawn(async move { stuck.recv() });
        let mut turning = pin!(workers.turned());
        assert!(turning.as_mut().now_or_never().is_none());
        // Behind what `turned` gave the other thread to run.
        workers.workers[1].handle.spawn(async {}).await.expect("it runs");
        assert!(turning.as_mut().now_or_never().is_none());
        release.send(()).expect("it waits");
        turning.await;
    }

    #[tokio::test]
    async fn a_thread_that_is_stuck_is_late_and_the_others_are_not() {
        let workers = Workers::start(2).expect("two threads");
        let (release, stuck) = sync_channel::<()>(0);
        workers.workers[0].handle.spawn(async move { stuck.recv() });
        let began = Instant::now();
        // Behind what a thread was asked, and what it did before.
        let turn = async |index: usize| {
            workers.workers[index].handle.spawn(async {}).await.expect("it runs");
        };
        let ask = |seconds| {
            let now = began + Duration::from_secs(seconds);
            workers.workers.iter().for_each(|worker| worker.ask(now));
            now
        };
        ask(0);
        turn(1).await;
        let now = ask(12);
        turn(1).await;
        let late =
            |now| workers.iter().map(|worker| worker.late(now).as_secs()).collect::<Vec<_>>();
        assert_eq!(late(now), [12, 0]);
        release.send(()).expect("it waits");
        turn(0).await;
        assert_eq!(late(ask(20)), [0, 0]);
    }
}
