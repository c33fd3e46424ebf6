use anyhow::{Context, Result};
use std::thread;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// A thread with a scheduler of its own, so that what is timed there waits behind nothing that this
/// client does otherwise. It ends with this value, and its tasks with it.
#[derive(Debug)]
pub(crate) struct Apart {
    handle: Handle,
    /// Dropped to end the thread.
    _stop: oneshot::Sender<()>,
}

impl Apart {
    /// `name` is that of the thread.
    pub(crate) fn start(name: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new()
            .name(name.to_owned())
            // What it hears is that the sender is gone.
            .spawn(move || runtime.block_on(stopped).ok())
            .context("starting a thread")?;
        Ok(Self { handle, _stop: stop })
    }

    /// Runs `work` there. It goes on, until the thread ends, if this future is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.handle.spawn(work).await?
    }

    /// Runs `work` there until it or the thread ends.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }
}
