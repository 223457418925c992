//! The replica against a plain vector: random leaderships, completions, commits and cuts.
//!
//! Checked after every step: the order of the indexes, that nothing committed changes, that each
//! committed entry is applied exactly once and in order, and that terms and ranges agree.

use proptest::collection::vec;
use proptest::prelude::*;

use super::transition_test::{Entry, leader};
use super::{CommitRule, Replica};
use crate::base::ids::{Index, Term};

#[derive(Clone, Debug)]
enum Op {
    Propose { bytes: usize },
    Persist { part: u64 },
    Commit { part: u64 },
    Apply { count: usize },
    Depose { part: u64 },
    Elect { by: u64 },
    TruncateHead { part: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..2_000_000_usize).prop_map(|bytes| Op::Propose { bytes }),
        3 => (0..8_u64).prop_map(|part| Op::Persist { part }),
        3 => (0..8_u64).prop_map(|part| Op::Commit { part }),
        3 => (0..6_usize).prop_map(|count| Op::Apply { count }),
        1 => (0..8_u64).prop_map(|part| Op::Depose { part }),
        2 => (1..4_u64).prop_map(|by| Op::Elect { by }),
        1 => (0..8_u64).prop_map(|part| Op::TruncateHead { part }),
    ]
}

struct Check {
    rule: CommitRule,
    replica: Replica<Entry>,
    /// Every entry of the log, cut ones gone; the first has index 1.
    log: Vec<Entry>,
    applied: Vec<Entry>,
    truncated: u64,
}

/// A point between two indexes.
fn between(low: u64, high: u64, eighths: u64) -> u64 {
    low + (high - low) * eighths / 7
}

impl Check {
    fn run(&mut self, op: &Op) {
        let last = self.log.len() as u64;
        let replica = &mut self.replica;
        match *op {
            Op::Propose { bytes } if replica.is_leader() => {
                let entry = Entry { index: last + 1, term: replica.term().0, bytes };
                replica.propose(entry);
                self.log.push(entry);
            }
            Op::Persist { part } => {
                replica.on_persisted(Index(between(replica.persisted().0, last, part)));
            }
            Op::Commit { part } if self.rule == CommitRule::External => {
                replica.on_committed(Index(between(0, last, part)));
            }
            Op::Apply { count } => {
                for _ in 0..count {
                    self.applied.extend(replica.next_committed());
                }
            }
            Op::Depose { part } => {
                replica.depose();
                // From behind everything that was ever told committed, persisted or not.
                let from = between(replica.committed.0 + 1, last + 1, part);
                let cut = replica.truncate_from(Index(from));
                assert_eq!(cut, self.log.split_off(from as usize - 1));
            }
            Op::Elect { by } if !replica.is_leader() => {
                replica.begin_term(Term(replica.term().0 + by));
            }
            Op::TruncateHead { part } => {
                self.truncated = between(self.truncated, replica.applied().0, part);
                replica.truncate_head(Index(self.truncated));
            }
            Op::Propose { .. } | Op::Commit { .. } | Op::Elect { .. } => {}
        }
        self.check();
    }

    fn check(&self) {
        let replica = &self.replica;
        let last = self.log.len() as u64;
        assert_eq!(replica.last().0.0, last);
        assert_eq!(replica.truncated().0.0, self.truncated);
        assert!(replica.truncated().0 <= replica.applied());
        assert!(replica.applied() <= replica.committed());
        assert!(replica.committed() <= replica.persisted());
        assert!(replica.persisted() <= replica.last().0);
        assert_eq!(self.applied, self.log[..self.applied.len()], "applied is for good, in order");
        assert_eq!(replica.applied().0, self.applied.len() as u64);
        for (position, entry) in self.log.iter().enumerate() {
            let index = Index(position as u64 + 1);
            let expected = (index.0 >= self.truncated).then_some(Term(entry.term));
            assert_eq!(replica.term_of(index), expected);
        }
        assert_eq!(replica.term_of(Index(last + 1)), None);
        let from = replica.applied().next();
        let unapplied = replica.entries(from, Index(last + 1), usize::MAX);
        assert_eq!(unapplied.as_deref(), Ok(&self.log[from.0 as usize - 1..]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn agrees_with_a_plain_vector(
        rule in prop_oneof![Just(CommitRule::Alone), Just(CommitRule::External)],
        ops in vec(op(), 1..150),
    ) {
        let replica = leader(rule);
        let mut check = Check { rule, replica, log: vec![], applied: vec![], truncated: 0 };
        for op in &ops {
            check.run(op);
        }
    }
}
