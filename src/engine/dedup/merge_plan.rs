//! Which runs are merged next: few runs to be probed, and few bytes written for it.
//!
//! Runs are merged with their neighbours in age only, so that a run always has the ids of one range
//! of offsets.

use std::ops::Range;

/// Runs of a partition at most, so that an id is never looked for in more of them.
pub const RUNS_MAX: usize = 8;

/// The runs to be merged into one, given the rows of all, the newest first; `None` while there are
/// fewer than [`RUNS_MAX`]. Asked after each flush; before the next one the merge has to be done.
///
/// Of the newest runs as few are taken as make a run that is not larger than the next older one (or
/// all): so sizes rise with age. But the oldest of those taken must not be larger than the others
/// together, so that nothing large is written again for the sake of something small. If that can't
/// be had, as many are taken as leave the oldest no larger than the others; if no number does, each
/// run is larger than all newer ones together, and the newest two are small beside the rest.
///
/// Bound: in 1,000 flushes at most 8 bytes are written for each byte flushed, the flush itself
/// included. 5.7 for flushes of equal size; no sizes were found that need more than 7.5.
#[must_use]
pub fn plan_merge(rows_newest_first: &[u64]) -> Option<Range<usize>> {
    let runs = rows_newest_first.len();
    if runs < RUNS_MAX {
        return None;
    }
    let mut taken = 2;
    let mut sum = rows_newest_first[0];
    for count in 2..=runs {
        let oldest = rows_newest_first[count - 1];
        let fair = oldest <= sum;
        sum = sum.saturating_add(oldest);
        if fair {
            taken = count;
            if rows_newest_first.get(count).is_some_and(|next| sum <= *next) {
                break;
            }
        }
    }
    Some(0..taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_merged_up_to_one_that_is_large_enough() {
        for (rows, taken) in [
            (&[1; 8][..], 8),
            (&[1, 1, 1, 1, 1, 1, 1, 7], 7),
            (&[1, 1, 1, 1, 1, 1, 1, 6], 8),
            (&[1, 2, 3, 4, 5, 6, 7, 8], 8),
            (&[1, 1, 2, 9, 9, 9, 9, 9], 2),
            // Not the 50 for the sake of the 1: with what makes it worth the while.
            (&[1, 50, 51, 52, 900, 2_000, 4_000, 8_000], 4),
            (&[5, 50, 45, 90, 200, 400, 800, 1_600], 4),
            (&[1, 2, 4, 8, 16, 32, 64, 128], 2),
            (&[0; 20], 2),
        ] {
            assert_eq!(plan_merge(rows), Some(0..taken), "{rows:?}");
            assert_eq!(plan_merge(&rows[..7]), None);
        }
    }

    /// A partition's runs, each as the range of flushes it has the ids of.
    struct Runs {
        flushes: Vec<u64>,
        newest_first: Vec<(Range<usize>, u64)>,
        written: u64,
        /// Flushes after which all ids of one are dead.
        life: usize,
    }

    impl Runs {
        fn new(life: usize) -> Self {
            Self { flushes: Vec::new(), newest_first: Vec::new(), written: 0, life }
        }

        fn flush(&mut self, rows: u64) {
            let number = self.flushes.len();
            self.flushes.push(rows);
            self.newest_first.insert(0, (number..number + 1, rows));
            self.written += rows;
            assert!(self.newest_first.len() <= RUNS_MAX, "a look-up probes all of them");
            let sizes: Vec<u64> = self.newest_first.iter().map(|run| run.1).collect();
            let Some(merged) = plan_merge(&sizes) else { return };
            assert!(merged.len() >= 2, "a merge makes them fewer");
            let flushes =
                self.newest_first[merged.end - 1].0.start..self.newest_first[merged.start].0.end;
            let living = flushes.start.max((number + 1).saturating_sub(self.life))..flushes.end;
            let rows = self.flushes.get(living).unwrap_or_default().iter().sum();
            self.written += rows;
            self.newest_first.splice(merged, [(flushes, rows)]);
        }
    }

    /// Bytes written for each byte flushed, the worst over all moments; and the rows at the end.
    fn amplification(life: usize, rows: impl Fn(u64) -> u64) -> (f64, u64) {
        let mut runs = Runs::new(life);
        let mut worst: f64 = 0.0;
        let mut flushed = 0;
        for flush in 0..1_000 {
            flushed += rows(flush);
            runs.flush(rows(flush));
            worst = worst.max(runs.written as f64 / flushed as f64);
        }
        (worst, runs.newest_first.iter().map(|run| run.1).sum())
    }

    fn mix(n: u64) -> u64 {
        let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
    }

    #[test]
    fn a_thousand_flushes_are_written_eight_times_at_most() {
        // The last two were searched for: among the worst there are for this policy, and for one
        // that does not look at the oldest of the runs it takes.
        let worst_found = [
            1, 10_000_000, 21, 10_000_000, 3_739_866, 9_446_915, 3_857_059, 202_036, 163_641,
            28_834, 24, 2,
        ];
        let worst_else = [13_000, 10_000, 48_268, 37_129, 16_900, 10_000, 10_000, 37_129];
        let sizes: [(&str, &dyn Fn(u64) -> u64); 10] = [
            ("equal", &|_| 1_000),
            ("random", &|n| 1 + mix(n) % 1_000),
            ("of all magnitudes", &|n| 1 << (mix(n) % 20)),
            ("rising", &|n| n + 1),
            ("falling", &|n| 1_000 - n),
            ("one large first", &|n| if n == 0 { 1_000_000 } else { 1 }),
            ("large now and then", &|n| if n % 50 == 0 { 100_000 } else { 100 }),
            ("large and small in turn", &|n| if n % 2 == 0 { 1 } else { 10_000 }),
            ("searched for", &|n| worst_found[n as usize % worst_found.len()]),
            ("searched for elsewhere", &|n| worst_else[n as usize % worst_else.len()]),
        ];
        for (name, rows) in sizes {
            for life in [usize::MAX, 300, 30, 5] {
                let (worst, _) = amplification(life, rows);
                assert!(worst <= 8.0, "{name}, living {life}: {worst}");
            }
        }
    }

    #[test]
    fn sizes_that_come_again_and_again_are_no_trouble() {
        for pattern in 0..300 {
            let period = 1 + mix(pattern) % 20;
            let magnitudes = 1 + mix(pattern + 1_000) % 24;
            let rows = |n: u64| 1 << (mix(pattern * 1_000 + n % period) % magnitudes);
            let (worst, _) = amplification(usize::MAX, rows);
            assert!(worst <= 8.0, "pattern {pattern}: {worst}");
        }
    }

    #[test]
    fn the_dead_are_not_kept_much_longer_than_the_living() {
        for life in [10, 50, 200, 500] {
            let (_, rows) = amplification(life, |_| 100);
            assert!(rows <= 3 * 100 * life as u64, "{rows} rows, living {life} flushes of 100");
        }
    }
}
