//! Log time: the stamp of every entry, which a stepping wall clock can't poison.
//!
//! `append_ts = max(previous, min(wall, previous + boot time elapsed since + 1 s))`. A wall clock
//! that jumps a year ahead moves log time by seconds; one that jumps back stops it until the wall
//! has caught up. Only the first stamp after a start may jump to the wall.
//!
//! Must hold: stamps never decrease.

use crate::base::time::Now;

/// How much faster than boot time log time may run, so that it catches up with a corrected clock.
const SLACK_MS: u64 = 1_000;
/// A first reading after a jump of more than this expires nothing.
pub const TRUSTED_JUMP_MS: u64 = 3_600_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogClock {
    last: u64,
    read_at_boot_ms: Option<u64>,
    distrusted: Option<u64>,
}

impl LogClock {
    /// The stamp of an entry proposed now, Unix ms.
    pub fn stamp(&mut self, now: Now) -> u64 {
        let next = self.peek(now);
        assert!(next >= self.last, "log time never runs backward");
        self.distrusted = (next - self.last > TRUSTED_JUMP_MS).then_some(self.last);
        self.last = next;
        self.read_at_boot_ms = Some(now.boot_ms());
        next
    }

    /// What [`Self::stamp`] would say.
    pub fn peek(&self, now: Now) -> u64 {
        let ceiling = match self.read_at_boot_ms {
            Some(read_at) => self.last + now.boot_ms().saturating_sub(read_at) + SLACK_MS,
            None => u64::MAX,
        };
        self.last.max(now.wall_ms().min(ceiling))
    }

    /// An entry with this stamp has been read from the log.
    pub fn observe(&mut self, append_ts: u64) {
        assert!(append_ts >= self.last, "stamps in a log never decrease");
        self.last = append_ts;
    }

    /// The latest stamp.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The log time by which ids expire: the latest stamp, but not on the first reading after a
    /// jump of more than an hour (a wrong clock at a start must not empty the dedup window).
    pub fn expiry_time(&self) -> u64 {
        self.distrusted.unwrap_or(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: u64, boot_ms: u64) -> Now {
        Now { wall_us: wall_ms * 1_000, boot_us: boot_ms * 1_000 }
    }

    const YEAR: u64 = 365 * 86_400_000;

    #[test]
    fn a_year_ahead_and_back_moves_log_time_by_seconds() {
        let mut clock = LogClock::default();
        assert_eq!(clock.stamp(at(1_000_000, 10)), 1_000_000, "a start jumps to the wall");
        assert_eq!(clock.stamp(at(1_000_000 + YEAR, 20)), 1_000_000 + 10 + SLACK_MS);
        let back = clock.stamp(at(1_000_030, 40));
        assert_eq!(back, 1_000_000 + 10 + SLACK_MS, "it waits for the wall");
        assert_eq!(clock.stamp(at(1_005_000, 5_010)), 1_005_000);
    }

    #[test]
    fn the_first_reading_after_a_long_jump_expires_nothing() {
        let mut clock = LogClock::default();
        clock.observe(1_000);
        clock.stamp(at(1_000 + 2 * TRUSTED_JUMP_MS, 5));
        assert_eq!(clock.expiry_time(), 1_000);
        clock.stamp(at(1_001 + 2 * TRUSTED_JUMP_MS, 6));
        assert_eq!(clock.expiry_time(), 1_001 + 2 * TRUSTED_JUMP_MS);
    }
}
