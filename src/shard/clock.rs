//! Timers: the pump's alarm, which wakes it at the engine's next deadline, and [`breathe`].
//!
//! One runtime timer per shard, armed again only when an earlier deadline comes up: an alarm that
//! rings too early costs one look at the clock, arming for each sleep would cost more.
//!
//! The runtime looks at I/O only when no task is ready (or after 100 ms). So a task that has more
//! to do does not just yield: it breathes, which lets the runtime look. A shorter preemption would
//! do that too, but has a defect: if it strikes before the first task of a round runs, the runtime
//! goes to sleep with tasks ready, until anything at all happens. What can sleep without an alarm
//! therefore has a [`pulse`].

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use glommio::timer::{Timer, sleep};

use crate::base::time::Now;

/// Longest sleep: a wall clock that is stepped ahead is noticed after this long, us.
const LONGEST_US: u64 = 250_000;
/// Time between two beats of a pulse, ms.
const PULSE_MS: u64 = 50;

/// Lets all other tasks run and the runtime look at I/O, then goes on.
pub(super) async fn breathe() {
    sleep(Duration::from_micros(1)).await;
}

/// Wakes the runtime now and then, for as long as it is polled.
pub(super) async fn pulse() {
    loop {
        sleep(Duration::from_millis(PULSE_MS)).await;
    }
}

/// An alarm of one task.
pub(super) struct Alarm {
    timer: Option<Timer>,
    /// Boot time at which the timer rings, us.
    armed: u64,
}

impl Alarm {
    /// An alarm that is not armed.
    pub(super) fn new() -> Self {
        Self { timer: None, armed: 0 }
    }

    /// When to wake at the latest, boot time in us.
    pub(super) fn wake_at(now: Now, deadline: Option<u64>) -> u64 {
        let latest = now.boot_us + LONGEST_US;
        deadline.map_or(latest, |deadline| deadline.min(latest))
    }

    /// Makes sure that the task of `cx` is woken at `at` (boot time in us), or before.
    pub(super) fn arm(&mut self, now: Now, at: u64, cx: &mut Context<'_>) {
        let rings = self.timer.is_some() && self.armed > now.boot_us;
        if rings && self.armed <= at {
            return;
        }
        self.armed = at.max(now.boot_us + 1);
        // The runtime's timer registers anew with each poll: one timer, one poll.
        let mut timer = Timer::new(Duration::from_micros(self.armed - now.boot_us));
        if Pin::new(&mut timer).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.timer = Some(timer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_sleep_is_bounded() {
        let now = Now { wall_us: 0, boot_us: 1_000 };
        assert_eq!(Alarm::wake_at(now, None), 251_000);
        assert_eq!(Alarm::wake_at(now, Some(5_000_000)), 251_000);
        assert_eq!(Alarm::wake_at(now, Some(1_500)), 1_500);
    }
}
