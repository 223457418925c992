//! A merge: one run of several of a kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{JobFault, JobOutcome, JobStep};
use crate::base::ids::{Offset, Position, RunNo, TopicNo};
use crate::engine::runs::{Directory, Merge, MergeProgress, RunKey, RunWriter};

/// Records that are merged in one step.
const STEP_RECORDS: usize = 256;

/// What to merge.
#[derive(Clone, Debug)]
pub struct MergeSpec {
    /// The inputs, oldest first, of adjoining offsets.
    pub inputs: Vec<Arc<Directory>>,
    /// The run to be made.
    pub run: RunNo,
    /// What is left out.
    pub gone: Gone,
}

/// Records that nobody needs any more.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    /// Those of offsets before this.
    pub before: Offset,
    /// Those of a topic up to here.
    pub edges: BTreeMap<TopicNo, Position>,
}

impl Gone {
    fn has(&self, key: &RunKey) -> bool {
        let past = self.edges.get(&key.topic).is_some_and(|edge| key.position <= *edge);
        past || key.position.offset < self.before
    }
}

/// See the module.
#[derive(Debug)]
pub struct MergeJob {
    spec: MergeSpec,
    merge: Merge,
    /// The input of the read under way.
    reading: Option<usize>,
    fault: Option<JobFault>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Merging(Box<RunWriter>),
    Syncing(JobOutcome),
    Over(JobOutcome),
}

impl MergeJob {
    pub(super) fn new(spec: MergeSpec) -> Self {
        // All older runs are among the inputs or hold nothing of theirs: offsets are disjoint.
        let merge = Merge::new(spec.inputs.clone(), true);
        let writer = RunWriter::new(merge.head(spec.run));
        let phase = Phase::Merging(Box::new(writer));
        Self { spec, merge, reading: None, fault: None, phase }
    }

    pub(super) fn go_on(&mut self) -> JobStep {
        let run = self.spec.run;
        let writer = match &mut self.phase {
            Phase::Merging(writer) => writer,
            Phase::Syncing(outcome) => {
                self.phase = Phase::Over(outcome.clone());
                return JobStep::Sync { run };
            }
            Phase::Over(outcome) => return JobStep::Done(outcome.clone()),
        };
        if let Some(fault) = self.fault.take() {
            return self.over(JobOutcome { fault: Some(fault), ..JobOutcome::default() });
        }
        let gone = &self.spec.gone;
        let progress = self.merge.step(STEP_RECORDS, writer, |record| !gone.has(&record.key));
        // Nothing is written before there is a record: an empty run has no file.
        let output = if writer.records() > 0 { writer.take_output() } else { None };
        if let Some(chunk) = output {
            return JobStep::Write { run, position: chunk.position, bytes: chunk.bytes };
        }
        match progress {
            MergeProgress::Working => JobStep::Pause,
            MergeProgress::Waiting => {
                let read = self.merge.next_read().expect("a step waits for what is to be read");
                self.reading = Some(read.input);
                let (position, len) = (read.extent.position, read.extent.len);
                JobStep::ReadRun { run: read.run, position, len }
            }
            MergeProgress::Done => self.finish(),
        }
    }

    pub(super) fn feed(&mut self, bytes: &Bytes) {
        let input = self.reading.take().expect("a read was asked for");
        if let Err(fault) = self.merge.feed(input, bytes) {
            self.fault = Some(JobFault { run: Some(fault.run), text: fault.to_string() });
        }
    }

    fn finish(&mut self) -> JobStep {
        let nothing = Phase::Over(JobOutcome::default());
        let Phase::Merging(writer) = std::mem::replace(&mut self.phase, nothing) else {
            unreachable!("a merge is finished once");
        };
        if writer.records() == 0 {
            return JobStep::Done(JobOutcome::default());
        }
        let run = self.spec.run;
        let (directory, chunk) = writer.finish();
        self.phase =
            Phase::Syncing(JobOutcome { run: Some(Arc::new(directory)), ..JobOutcome::default() });
        JobStep::Write { run, position: chunk.position, bytes: chunk.bytes }
    }

    fn over(&mut self, outcome: JobOutcome) -> JobStep {
        self.phase = Phase::Over(outcome.clone());
        JobStep::Done(outcome)
    }
}
