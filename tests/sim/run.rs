//! Runs seeds: each twice with equal traces; a failing one is printed with the way to replay it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::coverage::Coverage;
use super::profile::Profile;
use super::rule::{Rule, broken_text};
use super::seeds::REGRESSIONS;
use super::trace::Trace;
use super::weather::Weather;
use super::world::World;

const THREADS: u64 = 2;
const SEEDS: u64 = 500;
const WEATHER_SEEDS: u32 = 30;

/// What one run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    coverage: Coverage,
}

fn run(seed: u64, trace: Trace) -> Result<Outcome, (String, String)> {
    let mut world = World::new(seed, trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    match result {
        Ok(()) => {
            let mut coverage = world.coverage.clone();
            coverage.events = world.oracle.records.contents.len() as u64;
            coverage.deliveries = world.oracle.groups.deliveries;
            coverage.confirmed_acks = world.oracle.groups.confirmed;
            coverage.dead_letters = world.oracle.groups.dead_letters(world.moment());
            coverage.replays = world.oracle.replays_finished;
            Ok(Outcome { hash: world.trace.hash(), coverage })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err((text.unwrap_or_default(), world.trace.tail()))
        }
    }
}

/// Runs a seed twice.
fn check(seed: u64) -> Result<Outcome, String> {
    let outcomes = [(); 2].map(|()| run(seed, Trace::default()));
    match outcomes {
        [Ok(first), Ok(second)] if first == second => Ok(first),
        [Ok(first), Ok(second)] => {
            Err(broken_text(Rule::Repeatable, format_args!("{first:?} and {second:?}")))
        }
        [Err((text, _)), _] | [_, Err((text, _))] => {
            // Once more, for the lines.
            let tail = run(seed, Trace::new(true, false)).err().map(|(_, tail)| tail);
            Err(format!("{text}\nlast lines:\n{}", tail.unwrap_or_default()))
        }
    }
}

/// The seeds to run: from the environment, or the regressions and the first few hundred.
fn seeds() -> Vec<u64> {
    let range = |text: &str| -> Option<Range<u64>> {
        match text.split_once("..") {
            Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
            None => Some(0..text.parse().ok()?),
        }
    };
    match std::env::var("CHRONOSDB_SIM_SEEDS") {
        Ok(text) => range(&text).expect("CHRONOSDB_SIM_SEEDS is a count or FROM..TO").collect(),
        Err(_) => REGRESSIONS.iter().copied().chain(0..SEEDS).collect(),
    }
}

/// Runs all of them; what they have met.
fn keep_every_rule(seeds: &[u64]) -> Coverage {
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Coverage::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    match check(*seed) {
                        Ok(outcome) => total.lock().expect("not poisoned").add(&outcome.coverage),
                        Err(text) => {
                            let mut failures = failures.lock().expect("not poisoned");
                            failures.push((*seed, text));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("not poisoned");
    let total = total.into_inner().expect("not poisoned");
    println!("{} seeds: {total:?}", seeds.len());
    for (seed, text) in &failures {
        println!("seed {seed} fails; replay it with: scripts/sim.sh {seed}\n{text}\n");
    }
    let failed: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {} seeds fail: {failed:?}", failed.len(), seeds.len());
    total
}

#[test]
fn every_seed_keeps_every_rule() {
    let seeds = seeds();
    if let ([seed], Ok(_)) = (seeds.as_slice(), std::env::var("CHRONOSDB_SIM_ECHO")) {
        println!("{:#?}", Profile::new(*seed));
        let outcome = run(*seed, Trace::new(true, true));
        println!("{:?}", outcome.map_err(|(text, _)| text));
    }
    let total = keep_every_rule(&seeds);
    // Few seeds may miss something; this many may not.
    let missing = total.missing();
    let enough = (seeds.len() as u64) < SEEDS || missing.is_empty();
    assert!(enough, "{} seeds never met: {missing:?}", seeds.len());
}

#[test]
fn power_lost_soon_after_a_restart_takes_nothing_that_was_served() {
    let seeds: Vec<u64> = Weather::PowerLossAfterRestart.seeds(WEATHER_SEEDS).collect();
    let total = keep_every_rule(&seeds);
    assert!(total.process_crashes > 0 && total.power_losses > 0, "{total:?}");
}
