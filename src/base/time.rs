//! Time as an argument: what the clocks read at the start of a step.
//!
//! Only drivers call [`Now::read`]; the engine is handed a [`Now`] and never looks at a clock.
//! `wall` may step in either direction at any moment, `boot` only grows (and counts suspend).

use rustix::time::{ClockId, clock_gettime};

/// The readings of both clocks, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_REALTIME`, microseconds since 1970. Decides what is due, nothing else.
    pub wall_us: u64,
    /// `CLOCK_BOOTTIME`, microseconds. Leases, backoff and timeouts count in it.
    pub boot_us: u64,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self { wall_us: micros(ClockId::Realtime), boot_us: micros(ClockId::Boottime) }
    }

    /// The wall clock in whole milliseconds, rounded down: an event is due from
    /// `wall_ms() >= schedule_ts` on, so rounding down never makes it early.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.wall_us / 1_000
    }

    /// Boot time in whole milliseconds, rounded down.
    #[must_use]
    pub fn boot_ms(&self) -> u64 {
        self.boot_us / 1_000
    }
}

/// The wall clock alone, in milliseconds, for the guard in front of a socket write.
#[must_use]
pub fn wall_ms() -> u64 {
    micros(ClockId::Realtime) / 1_000
}

fn micros(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    // A clock before 1970 is read as 1970: everything waits, nothing fires early.
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000
}
