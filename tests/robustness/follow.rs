//! Follows each etcd itself, from its first revision to its last.

use crate::{
    client::DEADLINE,
    history::{Event, Owner, Range, Recorder, Via},
    map::Map,
    truth::Truth,
    watching::{News, Wanted, Watching},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// What is known so far of one cluster.
#[derive(Debug)]
pub(crate) struct Followed {
    revision: AtomicI64,
    /// Held for moments, never over an await.
    truth: Mutex<Truth>,
    task: Mutex<Option<JoinHandle<Result<()>>>>,
}

/// A member that says nothing for so long is left for another.
const SILENCE_MAX: Duration = Duration::from_secs(1);

impl Followed {
    pub(crate) fn start(owner: Owner, map: &Arc<Map>, recorder: &Arc<Recorder>) -> Arc<Self> {
        let this = Arc::new(Self {
            revision: AtomicI64::new(1),
            truth: Mutex::default(),
            task: Mutex::default(),
        });
        let (map, recorder) = (Arc::clone(map), Arc::clone(recorder));
        let task = tokio::spawn(Arc::clone(&this).follow(owner, map, recorder));
        *this.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        this
    }

    /// The newest revision of which all is known.
    pub(crate) fn revision(&self) -> i64 {
        self.revision.load(SeqCst)
    }

    /// All that happened up to a revision, once it is known.
    pub(crate) async fn up_to(&self, revision: i64) -> Result<Truth> {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut task = task.context("it was taken before")?;
        let known = async {
            while self.revision() < revision {
                ensure!(!task.is_finished(), "{:?}", (&mut task).await);
                sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        };
        timeout(DEADLINE, known).await.with_context(|| {
            format!("etcd has told up to {}, and is at {revision}", self.revision())
        })??;
        task.abort();
        Ok(std::mem::take(&mut self.truth.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Member after member, until it is stopped.
    async fn follow(
        self: Arc<Self>,
        owner: Owner,
        map: Arc<Map>,
        recorder: Arc<Recorder>,
    ) -> Result<()> {
        let everything = Range { key: "\0".to_owned(), end: "\0".to_owned() };
        for turn in 0.. {
            let wanted = Wanted {
                range: everything.clone(),
                start_revision: self.revision() + 1,
                prev_kv: false,
                deletes: true,
            };
            let opening = Watching::open(&map, Via::Direct, owner, turn, &wanted);
            if let Ok(Ok(watching)) = timeout(SILENCE_MAX, opening).await {
                self.hear(watching, &recorder).await?;
            } else {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Until the member says nothing more.
    async fn hear(&self, mut watching: Watching, recorder: &Recorder) -> Result<()> {
        let mut asked = false;
        loop {
            match timeout(SILENCE_MAX, watching.next()).await {
                Ok(Ok(News::Told(header, events))) => {
                    asked = false;
                    self.add(header.cluster_id, recorder.now(), events);
                }
                Ok(Ok(News::Compacted)) => bail!("what is not known yet was compacted"),
                Err(_) if !asked => {
                    asked = true;
                    watching.ask_progress()?;
                }
                Ok(Err(_)) | Err(_) => return Ok(()),
            }
        }
    }

    fn add(&self, cluster_id: u64, at: u64, events: Vec<Event>) {
        let mut truth = self.truth.lock().unwrap_or_else(PoisonError::into_inner);
        truth.cluster_id = cluster_id;
        truth.add(at, events);
        self.revision.store(truth.revision, SeqCst);
    }
}
