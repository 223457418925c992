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
/// Of the newest runs as few are taken as make a run that is not larger than the next older one
/// (all, if there is no such one). So sizes rise with age, every run but the newest two at least
/// doubles when it is merged, and nothing large is merged for the sake of a small one.
///
/// Bound: in 1,000 flushes, whatever their sizes, at most 7 bytes are written for each byte
/// flushed, the flush itself included.
#[must_use]
pub fn plan_merge(rows_newest_first: &[u64]) -> Option<Range<usize>> {
    if rows_newest_first.len() < RUNS_MAX {
        return None;
    }
    let mut sum = 0;
    for (number, rows) in rows_newest_first.iter().enumerate() {
        if number >= 2 && sum <= *rows {
            return Some(0..number);
        }
        sum += rows;
    }
    Some(0..rows_newest_first.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_merged_up_to_one_that_is_large_enough() {
        assert_eq!(plan_merge(&[1; 7]), None);
        assert_eq!(plan_merge(&[1; 8]), Some(0..8));
        assert_eq!(plan_merge(&[1, 1, 1, 1, 1, 1, 1, 7]), Some(0..7));
        assert_eq!(plan_merge(&[1, 1, 1, 1, 1, 1, 1, 6]), Some(0..8));
        assert_eq!(plan_merge(&[1, 2, 3, 4, 5, 6, 7, 8]), Some(0..2));
        assert_eq!(plan_merge(&[0; 20]), Some(0..2));
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

    #[test]
    fn a_thousand_flushes_are_written_seven_times_at_most() {
        let mix = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let sizes: [(&str, &dyn Fn(u64) -> u64); 8] = [
            ("equal", &|_| 1_000),
            ("random", &|n| 1 + mix(n) % 1_000),
            ("of all magnitudes", &|n| 1 << (mix(n) % 20)),
            ("rising", &|n| n + 1),
            ("falling", &|n| 1_000 - n),
            ("one large first", &|n| if n == 0 { 1_000_000 } else { 1 }),
            ("large now and then", &|n| if n % 50 == 0 { 100_000 } else { 100 }),
            ("large and small in turn", &|n| if n % 2 == 0 { 1 } else { 10_000 }),
        ];
        for (name, rows) in sizes {
            for life in [usize::MAX, 300, 30, 5] {
                let (worst, _) = amplification(life, rows);
                assert!(worst <= 7.0, "{name}, living {life}: {worst}");
            }
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
