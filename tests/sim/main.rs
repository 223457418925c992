//! The deterministic simulator: a whole node under virtual time, with a disk that loses and tears,
//! clocks that step, a process that dies between any two effects, and clients of every kind.
//!
//! `scripts/sim.sh SEED` replays one seed and prints its profile and trace. `CHRONOSDB_SIM_SEEDS`
//! (a count, or FROM..TO) chooses the seeds of the test, `CHRONOSDB_SIM_ECHO=1` prints every line.

mod admin;
#[cfg(test)]
mod ahead;
#[cfg(test)]
mod between;
mod client;
mod clock;
#[cfg(test)]
mod condemned;
mod content;
mod coverage;
mod cuts;
mod derived;
mod disk;
mod drive;
mod groups;
mod heal;
#[cfg(test)]
mod holding;
mod jobs;
#[cfg(test)]
mod keeper;
#[cfg(test)]
mod keeping;
#[cfg(test)]
mod large;
#[cfg(test)]
mod lasting;
mod member;
mod node;
mod oracle;
#[cfg(test)]
mod oracle_test;
mod order;
#[cfg(test)]
mod pausing;
mod probe;
mod producer;
mod profile;
mod reader;
#[cfg(test)]
mod reading_ahead;
mod records;
mod replays;
mod replica;
mod rng;
mod rule;
mod run;
mod seeds;
mod space;
mod trace;
mod weather;
#[cfg(test)]
mod week;
mod world;
