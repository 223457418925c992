//! What a partition keeps in mind to let go of what nobody needs any more.
//!
//! ```text
//!   segments:  removed | log_start ... sealed ... | tail
//!   an event is kept until max(append, due) + retention, and until every group has settled it
//! ```
//! Must hold: what is removed is past its time and settled, or a carried run has it; the log's new
//! start is durable before a file goes.

use std::collections::BTreeMap;

use super::log::Body;
use crate::base::ids::{Index, Offset, RunNo};

/// See the module.
#[derive(Debug, Default)]
pub struct Retention {
    /// Records before this are in carried runs, or gone.
    pub log_start: Offset,
    /// Per segment, the last due of what no carried run has, Unix ms.
    pub near: BTreeMap<Index, u64>,
    /// The new start of the log, while it is being saved.
    pub saving: Option<Index>,
    /// The log is held by unsettled events beyond the size that is allowed: publishes are refused.
    pub is_full: bool,
    /// When to look next, boot time in ms.
    pub next_check_ms: u64,
    /// When to look though nothing else happens, boot time in ms; `None`: nothing is ever removed,
    /// or the first look is still to come.
    pub wake_ms: Option<u64>,
    /// Log time at the last look, before the first one the log's last stamp, Unix ms.
    pub seen_ms: u64,
    /// The moment of the last look: log time, not ahead of the wall, Unix ms.
    pub now_ms: u64,
    /// What is due later is not past its time, where its topic does not say, Unix ms.
    pub passed_ms: u64,
    /// Log time has jumped: nothing is removed before this, boot time in ms.
    pub trusted_from_ms: u64,
    /// Of offsets before the second, nothing that is due up to the first (Unix ms) is in memory,
    /// but for what runs carry.
    pub trimmed: (u64, Offset),
    /// Up to where memory has to be trimmed first, Unix ms.
    pub trim_to: Option<u64>,
    /// A carried run of which so much is past and settled that it is written anew.
    pub merge: Option<RunNo>,
    /// Runs that cannot be opened, each with the first offset it may have, until the log's
    /// beginning is read.
    pub suspects: Vec<(RunNo, Offset)>,
    /// One of them has what the log has not, for people.
    pub lost: Option<String>,
    /// How the log begins, while it is read without a checkpoint.
    pub begin: Begin,
}

/// How a log that is read begins.
#[derive(Debug, Default)]
pub enum Begin {
    /// With nothing before it, or a checkpoint.
    #[default]
    Known,
    /// With the state of all that was before it: the parts so far.
    State(Vec<Body>),
}
