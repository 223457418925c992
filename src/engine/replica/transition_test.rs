//! Each transition of the replica by itself: state in, state out.

use super::*;
use crate::base::limits::REPLICA_RECENT_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) bytes: usize,
}

impl LogEntry for Entry {
    fn index(&self) -> Index {
        Index(self.index)
    }

    fn term(&self) -> Term {
        Term(self.term)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

pub(super) fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, bytes: 100 }
}

const HEAD: (Index, Term) = (Index(0), Term(0));

/// An empty log, led in term 1.
pub(super) fn leader(rule: CommitRule) -> Replica<Entry> {
    let mut replica = Replica::new(rule, HardState::default(), HEAD, HEAD);
    replica.begin_term(Term(1));
    replica
}

fn proposed(rule: CommitRule, count: u64) -> Replica<Entry> {
    let mut replica = leader(rule);
    for index in 1..=count {
        replica.propose(entry(index, 1));
    }
    replica
}

fn apply_all(replica: &mut Replica<Entry>) -> Vec<u64> {
    std::iter::from_fn(|| replica.next_committed().map(|entry| entry.index)).collect()
}

#[test]
fn alone_what_is_persisted_is_committed() {
    let mut replica = proposed(CommitRule::Alone, 3);
    assert_eq!(replica.next_committed(), None);
    replica.on_persisted(Index(2));
    assert_eq!(replica.committed(), Index(2));
    assert_eq!(apply_all(&mut replica), [1, 2]);
    replica.on_persisted(Index(1));
    assert_eq!(replica.persisted(), Index(2), "older news changes nothing");
    replica.on_persisted(Index(3));
    assert_eq!(apply_all(&mut replica), [3]);
    assert_eq!(replica.applied(), Index(3));
}

#[test]
fn in_a_group_both_the_majority_and_the_disk_must_have_it() {
    let mut replica = proposed(CommitRule::External, 3);
    replica.on_persisted(Index(3));
    assert_eq!(apply_all(&mut replica), [0; 0]);
    replica.on_committed(Index(2));
    assert_eq!(apply_all(&mut replica), [1, 2]);

    let mut replica = proposed(CommitRule::External, 3);
    replica.on_committed(Index(3));
    replica.on_persisted(Index(1));
    assert_eq!(replica.committed(), Index(1), "never beyond what is persisted");
    assert_eq!(apply_all(&mut replica), [1]);
    replica.on_committed(Index(2));
    replica.on_persisted(Index(3));
    assert_eq!(apply_all(&mut replica), [2, 3], "the commit never regresses");
}

#[test]
fn a_deposed_leader_keeps_its_suffix_until_it_is_cut() {
    let mut replica = proposed(CommitRule::External, 5);
    replica.on_persisted(Index(4));
    replica.on_committed(Index(2));
    replica.depose();
    assert!(!replica.is_leader());
    assert_eq!(replica.last(), (Index(5), Term(1)));
    replica.on_committed(Index(3));
    assert_eq!(apply_all(&mut replica), [1, 2, 3], "committed after all");
    assert_eq!(replica.truncate_from(Index(4)), [entry(4, 1), entry(5, 1)]);
    assert_eq!(replica.last(), (Index(3), Term(1)));
    assert_eq!(replica.persisted(), Index(3));
    assert_eq!(replica.term_of(Index(4)), None);
    assert_eq!(replica.truncate_from(Index(4)), []);

    replica.begin_term(Term(7));
    replica.propose(entry(4, 7));
    replica.on_persisted(Index(4));
    replica.on_committed(Index(4));
    assert_eq!(replica.next_committed(), Some(entry(4, 7)));
    assert_eq!(replica.term_of(Index(3)), Some(Term(1)));
    assert_eq!(replica.term_of(Index(4)), Some(Term(7)));
}

#[test]
fn terms_are_known_without_reading() {
    let mut replica = Replica::new(
        CommitRule::External,
        HardState { term: Term(9), vote: 2, commit: Index(12), ..HardState::default() },
        (Index(10), Term(3)),
        (Index(10), Term(3)),
    );
    for (index, term) in [(11, 3), (12, 4), (13, 4), (14, 8)] {
        replica.restore(entry(index, term));
    }
    let terms = [9, 10, 11, 12, 13, 14, 15].map(|index| replica.term_of(Index(index)));
    assert_eq!(terms.map(|term| term.map_or(0, |term| term.0)), [0, 3, 3, 4, 4, 8, 0]);
    assert_eq!(
        replica.hard_state(),
        HardState { term: Term(9), vote: 2, commit: Index(12), ..HardState::default() }
    );
    assert_eq!(apply_all(&mut replica), [11, 12], "the hard state knows two as committed");
    replica.truncate_head(Index(12));
    assert_eq!(replica.truncated(), (Index(12), Term(4)));
    let terms = [11, 12, 13, 14].map(|index| replica.term_of(Index(index)));
    assert_eq!(terms, [None, Some(Term(4)), Some(Term(4)), Some(Term(8))]);
    replica.truncate_from(Index(13));
    assert_eq!(replica.last(), (Index(12), Term(4)));
}

