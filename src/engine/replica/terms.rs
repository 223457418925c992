//! The terms of a log, without reading it: where each term begins.
//!
//! What must hold: the beginnings rise in index and never fall in term; all lie behind `truncated`
//! and none behind `last`.

use std::collections::VecDeque;

use crate::base::ids::{Index, Term};

#[derive(Debug)]
pub(super) struct Terms {
    /// The last entry before the log, and its term.
    truncated: (Index, Term),
    /// First entry whose term is known beside `truncated`.
    known_from: Index,
    /// First entry of each run of one term, and that term.
    begins: VecDeque<(Index, Term)>,
    last: (Index, Term),
}

impl Terms {
    /// A log from behind `truncated` to `last` of whose middle nothing is known.
    pub(super) fn new(truncated: (Index, Term), last: (Index, Term)) -> Self {
        assert!(truncated.1 <= last.1, "terms never fall along the log");
        assert!(truncated.0 < last.0 || truncated.1 == last.1, "an entry has one term");
        let same = truncated.1 == last.1;
        let known_from = if same { truncated.0.next() } else { last.0 };
        let begins = if truncated.0 == last.0 { None } else { Some((known_from, last.1)) };
        Self { truncated, known_from, begins: begins.into_iter().collect(), last }
    }

    pub(super) fn last(&self) -> (Index, Term) {
        self.last
    }

    pub(super) fn truncated(&self) -> (Index, Term) {
        self.truncated
    }

    pub(super) fn push(&mut self, index: Index, term: Term) {
        if self.begins.back().is_none_or(|&(_, newest)| newest != term) {
            self.begins.push_back((index, term));
        }
        self.last = (index, term);
    }

    pub(super) fn get(&self, index: Index) -> Option<Term> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        if index < self.known_from || index > self.last.0 {
            return None;
        }
        let behind = self.begins.partition_point(|&(first, _)| first <= index);
        Some(self.begins[behind - 1].1)
    }

    /// The log ends before `index` from now on.
    pub(super) fn truncate_from(&mut self, index: Index) {
        if index > self.last.0 {
            return;
        }
        let end = Index(index.0 - 1);
        let term = self.get(end).expect("what stays of the log has a known last term");
        while self.begins.back().is_some_and(|&(first, _)| first >= index) {
            self.begins.pop_back();
        }
        self.last = (end, term);
    }

    /// The log begins behind `index` from now on.
    pub(super) fn truncate_head(&mut self, index: Index) {
        if index <= self.truncated.0 {
            return;
        }
        let term = self.get(index).expect("the log is cut where its term is known");
        while self.begins.get(1).is_some_and(|&(first, _)| first <= index.next()) {
            self.begins.pop_front();
        }
        if index == self.last.0 {
            self.begins.clear();
        } else if let Some((first, _)) = self.begins.front_mut() {
            *first = (*first).max(index.next());
        }
        self.truncated = (index, term);
        self.known_from = index.next();
    }
}
