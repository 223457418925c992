//! The pump's alarm: wakes it at the engine's next deadline.
//!
//! One runtime timer per shard, armed again only when an earlier deadline comes up: an alarm that
//! rings too early costs one look at the clock, arming for each sleep would cost more.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use glommio::timer::Timer;

use crate::base::time::Now;

/// Longest sleep: a wall clock that is stepped ahead is noticed after this long, us.
const LONGEST_US: u64 = 250_000;

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
