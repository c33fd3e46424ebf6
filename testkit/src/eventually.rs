use anyhow::{Result, anyhow};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Repeats `condition` until it is `Ok` and returns its value.
///
/// # Errors
///
/// When `deadline` has passed: says what was awaited and why the last attempt failed.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = anyhow!("the first attempt has not ended");
    while Instant::now() < end {
        match timeout_at(end, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => break,
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(last.context(format!("not within {deadline:?}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[tokio::test(start_paused = true)]
    async fn repeats_until_the_condition_holds() -> Result<()> {
        let mut attempts = 0;
        let value = eventually(Duration::from_secs(5), "three attempts", async || {
            attempts += 1;
            ensure!(attempts == 3, "only {attempts}");
            Ok("done")
        })
        .await?;
        assert_eq!((value, attempts), ("done", 3));
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_with_the_last_reason() {
        let deadline = Duration::from_secs(5);
        let result: Result<()> =
            eventually(deadline, "the impossible", async || Err(anyhow!("still not"))).await;
        let text = format!("{:#}", result.expect_err("the condition never holds"));
        assert_eq!(text, "not within 5s: the impossible: still not");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_an_attempt_that_hangs() {
        let result: Result<()> =
            eventually(Duration::from_secs(5), "a hanging attempt", std::future::pending).await;
        assert!(result.is_err());
    }
}
