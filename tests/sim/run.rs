//! Runs seeds: each twice with equal traces; a failing one is printed with the way to replay it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::profile::Profile;
use super::rule::{Rule, broken_text};
use super::seeds::REGRESSIONS;
use super::trace::Trace;
use super::world::World;

const THREADS: u64 = 2;
const SEEDS: u64 = 500;

/// What one run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    steps: u64,
    events: u64,
    deliveries: u64,
    acks: u64,
    replays: u64,
    processes: u64,
}

fn run(seed: u64, trace: Trace) -> Result<Outcome, (String, String)> {
    let mut world = World::new(seed, trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    match result {
        Ok(()) => Ok(Outcome {
            hash: world.trace.hash(),
            steps: world.steps,
            events: world.oracle.records.contents.len() as u64,
            deliveries: world.oracle.groups.deliveries,
            acks: world.oracle.groups.confirmed,
            replays: world.oracle.replays_finished,
            processes: world.epoch + 1,
        }),
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

#[test]
fn every_seed_keeps_every_rule() {
    let seeds = seeds();
    if let ([seed], Ok(_)) = (seeds.as_slice(), std::env::var("CHRONOSDB_SIM_ECHO")) {
        println!("{:#?}", Profile::new(*seed));
        let outcome = run(*seed, Trace::new(true, true));
        println!("{:?}", outcome.map_err(|(text, _)| text));
    }
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    match check(*seed) {
                        Ok(outcome) => total.lock().expect("not poisoned").add(&outcome),
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
    println!("{} seeds: {:?}", seeds.len(), total.into_inner().expect("not poisoned"));
    for (seed, text) in &failures {
        println!("seed {seed} fails; replay it with: scripts/sim.sh {seed}\n{text}\n");
    }
    let failed: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {} seeds fail: {failed:?}", failed.len(), seeds.len());
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.hash ^= other.hash;
        self.steps += other.steps;
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.acks += other.acks;
        self.replays += other.replays;
        self.processes += other.processes;
    }
}
