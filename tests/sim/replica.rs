//! The scripted replica: a majority that says late what is committed, and at times takes the
//! leadership away with the suffix that it does not hold.
//!
//! It commits only what the partition has on its own disk, so a crash never costs a committed
//! entry. It says one thing at a time and waits until the engine has heard it.

use chronosdb::base::ids::{Index, Term};
use chronosdb::engine::ReplicaEvent;

use super::probe::ReplicaStatus;
use super::rng::Rng;
use crate::hold;

/// The majority's view of one partition.
#[derive(Debug, Default)]
pub struct Replica {
    committed: Index,
    /// Highest term that the engine was told of, or told.
    term: Term,
    /// Something said has not been heard yet.
    speaking: bool,
    /// It will look at the partition soon.
    pub planned: bool,
}

impl Replica {
    /// The partition has recovered: what was committed is still there.
    pub fn recovered(&self, status: &ReplicaStatus) {
        hold!(
            CommittedKept,
            status.last >= self.committed,
            "the log ends at {}, {} was committed",
            status.last,
            self.committed
        );
    }

    /// The process is gone; what was on its way to it is lost.
    pub fn crashed(&mut self) {
        (self.speaking, self.planned) = (false, false);
        self.term = Term(0);
    }

    /// The engine has been given what was said.
    pub fn heard(&mut self) {
        self.speaking = false;
    }

    /// Whether it would say something, now or later.
    pub fn has_business(&self, status: &ReplicaStatus) -> bool {
        let behind = status.persisted > self.committed || status.committed < self.committed;
        !self.speaking && (behind || !status.leader || status.last > self.committed)
    }

    /// What the majority has to say, if anything.
    pub fn speak(
        &mut self,
        status: &ReplicaStatus,
        calm: bool,
        rng: &mut Rng,
    ) -> Option<ReplicaEvent> {
        if self.speaking {
            return None;
        }
        hold!(
            CommittedKept,
            status.committed <= self.committed,
            "{status:?}: only {} is committed",
            self.committed
        );
        hold!(TermGrows, status.term >= self.term, "{status:?} after term {}", self.term);
        self.term = status.term;
        let said = self.choose(status, calm, rng);
        self.speaking = said.is_some();
        said
    }

    fn choose(
        &mut self,
        status: &ReplicaStatus,
        calm: bool,
        rng: &mut Rng,
    ) -> Option<ReplicaEvent> {
        if !status.leader {
            if !calm && rng.percent(70) {
                return None;
            }
            self.term = Term(self.term.0 + rng.between(1, 3));
            return Some(ReplicaEvent::Elected(self.term));
        }
        if !calm && rng.percent(4) && status.last > self.committed {
            let from = rng.between(self.committed.0 + 1, status.last.0 + 1);
            return Some(ReplicaEvent::Deposed { truncate_from: Index(from) });
        }
        let held = status.persisted.min(status.last);
        if held > self.committed && (calm || rng.percent(70)) {
            let to = if calm { held.0 } else { rng.between(self.committed.0 + 1, held.0) };
            self.committed = Index(to);
            return Some(ReplicaEvent::Committed(self.committed));
        }
        // A process that has just started hears it again.
        (status.committed < self.committed).then_some(ReplicaEvent::Committed(self.committed))
    }
}
