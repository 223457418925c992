//! Jobs over ids: a frozen window becomes a run of ids, and several of those become one.
//!
//! Both drop what was dead when the job began. That is exact: of two claims to one id where the
//! newer one took it from a dead one, the dead one was dead before the job began, and so never
//! prevails over the other.
//!
//! Nothing is written before there are rows for it: a run without ids has no file.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{JobFault, JobOutcome, JobStep};
use crate::base::ids::{Offset, Position, RunNo, TopicNo};
use crate::engine::dedup::{
    Frozen, Lifetime, MergeStep, Original, Row, RunClosing, RunDirectory, RunFault, RunIds,
    RunMerge, RunWriter,
};
use crate::engine::delivery::Cursor;

/// Rows that are looked at in one step.
const STEP_ROWS: usize = 512;
/// Blocks of index and filters that are written in one step.
const STEP_BLOCKS: usize = 16;
/// Bytes of a run that are handed over at once.
const WRITE_BYTES: usize = 128 << 10;

/// Which ids were alive at one moment.
#[derive(Clone, Debug)]
pub struct Living {
    /// By their age and their due.
    pub lifetime: Lifetime,
    /// By what their groups had settled.
    pub groups: BTreeMap<TopicNo, Vec<Settled>>,
}

/// What one group had settled at that moment.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Events before this offset are not the group's.
    pub min_offset: Offset,
    /// Events due before this are not the group's.
    pub min_due: u64,
    /// Its position.
    pub cursor: Cursor,
}

impl Living {
    fn keeps(&self, original: &Original) -> bool {
        self.lifetime.alive(original, |original| {
            let position = Position::new(original.due(), original.offset);
            let done = |group: &Settled| {
                let own = position.offset >= group.min_offset && position.due >= group.min_due;
                !own || group.cursor.is_settled(position)
            };
            self.groups.get(&original.topic).is_none_or(|groups| groups.iter().all(done))
        })
    }
}

/// A window to be written.
#[derive(Clone, Debug)]
pub struct IdFlushSpec {
    /// The window.
    pub frozen: Arc<Frozen>,
    /// What is kept of it.
    pub living: Living,
    /// The run to be made.
    pub run: RunIds,
}

/// Runs to be merged.
#[derive(Clone, Debug)]
pub struct IdMergeSpec {
    /// The inputs, newest first, side by side in age.
    pub inputs: Vec<Arc<RunDirectory>>,
    /// What is kept of them.
    pub living: Living,
    /// The run to be made.
    pub run: RunIds,
}

/// The file of a run in the making.
#[derive(Debug)]
struct Output {
    ids: RunIds,
    /// What is handed over already, bytes.
    written: u64,
    pending: Vec<u8>,
}

impl Output {
    fn new(ids: RunIds) -> Self {
        Self { ids, written: 0, pending: Vec::new() }
    }

    /// Hands over what has gathered, if that is enough.
    fn write(&mut self, enough: usize) -> Option<JobStep> {
        if self.pending.len() < enough.max(1) {
            return None;
        }
        let (position, bytes) = (self.written, std::mem::take(&mut self.pending));
        self.written += bytes.len() as u64;
        Some(JobStep::Write { run: self.ids.run, position, bytes })
    }
}

/// A flush under way.
#[derive(Debug)]
pub struct IdFlush {
    spec: IdFlushSpec,
    output: Output,
    phase: Phase,
    /// Place of the window's next table.
    place: usize,
    /// Rows of the table before that, the last one first.
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Phase {
    Writing(Box<RunWriter>),
    Closing(Box<RunClosing>),
    Syncing(JobOutcome),
    Over(JobOutcome),
}

impl IdFlush {
    pub(super) fn new(spec: IdFlushSpec) -> Self {
        let mut output = Output::new(spec.run);
        let (offsets, rows) = (spec.frozen.offsets.clone(), spec.frozen.window.len() as u64);
        let writer = RunWriter::new(spec.run, offsets, rows, &mut output.pending);
        let phase = Phase::Writing(Box::new(writer));
        Self { spec, output, phase, place: 0, rows: Vec::new() }
    }

    pub(super) fn go_on(&mut self) -> JobStep {
        if let Some(write) = self.output.write(WRITE_BYTES) {
            return write;
        }
        let nothing = Phase::Over(JobOutcome::default());
        match std::mem::replace(&mut self.phase, nothing) {
            Phase::Writing(writer) => self.write(writer),
            Phase::Closing(closing) => self.close(closing),
            Phase::Syncing(outcome) => {
                if let Some(write) = self.output.write(0) {
                    self.phase = Phase::Syncing(outcome);
                    return write;
                }
                self.phase = Phase::Over(outcome);
                JobStep::Sync { run: self.spec.run.run }
            }
            Phase::Over(outcome) => JobStep::Done(outcome),
        }
    }

