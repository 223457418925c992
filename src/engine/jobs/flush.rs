//! A flush: the due axis of a range of the log goes to the disk. Reads the range once, in order,
//! and writes the records that are due behind a bound into a carried run, the keys of all others
//! into a due index.
//!
//! Promises: each event of the range is in exactly one of the two. Holds the far records of the
//! range and the keys of the rest: at most as many bytes as the log had of them, the configured
//! flush size and what came while the job waited.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::sorter::Sorter;
use super::{JobFault, JobOutcome, JobStep};
use crate::base::ids::{Index, Offset, Position, RunNo, TopicNo};
use crate::base::size::{block_ceil, block_floor};
use crate::engine::log::{Body, Content, EntryHeader, Ids, Parsed, Reader, Spot};
use crate::engine::runs::{RunHead, RunIds, RunKey, RunKind, RunRecord, RunWriter};

/// Bytes of the log that are read at once: what is parsed in one step.
const READ_BYTES: u64 = 128 << 10;
/// Records that are put into the run in one step.
const WRITE_RECORDS: usize = 256;

/// What to flush.
#[derive(Clone, Debug)]
pub struct FlushSpec {
    /// The log.
    pub ids: Ids,
    /// Where to read from: an entry at or before the first offset.
    pub start: Spot,
    /// Segments from that one on, each with the end of its applied entries.
    pub segments: Vec<(Index, u64)>,
    /// Which records.
    pub offsets: Range<Offset>,
    /// Those due later than this, Unix ms, and at their `schedule_ts`, are carried.
    pub far: u64,
    /// Of these topics what is due up to `now` is carried as well, since the log goes before it,
    /// and what is due at its `schedule_ts`.
    pub lasting: BTreeSet<TopicNo>,
    /// When the flush began, by the wall clock, Unix ms.
    pub now: u64,
    /// The carried run to be made.
    pub run: RunNo,
    /// The due index to be made.
    pub index: RunNo,
}

impl FlushSpec {
    /// Whether a record goes into the carried run.
    #[must_use]
    pub fn takes(&self, topic: TopicNo, position: Position, schedule_ts: u64) -> bool {
        let exact = schedule_ts == position.due;
        let lasts = (exact || position.due <= self.now) && self.lasting.contains(&topic);
        let carried = exact && position.due > self.far || lasts;
        carried && self.offsets.contains(&position.offset)
    }
}

/// A far record: where it lies.
#[derive(Clone, Copy, Debug)]
struct Far {
    /// Which of the entries that are held.
    entry: u32,
    slot: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Flush {
    spec: FlushSpec,
    reader: Reader,
    /// Which of the segments is read.
    at: usize,
    /// The read under way, or to be done.
    want: Option<(u64, u64)>,
    far: Sorter<Far>,
    /// Entries with far records, until these are written.
    entries: Vec<(EntryHeader, Body)>,
    /// The others, with their `schedule_ts`.
    near: Sorter<u64>,
    phase: Phase,
    outcome: JobOutcome,
}

#[derive(Debug)]
enum Phase {
    Reading,
    Writing(Box<RunWriter>),
    Syncing(RunNo),
    Over,
}

impl Flush {
    pub(super) fn new(spec: FlushSpec) -> Self {
        assert!(spec.segments.first().is_some_and(|(first, _)| *first == spec.start.place.segment));
        let reader = Reader::new(spec.ids, spec.start.place, spec.start.index);
        let mut flush = Self {
            spec,
            reader,
            at: 0,
            want: None,
            far: Sorter::new(),
            entries: Vec::new(),
            near: Sorter::new(),
            phase: Phase::Reading,
            outcome: JobOutcome::default(),
        };
        flush.plan_read(0);
        flush
    }

    pub(super) fn go_on(&mut self) -> JobStep {
        if matches!(self.phase, Phase::Reading) {
            if let Some((position, len)) = self.want {
                let segment = self.spec.segments[self.at].0;
                return JobStep::ReadLog { segment, position, len };
            }
            self.begin_next();
        }
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Writing(writer) => self.write(writer),
            Phase::Syncing(run) => {
                self.begin_next();
                JobStep::Sync { run }
            }
            Phase::Over => JobStep::Done(self.outcome.clone()),
            Phase::Reading => unreachable!("reading ends in writing"),
        }
    }

    pub(super) fn feed(&mut self, bytes: &Bytes) {
        let (position, asked) = self.want.take().expect("a read was asked for");
        let end = self.spec.segments[self.at].1;
        loop {
            match self.reader.next(position, bytes, end) {
                Parsed::Entry { header, body, .. } => self.take(&header, &body),
                Parsed::Need { position: from, len } => {
                    let stuck = from == position && len <= asked && bytes.len() as u64 >= asked;
                    assert!(!stuck, "only a longer read helps");
                    return self.plan_read(len);
                }
                Parsed::End => break,
                Parsed::Bad { position, fault } => {
                    let segment = self.spec.segments[self.at].0;
                    let text = format!("segment {segment}, byte {position}: {fault}");
                    self.outcome.fault = Some(JobFault { run: None, text });
                    return;
                }
            }
        }
        self.at += 1;
        if let Some((segment, _)) = self.spec.segments.get(self.at) {
            self.reader.enter_segment(*segment);
            self.plan_read(0);
        }
    }

