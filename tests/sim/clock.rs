//! Virtual clocks. World time only grows and is what the simulation is ordered by; the engine reads
//! `boot` (world time since the last power loss) and `wall` (world time plus an offset that steps).
//!
//! The past steps are kept, so that a rule can ask what the wall read at its lowest or highest
//! within the last moments: what another shard may have acted on.

use chronosdb::base::time::Now;

use super::rng::Rng;

/// 2026-02-02, the wall at world time 0, microseconds.
const EPOCH_US: u64 = 1_770_000_000_000_000;
const YEAR_US: u64 = 365 * 86_400 * 1_000_000;

/// A driver notices a step of the wall within this time.
pub const NOTICED_US: u64 = 1_000_000;

pub struct Clock {
    /// World time, microseconds.
    time_us: u64,
    /// World time at the machine's last boot.
    booted_us: u64,
    /// Wall at world time 0.
    wall_zero_us: u64,
    /// (world time, wall before, wall after) of every step.
    steps: Vec<(u64, u64, u64)>,
    /// Highest wall ever read.
    wall_max_us: u64,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            time_us: 0,
            booted_us: 0,
            wall_zero_us: EPOCH_US,
            steps: Vec::new(),
            wall_max_us: EPOCH_US,
        }
    }

    pub fn time_us(&self) -> u64 {
        self.time_us
    }

    pub fn now(&self) -> Now {
        Now { wall_us: self.wall_us(), boot_us: self.time_us - self.booted_us }
    }

    pub fn wall_ms(&self) -> u64 {
        self.wall_us() / 1_000
    }

    pub fn wall_us(&self) -> u64 {
        self.wall_zero_us + self.time_us
    }

    /// World time at which boot time reads `boot_us`.
    pub fn time_of_boot(&self, boot_us: u64) -> u64 {
        self.booted_us.saturating_add(boot_us)
    }

    /// Time goes on to `time_us`, never back.
    pub fn advance(&mut self, time_us: u64) {
        self.time_us = self.time_us.max(time_us);
        self.wall_max_us = self.wall_max_us.max(self.wall_us());
    }

    /// The machine starts again: boot time counts from the present.
    pub fn reboot(&mut self) {
        self.booted_us = self.time_us.saturating_sub(1_000_000);
    }

    /// The wall jumps to `wall_us`.
    pub fn set_wall(&mut self, wall_us: u64) {
        let before = self.wall_us();
        self.wall_zero_us = wall_us - self.time_us;
        self.steps.push((self.time_us, before, wall_us));
        self.wall_max_us = self.wall_max_us.max(wall_us);
    }

    /// A random step of 1 ms to 1 year in either direction, within some decades of the epoch.
    pub fn step(&mut self, rng: &mut Rng) {
        let size = rng.scale(1_000, YEAR_US);
        let wall = self.wall_us();
        let back = wall - size > EPOCH_US - 5 * YEAR_US && rng.percent(50);
        self.set_wall(if back { wall - size } else { wall + size });
    }

    /// Lowest wall reading of the last `window_us`, in ms.
    pub fn lowest_wall_ms(&self, window_us: u64) -> u64 {
        let from = self.time_us.saturating_sub(window_us);
        let recent = self.steps.iter().rev().take_while(|(at, _, _)| *at >= from);
        let (first, low) = recent.fold((None, u64::MAX), |(_, low), (at, before, after)| {
            (Some(before - (at - from)), low.min(*after))
        });
        let start = first.unwrap_or_else(|| self.wall_us() - (self.time_us - from));
        low.min(start) / 1_000
    }

    /// A wall reading that an engine surely knows of: a step is noticed within a second.
    pub fn noticed_wall_ms(&self, window_us: u64) -> u64 {
        let step = self.steps.last().map_or(0, |(at, _, _)| *at);
        let recent = !self.steps.is_empty() && self.time_us - step < 2 * NOTICED_US;
        self.lowest_wall_ms(if recent { 2 * NOTICED_US } else { window_us })
    }

    /// Highest wall reading of the last `window_us`, in ms.
    pub fn highest_wall_ms(&self, window_us: u64) -> u64 {
        let from = self.time_us.saturating_sub(window_us);
        let recent = self.steps.iter().rev().take_while(|(at, _, _)| *at >= from);
        recent.fold(self.wall_us(), |high, (_, before, _)| high.max(*before)) / 1_000
    }

    /// Highest wall reading ever, in ms.
    pub fn wall_max_ms(&self) -> u64 {
        self.wall_max_us / 1_000
    }
}

#[test]
fn the_wall_steps_and_boot_time_does_not() {
    let mut clock = Clock::new();
    clock.advance(5_000_000);
    let before = clock.wall_us();
    clock.set_wall(before - 1_000_000);
    clock.advance(5_100_000);
    assert_eq!(clock.now().boot_us, 5_100_000);
    assert_eq!(clock.wall_us(), before - 900_000);
    assert_eq!(clock.lowest_wall_ms(200_000), (before - 1_000_000) / 1_000);
    assert_eq!(clock.highest_wall_ms(200_000), before / 1_000);
    assert_eq!(clock.highest_wall_ms(50_000), clock.wall_ms());
    assert_eq!(clock.lowest_wall_ms(50_000), clock.wall_ms() - 50);
    clock.reboot();
    assert!(clock.now().boot_us <= 1_000_000);
}