    fn write(&mut self, mut writer: Box<RunWriter>) -> JobStep {
        for _ in 0..STEP_ROWS {
            let Some(row) = self.rows.pop() else {
                let Some((mut rows, next)) = self.spec.frozen.window.rows_at(self.place) else {
                    return self.end_rows(*writer);
                };
                rows.retain(|row| self.spec.living.keeps(&row.claim.original));
                rows.reverse();
                (self.rows, self.place) = (rows, next);
                if self.rows.is_empty() {
                    continue;
                }
                break;
            };
            writer.push(row, &mut self.output.pending);
        }
        self.phase = Phase::Writing(writer);
        JobStep::Pause
    }

    fn end_rows(&mut self, writer: RunWriter) -> JobStep {
        if writer.rows() == 0 {
            return JobStep::Done(JobOutcome::default());
        }
        self.phase = Phase::Closing(Box::new(writer.close(&mut self.output.pending)));
        JobStep::Pause
    }

    fn close(&mut self, mut closing: Box<RunClosing>) -> JobStep {
        let complete = closing.write(STEP_BLOCKS, &mut self.output.pending);
        self.phase = if complete {
            let ids = Some(Arc::new(closing.directory()));
            Phase::Syncing(JobOutcome { ids, ..JobOutcome::default() })
        } else {
            Phase::Closing(closing)
        };
        JobStep::Pause
    }
}

/// A merge under way.
#[derive(Debug)]
pub struct IdMerge {
    spec: IdMergeSpec,
    output: Output,
    /// Until the last block is put out.
    merge: Option<Box<RunMerge>>,
    /// The source of the read under way.
    reading: Option<usize>,
    outcome: JobOutcome,
    synced: bool,
}

impl IdMerge {
    pub(super) fn new(spec: IdMergeSpec) -> Self {
        let mut output = Output::new(spec.run);
        let inputs: Vec<&RunDirectory> = spec.inputs.iter().map(|input| &**input).collect();
        let merge = Some(Box::new(RunMerge::new(spec.run, &inputs, &mut output.pending)));
        let outcome = JobOutcome::default();
        Self { spec, output, merge, reading: None, outcome, synced: false }
    }

    pub(super) fn go_on(&mut self) -> JobStep {
        if let Some(write) = self.output.write(WRITE_BYTES) {
            return write;
        }
        let Some(merge) = &mut self.merge else { return self.end() };
        if let Some(read) = merge.next_read() {
            self.reading = Some(read.source);
            let run = self.spec.inputs[read.source].ids().run;
            let (position, len) = (read.read.position, read.read.len);
            return JobStep::ReadRun { run, position, len };
        }
        let living = &self.spec.living;
        let keep = |original: &Original| living.keeps(original);
        match merge.step(STEP_ROWS, keep, &mut self.output.pending) {
            Ok(MergeStep::Working) => {}
            Ok(MergeStep::NeedsRead) => unreachable!("all that there is room for was read"),
            Ok(MergeStep::Done) => {
                let merge = self.merge.take().expect("just stepped");
                let run = merge.finish();
                let ids = (run.rows() > 0).then(|| Arc::new(run));
                self.outcome.ids = ids;
            }
            Err(fault) => {
                let run = self.spec.inputs[fault.source].ids().run;
                self.fail(run, fault.fault);
            }
        }
        JobStep::Pause
    }

    pub(super) fn feed(&mut self, bytes: &Bytes) {
        let source = self.reading.take().expect("a read was asked for");
        let merge = self.merge.as_mut().expect("a read belongs to a merge");
        if let Err(fault) = merge.feed(source, bytes.clone()) {
            let run = self.spec.inputs[source].ids().run;
            self.fail(run, fault.fault);
        }
    }

    fn fail(&mut self, run: RunNo, fault: RunFault) {
        self.merge = None;
        let fault = JobFault { run: Some(run), text: format!("run {run} of ids: {fault}") };
        self.outcome = JobOutcome { fault: Some(fault), ..JobOutcome::default() };
    }

    fn end(&mut self) -> JobStep {
        if self.outcome.ids.is_none() || self.synced {
            return JobStep::Done(self.outcome.clone());
        }
        if let Some(write) = self.output.write(0) {
            return write;
        }
        self.synced = true;
        JobStep::Sync { run: self.spec.run.run }
    }
}
