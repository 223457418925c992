//! Wakes at exact instants. The runtime's own timers count whole milliseconds, which is more than
//! the latencies to be measured; spinning would take a core from the server.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel.
#[derive(Debug)]
pub struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// Makes the timer.
    // `AsyncFd::new` is deprecated for types that don't own their descriptor; `OwnedFd` does.
    #[allow(deprecated)]
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { timer: AsyncFd::new(timer)? })
    }

    /// Sleeps until `at`; returns at once if that has passed.
    pub async fn until(&mut self, at: Instant) -> io::Result<()> {
        let wait = at.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(wait) };
        // Setting it again also takes back an expiry that nobody has read.
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.timer.readable().await?;
            if Instant::now() >= at {
                ready.clear_ready();
                return Ok(());
            }
            // Ready from the time before.
            ready.clear_ready();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_wakes_early_and_wakes_again() {
        let mut pacer = Pacer::new().expect("a timer");
        let mut at = Instant::now();
        for _ in 0..20 {
            at += Duration::from_micros(300);
            pacer.until(at).await.expect("the timer works");
            assert!(Instant::now() >= at);
        }
        pacer.until(at).await.expect("the past is at once");
    }
}
