use anyhow::Result;
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use std::os::fd::AsFd;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    time::{Instant, sleep_until},
};

/// How exactly operations begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// With tokio's timers, which are up to two milliseconds late.
    Milliseconds,
    /// With one of the kernel's. What it is late by is the machine's.
    Microseconds,
}

/// Wakes whoever paces operations.
pub(super) enum Alarm {
    Tokio,
    Kernel {
        timer: TimerFd,
        /// The same timer, which reads like a pipe: eight bytes when it has expired.
        expired: pipe::Receiver,
    },
}

impl Alarm {
    pub(super) fn new(precision: Precision) -> Result<Self> {
        Ok(match precision {
            Precision::Milliseconds => Self::Tokio,
            Precision::Microseconds => {
                let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
                let same = timer.as_fd().try_clone_to_owned()?;
                Self::Kernel { timer, expired: pipe::Receiver::from_owned_fd_unchecked(same)? }
            }
        })
    }

    pub(super) async fn at(&mut self, time: Instant) -> Result<()> {
        match self {
            Self::Tokio => sleep_until(time).await,
            Self::Kernel { timer, expired } => {
                let left = time.saturating_duration_since(Instant::now());
                // Zero would disarm it.
                if !left.is_zero() {
                    let left = Expiration::OneShot(TimeSpec::from_duration(left));
                    timer.set(left, TimerSetTimeFlags::empty())?;
                    expired.read_u64().await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn it_never_wakes_early_and_always_again() -> Result<()> {
        for precision in [Precision::Milliseconds, Precision::Microseconds] {
            let mut alarm = Alarm::new(precision)?;
            for millis in [3, 0, 5] {
                let time = Instant::now() + Duration::from_millis(millis);
                alarm.at(time).await?;
                assert!(Instant::now() >= time);
            }
        }
        Ok(())
    }
}
