//! What runs were found to say of ids that someone asks for, and what is still to be read.
//!
//! A finding stays true: a run never changes, and a claim that a merge drops was dead, or did not
//! prevail. So it does no harm if the run has gone meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layout::BlockRead;
use super::row::Claim;
use super::run_directory::RunDirectory;
use super::window::IdHash;
use crate::base::ids::RunNo;

/// A look into a run.
#[derive(Clone, Debug)]
pub struct RunLook {
    /// Which id it is for.
    pub hash: IdHash,
    /// Which run.
    pub run: Arc<RunDirectory>,
    /// Where the id must be in it.
    pub read: BlockRead,
}

/// What is known of an id in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The run was not read for it.
    Unread,
    /// It is not there: the filter was wrong.
    Absent,
    /// This has it.
    Claimed(Claim),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Findings {
    claims: BTreeMap<(IdHash, RunNo), Option<Claim>>,
}

impl Findings {
    /// The run was read: what it says of the id.
    pub fn insert(&mut self, hash: IdHash, run: RunNo, claim: Option<Claim>) {
        self.claims.insert((hash, run), claim);
    }

    /// Whether no run was read.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// What a run says of an id.
    pub(super) fn of_run(&self, hash: IdHash, run: RunNo) -> Finding {
        match self.claims.get(&(hash, run)) {
            None => Finding::Unread,
            Some(None) => Finding::Absent,
            Some(Some(claim)) => Finding::Claimed(*claim),
        }
    }

    /// All claims to an id that were found.
    pub(super) fn of(&self, hash: IdHash) -> impl Iterator<Item = Claim> {
        let claims = self.claims.range((hash, RunNo(0))..=(hash, RunNo(u64::MAX)));
        claims.filter_map(|(_, claim)| *claim)
    }
}
