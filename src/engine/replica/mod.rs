//! The replica: which entries of a partition's log are proposed, persisted, committed and applied.
//!
//! A group of one and a member of a Raft group are the same code; they differ in who says what is
//! committed ([`CommitRule`]). No I/O: the engine writes the entries and tells of it.
//!
//! ```text
//!   truncated                applied     committed     persisted         last
//!   ----|------------------------|-------------|-------------|-------------|
//!        read back from the log    to be applied  not acked     not durable
//!        (the youngest in memory)  (next_committed)
//! ```
//!
//! What must hold, and is asserted where it could break: `truncated <= applied <= committed <=
//! persisted <= last`; none of them ever falls, but `persisted` and `last` at a truncation, and
//! never below `committed`; terms never fall along the log; every entry behind `applied` is in
//! memory. Committed means for good: a majority may know of it before this replica has persisted
//! it, but it is applied only when both hold.

mod recent;
mod terms;

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod transition_test;

use crate::base::ids::{Index, Term};
use crate::base::limits::REPLICA_RECENT_BYTES;
use recent::Recent;
use terms::Terms;

/// What a replica must not forget apart from its log (Raft's hard state). Saved before anything is
/// proposed in a new term; a group of one votes for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Highest term seen.
    pub term: Term,
    /// Node number voted for in that term, 0 for none.
    pub vote: u64,
    /// A lower bound of the commit index.
    pub commit: Index,
    /// The log is being cut from this index on; 0: it is not. A recovery carries the cut on, since
    /// what is half removed looks like rot.
    pub cut_from: Index,
    /// The segment that the log begins with, by the index of its first entry: retention has removed
    /// what was before it. 0: the first one.
    pub log_start: Index,
}

/// What the replica must know of an entry. Cloning one should share its body.
pub trait LogEntry: Clone {
    /// Its place in the log.
    fn index(&self) -> Index;
    /// The leadership it was proposed in.
    fn term(&self) -> Term;
    /// Memory it holds, bytes: for the bounds of what is kept and of what is handed out at once.
    fn bytes(&self) -> usize;
}

/// Who decides that an entry is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitRule {
    /// A group of one: what is persisted is committed.
    Alone,
    /// The replication layer says so, by [`Replica::on_committed`].
    External,
}

/// Entries asked for are not in memory any more: the log has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInMemory {
    /// First index that is in memory (one behind the last if none is).
    pub first_in_memory: Index,
}

/// The state of one replica of one partition's log.
#[derive(Debug)]
pub struct Replica<E> {
    rule: CommitRule,
    /// Its `commit` is unused here: see [`hard_state`](Self::hard_state).
    hard: HardState,
    leader: bool,
    terms: Terms,
    recent: Recent<E>,
    applied: Index,
    /// As told by the rule; what may be applied is bounded by `persisted` too.
    committed: Index,
    persisted: Index,
}

impl<E: LogEntry> Replica<E> {
    /// A replica whose log was found to end with the entry `last`, all of it durable and applied.
    ///
    /// `truncated` is the last entry that is no longer in the log, (0, 0) if it begins at index 1.
    /// Of the entries between the two the terms are known only if both have one term; to know all
    /// of them, or if not all of them are committed, start with `last` the last one that is known
    /// to be committed and [`restore`](Self::restore) the ones behind it.
    ///
    /// The replica does not lead: see [`begin_term`](Self::begin_term).
    pub fn new(
        rule: CommitRule,
        hard: HardState,
        last: (Index, Term),
        truncated: (Index, Term),
    ) -> Self {
        assert!(truncated.0 <= last.0, "the log ends behind what was cut off its head");
        let mut hard = hard;
        if hard.term < last.1 {
            // The slot was lost or is older than the log: whom it voted for is not known.
            hard = HardState { term: last.1, vote: 0, ..hard };
        }
        let last_index = last.0;
        Self {
            rule,
            hard,
            leader: false,
            terms: Terms::new(truncated, last),
            recent: Recent::new(last_index),
            applied: last_index,
            committed: last_index,
            persisted: last_index,
        }
    }

    /// Takes an entry that recovery has read back, in order, before the first term begins. It is
    /// durable; committed if the replica is alone or the hard state says so.
    pub fn restore(&mut self, entry: E) {
        let (index, term) = (entry.index(), entry.term());
        assert!(!self.leader, "recovery ends before a term begins");
        assert_eq!(self.persisted, self.last().0, "recovery ends before anything is proposed");
        self.push(entry);
        if self.hard.term < term {
            self.hard = HardState { term, vote: 0, ..self.hard };
        }
        self.persisted = index;
        if self.rule == CommitRule::Alone || index <= self.hard.commit {
            self.committed = index;
        }
    }

    /// Leads from now on, in a term higher than any before. Nothing may be proposed until
    /// [`hard_state`](Self::hard_state) is durable.
    pub fn begin_term(&mut self, term: Term) {
        assert!(!self.leader, "a leader is deposed before it leads again");
        assert!(term > self.hard.term, "every leadership has a term of its own");
        self.hard = HardState { term, vote: 0, ..self.hard };
        self.leader = true;
    }

    /// Notes whom this replica has voted for in the current term: once.
    pub fn vote(&mut self, node: u64) {
        assert!(self.hard.vote == 0 || self.hard.vote == node, "one vote a term");
        self.hard.vote = node;
    }

