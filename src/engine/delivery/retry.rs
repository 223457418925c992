//! Backoff between attempts: exponential, capped, with jitter that is a function of the event.

use crate::base::ids::Position;

/// Milliseconds to wait after failed attempt `attempt` (from 1): `base * 2^(attempt - 1)`, at most
/// `max`, less up to a quarter of it. The jitter spreads events that failed together; it is derived
/// from the event and the attempt, so that a simulation replays exactly.
pub fn backoff_ms(base: u64, max: u64, attempt: u32, position: Position) -> u64 {
    assert!(attempt >= 1, "attempts count from 1");
    let doubled = base.saturating_mul(1_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX));
    let wait = doubled.min(max);
    let spread = wait / 4;
    if spread == 0 {
        return wait;
    }
    let seed =
        position.offset.0 ^ position.due.rotate_left(32) ^ u64::from(attempt).rotate_left(48);
    // Fibonacci hashing: the golden ratio spreads neighbouring offsets over the range.
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    wait - mixed % (spread + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

    #[test]
    fn backoff_doubles_up_to_its_cap_and_never_overflows() {
        let position = Position::new(5, Offset(7));
        for attempt in 1..=200 {
            let full = 1_000_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX);
            let full = if attempt > 50 { 60_000 } else { full.min(60_000) };
            let wait = backoff_ms(1_000, 60_000, attempt, position);
            assert!(wait <= full && wait >= full - full / 4, "attempt {attempt}: {wait}");
        }
    }

    #[test]
    fn without_backoff_the_next_attempt_is_at_once() {
        assert_eq!(backoff_ms(0, 60_000, 3, Position::START), 0);
    }
}
