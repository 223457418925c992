//! Jobs: work over immutable files, which the engine sees only at its ends.
//!
//! ```text
//!   Effect::StartJob(spec)      driver: Job::new(spec)
//!                               loop { job.go_on() -> read, write, sync -> job.feed(bytes) }
//!   Input::JobDone(outcome)     the engine installs the result, if it still wants it
//! ```
//! A job is a pure state machine too: the shard runs it in a task beside the pump, the simulator at
//! its own pace. What must hold: each call does a bounded amount of work; a crash in the middle
//! leaves files that nothing refers to; the log and the runs that it reads do not change under it.

pub mod flush;
pub mod ids;
pub mod merge;
pub mod places;
mod sorter;

use std::sync::Arc;

use bytes::Bytes;

use super::dedup::RunDirectory;
use super::runs::Directory;
use crate::base::ids::{Index, RunNo};
use flush::{Flush, FlushSpec};
use ids::{IdFlush, IdFlushSpec, IdMerge, IdMergeSpec};
use merge::{MergeJob, MergeSpec};

/// What is to be done.
#[derive(Clone, Debug)]
pub enum JobSpec {
    /// Carry what is due far ahead from a range of the log into a run.
    Flush(FlushSpec),
    /// Make one run of several.
    Merge(MergeSpec),
    /// Make a run of ids of a window.
    FlushIds(IdFlushSpec),
    /// Make one run of ids of several.
    MergeIds(IdMergeSpec),
}

/// What a job asks of its driver.
#[derive(Debug)]
pub enum JobStep {
    /// Read from the log; fewer bytes only where the file ends. Answered by [`Job::feed`].
    ReadLog {
        /// Which segment.
        segment: Index,
        /// First byte, a multiple of 4 KiB.
        position: u64,
        /// Bytes, a multiple of 4 KiB.
        len: u64,
    },
    /// Read from a run; answered by [`Job::feed`].
    ReadRun {
        /// Which run.
        run: RunNo,
        /// First byte, a multiple of 4 KiB.
        position: u64,
        /// Bytes, a multiple of 4 KiB.
        len: u64,
    },
    /// Write to the run that is made, whole blocks, in file order; the first one makes the file.
    Write {
        /// Which run.
        run: RunNo,
        /// First byte.
        position: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Make the run and its directory entry durable.
    Sync {
        /// Which run.
        run: RunNo,
    },
    /// Nothing: let others work, then ask again.
    Pause,
    /// It is over.
    Done(JobOutcome),
}

/// What came of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOutcome {
    /// The run that was made; `None` if there was nothing to put into it.
    pub run: Option<Arc<Directory>>,
    /// The due index that a flush made beside it; `None` if there was nothing to put into it.
    pub index: Option<Arc<Directory>>,
    /// Per segment that a flush has read, the last due of what no carried run has, Unix ms.
    pub near: Vec<(Index, u64)>,
    /// The run of ids that was made; `None` if none was wanted, or there was nothing to put in.
    pub ids: Option<Arc<RunDirectory>>,
    /// What could not be read: nothing was made.
    pub fault: Option<JobFault>,
}

/// What a job could not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFault {
    /// The run; `None`: the log.
    pub run: Option<RunNo>,
    /// Where, and what is wrong there, for people.
    pub text: String,
}

/// A job under way.
#[derive(Debug)]
pub enum Job {
    /// See [`Flush`].
    Flush(Box<Flush>),
    /// See [`MergeJob`].
    Merge(Box<MergeJob>),
    /// See [`IdFlush`].
    FlushIds(Box<IdFlush>),
    /// See [`IdMerge`].
    MergeIds(Box<IdMerge>),
}

impl Job {
    /// Begins a job.
    #[must_use]
    pub fn new(spec: JobSpec) -> Self {
        match spec {
            JobSpec::Flush(spec) => Self::Flush(Box::new(Flush::new(spec))),
            JobSpec::Merge(spec) => Self::Merge(Box::new(MergeJob::new(spec))),
            JobSpec::FlushIds(spec) => Self::FlushIds(Box::new(IdFlush::new(spec))),
            JobSpec::MergeIds(spec) => Self::MergeIds(Box::new(IdMerge::new(spec))),
        }
    }

    /// What is to be done next. After a read: once its bytes are fed.
    pub fn go_on(&mut self) -> JobStep {
        match self {
            Self::Flush(flush) => flush.go_on(),
            Self::Merge(merge) => merge.go_on(),
            Self::FlushIds(flush) => flush.go_on(),
            Self::MergeIds(merge) => merge.go_on(),
        }
    }

    /// The bytes of the last read.
    pub fn feed(&mut self, bytes: &Bytes) {
        match self {
            Self::Flush(flush) => flush.feed(bytes),
            Self::Merge(merge) => merge.feed(bytes),
            Self::FlushIds(_) => unreachable!("a window is in memory"),
            Self::MergeIds(merge) => merge.feed(bytes),
        }
    }
}