    /// Takes the next entry of this leadership. It is the caller's to write it to the log.
    pub fn propose(&mut self, entry: E) {
        assert!(self.leader, "only a leader proposes");
        assert_eq!(entry.term(), self.hard.term, "a leader proposes in its own term");
        self.push(entry);
    }

    /// Everything up to `index` is durable. A completion that is older than what is known already
    /// changes nothing; one of a write whose entries were truncated must not be told.
    pub fn on_persisted(&mut self, index: Index) {
        assert!(index <= self.last().0, "what was never proposed can't be persisted");
        self.persisted = self.persisted.max(index);
        if self.rule == CommitRule::Alone {
            self.committed = self.persisted;
        }
    }

    /// A majority holds everything up to `index`; older news changes nothing.
    pub fn on_committed(&mut self, index: Index) {
        assert_eq!(self.rule, CommitRule::External, "a group of one commits what it persists");
        assert!(index <= self.last().0, "what this replica has not seen can't be told committed");
        self.committed = self.committed.max(index);
    }

    /// The next entry to apply, in order, exactly once; `None` if all that is committed and
    /// persisted here has been handed out. The caller applies it at once.
    #[must_use]
    pub fn next_committed(&mut self) -> Option<E> {
        if self.applied >= self.committed() {
            return None;
        }
        self.applied = self.applied.next();
        let entry =
            self.recent.get(self.applied).expect("what is not applied is in memory").clone();
        assert_eq!(entry.index(), self.applied, "entries are applied in order");
        // They are kept for followers, and a group of one has none.
        let kept = if self.rule == CommitRule::Alone { 0 } else { REPLICA_RECENT_BYTES };
        self.recent.trim(self.applied, kept);
        Some(entry)
    }

    /// Leads no longer. What is proposed and not committed stays until it is committed after all or
    /// [`truncate_from`](Self::truncate_from) cuts it.
    pub fn depose(&mut self) {
        self.leader = false;
    }

    /// Cuts the log from `index` on, and hands out what was cut, in order. Nothing committed is
    /// ever cut. `index` may be one behind the last entry: then nothing is.
    pub fn truncate_from(&mut self, index: Index) -> Vec<E> {
        assert!(!self.leader, "a leader only ever adds to its log");
        assert!(index > self.committed, "what is committed is never cut");
        assert!(index <= self.last().0.next(), "there is nothing to cut so far behind the end");
        let cut = self.recent.truncate_from(index);
        self.terms.truncate_from(index);
        self.persisted = self.persisted.min(self.last().0);
        assert!(self.applied <= self.persisted, "what is applied was persisted");
        cut
    }

    /// The log's head up to and including `index` is gone (retention): its terms are forgotten, but
    /// for that of `index` itself.
    pub fn truncate_head(&mut self, index: Index) {
        assert!(index <= self.applied, "what is not applied is never dropped");
        self.terms.truncate_head(index);
        self.recent.forget(index);
    }

    /// Entries from `low` up to but not including `high`, as many as fit into `max_bytes` and at
    /// least one, if they are in memory.
    ///
    /// # Errors
    /// If `low` is not in memory any more; then the log has it, or it is before the log.
    pub fn entries(
        &self,
        low: Index,
        high: Index,
        max_bytes: usize,
    ) -> Result<Vec<E>, NotInMemory> {
        assert!(low <= high && high <= self.last().0.next(), "a range within the log");
        if low < high && low < self.recent.first() {
            return Err(NotInMemory { first_in_memory: self.recent.first() });
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.recent.range(low, high) {
            bytes += entry.bytes();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    /// The term of the entry at `index`, without reading: `None` before
    /// [`truncated`](Self::truncated), behind the last entry, or where [`new`](Self::new) was not
    /// told.
    pub fn term_of(&self, index: Index) -> Option<Term> {
        self.terms.get(index)
    }

    /// What must be durable beside the log.
    pub fn hard_state(&self) -> HardState {
        HardState { commit: self.committed(), ..self.hard }
    }

    /// The log begins with this segment from now on.
    pub fn begin_log_with(&mut self, segment: Index) {
        assert!(segment > self.hard.log_start, "a log loses its oldest segments only");
        self.hard.log_start = segment;
    }

    /// The current term: that of the leadership, or the highest seen.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        self.leader
    }

    /// Who decides what is committed.
    pub fn rule(&self) -> CommitRule {
        self.rule
    }

    /// Index and term of the last entry, persisted or not.
    pub fn last(&self) -> (Index, Term) {
        self.terms.last()
    }

    /// Index and term of the last entry that is no longer in the log.
    pub fn truncated(&self) -> (Index, Term) {
        self.terms.truncated()
    }

    /// The last entry that is durable here.
    pub fn persisted(&self) -> Index {
        self.persisted
    }

    /// The last entry that is committed and durable here: may be applied.
    pub fn committed(&self) -> Index {
        self.committed.min(self.persisted)
    }

    /// The last entry handed out by [`next_committed`](Self::next_committed).
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Bytes of entries in memory: those not applied, and at most [`REPLICA_RECENT_BYTES`] of
    /// applied ones.
    pub fn memory_bytes(&self) -> usize {
        self.recent.bytes()
    }

    fn push(&mut self, entry: E) {
        let (last, last_term) = self.last();
        assert_eq!(entry.index(), last.next(), "the log has no gaps");
        assert!(entry.term() >= last_term, "terms never fall along the log");
        self.terms.push(entry.index(), entry.term());
        self.recent.push(entry);
    }
}
