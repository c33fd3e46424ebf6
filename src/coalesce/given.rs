use tokio_util::sync::CancellationToken;

/// Goes with what is given to several, and tells when none of them has it any more.
#[derive(Debug, Default)]
pub struct Given(CancellationToken);

impl Given {
    /// Resolves when it was dropped.
    pub fn to_all(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.clone().cancelled_owned()
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