#[test]
fn the_whole_log_may_go_and_its_end_is_remembered() {
    let mut replica = proposed(CommitRule::Alone, 3);
    replica.on_persisted(Index(3));
    apply_all(&mut replica);
    replica.truncate_head(Index(3));
    assert_eq!((replica.last(), replica.truncated()), ((Index(3), Term(1)), (Index(3), Term(1))));
    replica.propose(entry(4, 1));
    assert_eq!(replica.term_of(Index(4)), Some(Term(1)));
    assert_eq!(replica.entries(Index(4), Index(5), 1), Ok(vec![entry(4, 1)]));
}

#[test]
fn a_log_that_was_only_measured_knows_its_ends() {
    let apart = Replica::<Entry>::new(
        CommitRule::Alone,
        HardState::default(),
        (Index(20), Term(5)),
        (Index(10), Term(3)),
    );
    let terms = [10, 11, 19, 20].map(|index| apart.term_of(Index(index)));
    assert_eq!(terms, [Some(Term(3)), None, None, Some(Term(5))]);
    assert_eq!(apart.term(), Term(5), "the log is newer than the slot");
    let one_term = Replica::<Entry>::new(
        CommitRule::Alone,
        HardState::default(),
        (Index(20), Term(3)),
        (Index(10), Term(3)),
    );
    assert_eq!(one_term.term_of(Index(15)), Some(Term(3)));
    assert_eq!(one_term.applied(), Index(20));
}

#[test]
fn ranges_come_from_memory_or_say_that_they_do_not() {
    let mut replica = proposed(CommitRule::External, 5);
    assert_eq!(replica.entries(Index(2), Index(4), 1_000), Ok(vec![entry(2, 1), entry(3, 1)]));
    assert_eq!(replica.entries(Index(2), Index(6), 250), Ok(vec![entry(2, 1), entry(3, 1)]));
    assert_eq!(replica.entries(Index(2), Index(6), 1), Ok(vec![entry(2, 1)]), "one at least");
    assert_eq!(replica.entries(Index(6), Index(6), 1_000), Ok(vec![]));
    replica.on_persisted(Index(5));
    replica.on_committed(Index(5));
    apply_all(&mut replica);
    replica.truncate_head(Index(3));
    let not_there = Err(NotInMemory { first_in_memory: Index(4) });
    assert_eq!(replica.entries(Index(3), Index(5), 1_000), not_there);
    assert_eq!(replica.entries(Index(4), Index(5), 1_000), Ok(vec![entry(4, 1)]));
}

#[test]
fn memory_of_applied_entries_is_bounded_and_others_stay() {
    let mut replica = leader(CommitRule::External);
    let bytes = REPLICA_RECENT_BYTES / 4;
    for index in 1..=20 {
        replica.propose(Entry { index, term: 1, bytes });
    }
    assert_eq!(replica.memory_bytes(), 20 * bytes, "nothing is applied yet");
    replica.on_persisted(Index(10));
    replica.on_committed(Index(10));
    apply_all(&mut replica);
    assert_eq!(replica.memory_bytes(), 14 * bytes);
    assert_eq!(
        replica.entries(Index(1), Index(9), 1),
        Err(NotInMemory { first_in_memory: Index(7) })
    );
}

#[test]
fn a_group_of_one_keeps_nothing_that_is_applied() {
    let mut replica = proposed(CommitRule::Alone, 5);
    let bytes = replica.memory_bytes();
    replica.on_persisted(Index(3));
    apply_all(&mut replica);
    assert_eq!(replica.memory_bytes(), bytes / 5 * 2);
    assert_eq!(replica.entries(Index(4), Index(6), 1), Ok(vec![entry(4, 1)]));
}

#[test]
fn a_vote_is_part_of_the_hard_state_of_its_term() {
    let mut replica = leader(CommitRule::External);
    replica.vote(3);
    replica.vote(3);
    assert_eq!(
        replica.hard_state(),
        HardState { term: Term(1), vote: 3, commit: Index(0), ..HardState::default() }
    );
    replica.depose();
    replica.begin_term(Term(2));
    assert_eq!(replica.hard_state().vote, 0);
}

#[test]
#[should_panic(expected = "what is committed is never cut")]
fn committed_entries_cannot_be_cut() {
    let mut replica = proposed(CommitRule::External, 3);
    replica.on_committed(Index(2));
    replica.depose();
    replica.truncate_from(Index(2));
}

#[test]
#[should_panic(expected = "the log has no gaps")]
fn a_gap_cannot_be_proposed() {
    leader(CommitRule::Alone).propose(entry(2, 1));
}

#[test]
#[should_panic(expected = "a leader proposes in its own term")]
fn an_old_term_cannot_be_proposed() {
    leader(CommitRule::Alone).propose(entry(1, 0));
}

#[test]
#[should_panic(expected = "only a leader proposes")]
fn a_deposed_leader_cannot_propose() {
    let mut replica = leader(CommitRule::Alone);
    replica.depose();
    replica.propose(entry(1, 1));
}

#[test]
#[should_panic(expected = "every leadership has a term of its own")]
fn a_term_is_never_led_twice() {
    let mut replica = leader(CommitRule::Alone);
    replica.depose();
    replica.begin_term(Term(1));
}