    fn plan_read(&mut self, least: u64) {
        let end = self.spec.segments[self.at].1;
        let from = block_floor(self.reader.place().position);
        let rest = block_ceil(end).saturating_sub(from);
        if rest == 0 {
            return;
        }
        self.want = Some((from, rest.min(least.max(READ_BYTES))));
    }

    fn take(&mut self, header: &EntryHeader, body: &Body) {
        let Content::Publish(view) = body.content() else { return };
        let (entry, mut is_held) = (self.entries.len() as u32, false);
        for slot in 0..view.len() {
            let record = view.record(slot);
            let offset = header.base_offset.plus(u64::from(slot));
            let position = Position::new(record.schedule_ts.max(header.append_ts), offset);
            let key = RunKey::new(record.topic, position);
            if !self.spec.offsets.contains(&offset) {
                continue;
            }
            if position.due <= self.spec.far || record.schedule_ts != position.due {
                // It is in memory until it is past, carried or not.
                self.stays_until(position.due);
            }
            if self.spec.takes(record.topic, position, record.schedule_ts) {
                self.far.push(key, Far { entry, slot });
                is_held = true;
            } else {
                self.near.push(key, record.schedule_ts);
            }
        }
        if is_held {
            self.entries.push((*header, body.clone()));
        }
    }

    /// The segment that is read has an event that is due then, Unix ms, and stays in memory.
    fn stays_until(&mut self, due: u64) {
        let segment = self.spec.segments[self.at].0;
        match self.outcome.near.last_mut().filter(|(last, _)| *last == segment) {
            Some((_, last)) => *last = due.max(*last),
            None => self.outcome.near.push((segment, due)),
        }
    }

    /// Begins the carried run, then the due index; ends the job when both are made.
    fn begin_next(&mut self) {
        let (run, kind) = if self.outcome.fault.is_some() {
            self.phase = Phase::Over;
            return;
        } else if !self.far.is_empty() {
            (self.spec.run, RunKind::Carried)
        } else if !self.near.is_empty() {
            (self.spec.index, RunKind::Index)
        } else {
            self.phase = Phase::Over;
            return;
        };
        let (cluster, partition) = (self.spec.ids.cluster, self.spec.ids.partition);
        let ids = RunIds { cluster, partition, run };
        let Range { start: first_offset, end: end_offset } = self.spec.offsets;
        let head = RunHead { ids, kind, first_offset, end_offset };
        self.phase = Phase::Writing(Box::new(RunWriter::new(head)));
    }

    fn write(&mut self, mut writer: Box<RunWriter>) -> JobStep {
        let (run, kind) = (writer.head().ids.run, writer.head().kind);
        for _ in 0..WRITE_RECORDS {
            let more = match kind {
                RunKind::Carried => {
                    let far = self.far.pop_first();
                    far.map(|(key, far)| writer.push(&far.record(key, &self.entries)))
                }
                RunKind::Index => {
                    let near = self.near.pop_first();
                    near.map(|(key, ts)| writer.push(&RunRecord::key_only(key, ts)))
                }
            };
            if more.is_none() {
                let (directory, chunk) = writer.finish();
                let made = Some(Arc::new(directory));
                match kind {
                    RunKind::Carried => {
                        self.outcome.run = made;
                        self.entries = Vec::new();
                    }
                    RunKind::Index => self.outcome.index = made,
                }
                self.phase = Phase::Syncing(run);
                return JobStep::Write { run, position: chunk.position, bytes: chunk.bytes };
            }
            if writer.is_full() {
                break;
            }
        }
        let chunk = writer.take_output();
        self.phase = Phase::Writing(writer);
        match chunk {
            Some(chunk) => JobStep::Write { run, position: chunk.position, bytes: chunk.bytes },
            None => JobStep::Pause,
        }
    }
}

impl Far {
    fn record(self, key: RunKey, entries: &[(EntryHeader, Body)]) -> RunRecord<'_> {
        let (header, body) = &entries[self.entry as usize];
        let Content::Publish(view) = body.content() else {
            unreachable!("only published records are taken");
        };
        let record = view.record(self.slot);
        let bytes = &body.bytes()[..];
        RunRecord {
            key,
            schedule_ts: record.schedule_ts,
            allow_duplicate: record.allow_duplicate,
            tombstone: false,
            append_ts: header.append_ts,
            term: header.term,
            checksum: record.checksum,
            message_id: record.message_id.of(bytes),
            meta: record.meta.of(bytes),
            payload: record.payload.of(bytes),
        }
    }
}
