//! Checkpoints: what a start needs so that it reads the end of the log only.
//!
//! ```text
//!   log:   [ ...... in runs ...... | resume ... flushed | ... last | ... end ]
//!                                    \- due axis again -/            \- applied as ever
//! ```
//! A checkpoint is a manifest: the applied state up to `last` (as state bodies), the runs that hold
//! the due axis of all offsets before `flushed`, and the sparse index up to `resume`, from where
//! the log is read on. It is **derived**: one that is damaged, or speaks of files that are not
//! there, only costs the time to read the log before it.
//!
//! File: `magic, version u32, partition u32, cluster, number, body length u64, body CRC32 u32,
//! zero u32, head CRC32 u32, zero u32`, then the body: numbers, run lists, index, state bodies; all
//! little endian. Both checksums are checked before a byte is believed.
//!
//! Must hold: everything in it is durable before it is written; a run that one of the two newest
//! lists is not removed.

use std::sync::Arc;

use bytes::Bytes;

use super::adopt::{adopt, open_run};
use super::dedup::{self, IdRuns, RunDirectory, RunLoad};
use super::log::{Body, Content, Ids, Place, SegmentFile, SegmentNotes, Spot};
use super::runs::{Directory, RunKind};
use crate::base::ids::{Index, Offset, RunNo, Term, TopicNo};

const MAGIC: u64 = 0x7470_6b63_536e_7268;
/// Version 1 has neither `near` nor `passed`.
const VERSION: u32 = 2;
/// Bytes before the body.
const HEAD_BYTES: usize = 56;
/// Bytes of the head that its checksum covers.
const COVERED: usize = 48;

/// See the module.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Whose.
    pub ids: Ids,
    /// Rises by one from checkpoint to checkpoint.
    pub number: u64,
    /// Last entry whose effects on groups and settings are in it.
    pub last: (Index, Term),
    /// Its `append_ts`.
    pub applied_ts: u64,
    /// Offset behind the last record applied.
    pub applied_end: Offset,
    /// The due axis of all records before this is in runs.
    pub flushed: Offset,
    /// Where reading the log goes on: an entry at or before `flushed` and `ids_end`.
    pub resume: Spot,
    /// Number of the run begun last.
    pub last_run: RunNo,
    /// Carried runs, oldest first.
    pub carried: Vec<RunNo>,
    /// Due indexes, oldest first.
    pub indexes: Vec<RunNo>,
    /// The ids of all records before this are in runs of ids.
    pub ids_end: Offset,
    /// Runs of ids, newest first.
    pub id_runs: Vec<RunNo>,
    /// The sparse index before `resume`.
    pub notes: Vec<SegmentNotes>,
    /// Per segment, the last due of what no carried run has, Unix ms.
    pub near: Vec<(Index, u64)>,
    /// Per topic, by how much events were late when they were published, at most, ms; topics whose
    /// events were not are not among them. `None`: nobody knows.
    pub passed: Option<Vec<(TopicNo, u64)>>,
    /// The applied state, in parts.
    pub state: Vec<Body>,
}

/// A checkpoint whose runs are there.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The manifest.
    pub checkpoint: Checkpoint,
    /// Directories of its carried runs.
    pub carried: Vec<Arc<Directory>>,
    /// Directories of its due indexes.
    pub indexes: Vec<Arc<Directory>>,
    /// Its runs of ids.
    pub ids: IdRuns,
}

/// The checkpoints that a start has found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What it goes on from; `None`: from the log's beginning.
    pub restored: Option<Box<Restored>>,
    /// Checkpoints that stay, oldest first. All other files go.
    pub kept: Vec<Kept>,
    /// Carried runs that are there though no checkpoint can be used: some have what the log has
    /// not.
    pub adopted: Vec<Arc<Directory>>,
    /// Runs that are there then and cannot be opened, each with the first offset it may have.
    pub suspects: Vec<(RunNo, Offset)>,
    /// What is lost for good, for people: a run is damaged, and the log begins behind it.
    pub lost: Option<String>,
}

impl Found {
    /// Whether a run's file stays: all others go.
    #[must_use]
    pub fn keeps(&self, run: RunNo) -> bool {
        self.lost.is_some()
            || self.kept.iter().any(|kept| kept.runs.contains(&run))
            || self.adopted.iter().any(|adopted| adopted.head().ids.run == run)
            || self.suspects.iter().any(|(suspect, _)| *suspect == run)
    }

    /// Whether a checkpoint's file stays: all others go.
    #[must_use]
    pub fn keeps_checkpoint(&self, number: u64) -> bool {
        self.lost.is_some() || self.kept.iter().any(|kept| kept.number == number)
    }
}

/// A checkpoint on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub number: u64,
    /// The runs that it lists.
    pub runs: Vec<RunNo>,
    /// It needs no segment before this.
    pub resume: Index,
}

/// The files of runs, before a start.
pub trait RunFiles {
    /// Bytes of a run's file; `None` if there is none.
    fn len(&self, run: RunNo) -> Option<u64>;
    /// All runs that there are.
    fn all(&self) -> Vec<RunNo>;
    /// `len` bytes of it from `position` on; `None` if they are not there.
    fn read(&self, run: RunNo, position: u64, len: u64) -> Option<Bytes>;
}

/// Chooses the newest checkpoint whose log and runs are there. `files`: number and bytes of each.
/// `log_start`: segments before it are none of the log any more.
/// `refuse` hears of those that are not used, and why.
pub fn choose(
    mut files: Vec<(u64, Bytes)>,
    ids: Ids,
    (segments, log_start): (&[SegmentFile], Index),
    runs_of: &impl RunFiles,
    mut refuse: impl FnMut(u64, CheckpointFault),
) -> Found {
    files.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut found = Found::default();
    let mut lost = None;
    for (number, bytes) in files {
        let decoded = Checkpoint::decode(&bytes, ids).and_then(|checkpoint| {
            checkpoint.check_segments(segments, log_start)?;
            Ok(checkpoint)
        });
        let read = decoded.and_then(|checkpoint| {
            let kept = checkpoint.kept();
            if found.restored.is_some() {
                // Kept for another start, which will look into its runs.
                let there = kept.runs.iter().all(|run| runs_of.len(*run).is_some());
                return if there { Ok((kept, None)) } else { Err(CheckpointFault::Run) };
            }
            let mut all = |runs: &[RunNo], kind| {
                let of_kind = |run: &Arc<Directory>| run.head().kind == kind;
                let open = |run: &RunNo| open_run(ids, *run, runs_of).filter(of_kind).ok_or(*run);
                runs.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(|run| {
                    if kind == RunKind::Carried {
                        lost.get_or_insert(run);
                    }
                    CheckpointFault::Run
                })
            };
            let carried = all(&checkpoint.carried, RunKind::Carried)?;
            let indexes = all(&checkpoint.indexes, RunKind::Index)?;
            let id_runs = checkpoint.id_runs.iter().map(|run| open_ids(ids, *run, runs_of));
            let id_runs = id_runs.collect::<Option<Vec<_>>>().ok_or(CheckpointFault::Run)?;
            let ids = IdRuns::new(id_runs, checkpoint.ids_end).ok_or(CheckpointFault::Run)?;
            Ok((kept, Some(Box::new(Restored { checkpoint, carried, indexes, ids }))))
        });
        match read {
            Ok((kept, restored)) if kept.number == number => {
                found.kept.insert(0, kept);
                found.restored = found.restored.take().or(restored);
            }
            Ok(_) => refuse(number, CheckpointFault::Foreign),
            Err(fault) => refuse(number, fault),
        }
    }
    if found.restored.is_none() && log_start > Index(1) {
        found.lost = lost.map(|run| format!("run {run} is not there or damaged"));
        (found.adopted, found.suspects) = adopt(ids, runs_of);
    }
    found
}

/// Reads the directory and the filters of a run of ids; `None` if it is damaged.
pub fn open_ids(ids: Ids, run: RunNo, files: &impl RunFiles) -> Option<Arc<RunDirectory>> {
    let ids = dedup::RunIds { cluster: ids.cluster, partition: ids.partition, run };
    let mut load = RunLoad::new(ids, files.len(run)?).ok()?;
    while let Some(read) = load.next_read() {
        load.feed(&files.read(run, read.position, read.len)?).ok()?;
    }
    Some(Arc::new(load.finish()))
}

/// Why a checkpoint is not used, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFault {
    /// It ends too early, or there is more of it.
    Length,
    /// A checksum does not fit.
    Checksum,
    /// It is another partition's or another data directory's, or of another version.
    Foreign,
    /// A number in it is impossible.
    Field,
    /// The log does not have the segments that it speaks of.
    Segments,
    /// A run that it speaks of is not there, or damaged.
    Run,
}

impl std::fmt::Display for CheckpointFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Length => "its length is wrong",
            Self::Checksum => "its checksum does not fit",
            Self::Foreign => "it is of another log, or of another version",
            Self::Field => "a number in it is impossible",
            Self::Run => "a run that it speaks of is not there, or damaged",
            Self::Segments => "segments that it speaks of are not there",
        })
    }
}

impl Checkpoint {
    /// What is kept in mind of it.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let resume = self.resume.place.segment;
        Kept { number: self.number, runs: self.runs().collect(), resume }
    }

    /// All runs that it speaks of.
    pub fn runs(&self) -> impl Iterator<Item = RunNo> + '_ {
        self.carried.iter().chain(&self.indexes).chain(&self.id_runs).copied()
    }

    /// Whether these files can be the log that it was made of, which begins with `log_start` now.
    pub fn check_segments(
        &self,
        segments: &[SegmentFile],
        log_start: Index,
    ) -> Result<(), CheckpointFault> {
        let resume = self.resume.place.segment;
        let there = segments.iter().map(|file| file.first);
        let there = there.filter(|first| (log_start..=resume).contains(first));
        let spoken_of = self.notes.iter().map(|notes| notes.first);
        let last = self.notes.last().is_none_or(|last| last.first != resume).then_some(resume);
        let same = there.eq(spoken_of.filter(|first| *first >= log_start).chain(last));
        if same && resume >= log_start { Ok(()) } else { Err(CheckpointFault::Segments) }
    }

    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD_BYTES];
        let resume = self.resume;
        let numbers = [
            self.last.0.0,
            self.last.1.0,
            self.applied_ts,
            self.applied_end.0,
            self.flushed.0,
            resume.place.segment.0,
            resume.place.position,
            resume.index.0,
            self.last_run.0,
            self.carried.len() as u64,
            self.indexes.len() as u64,
            self.ids_end.0,
            self.id_runs.len() as u64,
            self.notes.len() as u64,
            self.state.len() as u64,
            self.near.len() as u64,
            self.passed.as_ref().map_or(0, |passed| passed.len() as u64),
        ];
        let mut put = |number: u64| out.extend_from_slice(&number.to_le_bytes());
        numbers.into_iter().for_each(&mut put);
        self.runs().for_each(|run| put(run.0));
        for notes in &self.notes {
            notes.to_numbers(&mut put);
        }
        self.near.iter().flat_map(|(first, due)| [first.0, *due]).for_each(&mut put);
        let passed = self.passed.iter().flatten();
        passed.flat_map(|(topic, ms)| [u64::from(topic.0), *ms]).for_each(&mut put);
        for body in &self.state {
            out.extend_from_slice(&(body.bytes().len() as u64).to_le_bytes());
            out.extend_from_slice(body.bytes());
        }
        let body_crc = crc32fast::hash(&out[HEAD_BYTES..]);
        let body_len = (out.len() - HEAD_BYTES) as u64;
        let head = &mut out[..HEAD_BYTES];
        head[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&u32::from(self.ids.partition.0).to_le_bytes());
        head[16..24].copy_from_slice(&self.ids.cluster.to_le_bytes());
        head[24..32].copy_from_slice(&self.number.to_le_bytes());
        head[32..40].copy_from_slice(&body_len.to_le_bytes());
        head[40..44].copy_from_slice(&body_crc.to_le_bytes());
        let crc = crc32fast::hash(&head[..COVERED]);
        head[COVERED..COVERED + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a file. Never panics, whatever the bytes are.
    pub fn decode(bytes: &Bytes, ids: Ids) -> Result<Self, CheckpointFault> {
        use CheckpointFault as F;
        let head = bytes.get(..HEAD_BYTES).ok_or(F::Length)?;
        let number_at =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let crc_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
        if crc_at(COVERED) != crc32fast::hash(&head[..COVERED]) || crc_at(COVERED + 4) != 0 {
            return Err(F::Checksum);
        }
        let version = number_at(8) as u32;
        let whose = (u64::from(version) | u64::from(ids.partition.0) << 32, ids.cluster);
        let known = (1..=VERSION).contains(&version);
        if number_at(0) != MAGIC || (number_at(8), number_at(16)) != whose || !known {
            return Err(F::Foreign);
        }
        if number_at(32) != (bytes.len() - HEAD_BYTES) as u64 {
            return Err(F::Length);
        }
        if crc_at(40) != crc32fast::hash(&bytes[HEAD_BYTES..]) || crc_at(44) != 0 {
            return Err(F::Checksum);
        }
        Numbers { bytes, at: HEAD_BYTES, version }.checkpoint(ids, number_at(24))
    }
}

/// Reads the numbers of a body one by one.
struct Numbers<'a> {
    bytes: &'a Bytes,
    at: usize,
    version: u32,
}

impl Numbers<'_> {
    fn next(&mut self) -> Result<u64, CheckpointFault> {
        let bytes = self.bytes.get(self.at..self.at + 8).ok_or(CheckpointFault::Length)?;
        self.at += 8;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    fn checkpoint(mut self, ids: Ids, number: u64) -> Result<Checkpoint, CheckpointFault> {
        let last = (Index(self.next()?), Term(self.next()?));
        let (applied_ts, applied_end) = (self.next()?, Offset(self.next()?));
        let flushed = Offset(self.next()?);
        let place = Place::new(Index(self.next()?), self.next()?);
        let resume = Spot { place, index: Index(self.next()?) };
        let last_run = RunNo(self.next()?);
        let (carried, indexes) = (self.next()?, self.next()?);
        let (ids_end, id_runs) = (Offset(self.next()?), self.next()?);
        let (segments, parts) = (self.next()?, self.next()?);
        let is_first = self.version == 1;
        let (near, passed) = if is_first { (0, 0) } else { (self.next()?, self.next()?) };
        let mut runs = |count: u64| -> Result<Vec<RunNo>, CheckpointFault> {
            (0..count).map(|_| self.next().map(RunNo)).collect()
        };
        let (carried, indexes, id_runs) = (runs(carried)?, runs(indexes)?, runs(id_runs)?);
        let mut notes = Vec::new();
        for _ in 0..segments {
            notes.push(
                SegmentNotes::from_numbers(|| self.next().ok()).ok_or(CheckpointFault::Field)?,
            );
        }
        let near = self.pairs(near)?.into_iter().map(|(first, due)| (Index(first), due));
        let near: Vec<_> = near.collect();
        let passed = self.pairs(passed)?.into_iter().map(|(topic, ms)| {
            let topic = u32::try_from(topic).map_err(|_| CheckpointFault::Field)?;
            Ok((TopicNo(topic), ms))
        });
        let passed = passed.collect::<Result<Vec<_>, CheckpointFault>>()?;
        let passed = (!is_first).then_some(passed);
        let state: Vec<Body> = (0..parts).map(|_| self.body()).collect::<Result<_, _>>()?;
        let sound = flushed.max(ids_end) <= applied_end
            && resume.index <= last.0
            && place.segment <= resume.index
            && notes.is_sorted_by(|a, b| a.first < b.first)
            && near.is_sorted_by(|a, b| a.0 < b.0)
            && notes.last().is_none_or(|last| last.first <= place.segment)
            && carried.iter().chain(&indexes).chain(&id_runs).all(|run| *run <= last_run)
            && self.at == self.bytes.len();
        if !sound {
            return Err(CheckpointFault::Field);
        }
        Ok(Checkpoint {
            ids,
            number,
            last,
            applied_ts,
            applied_end,
            flushed,
            resume,
            last_run,
            carried,
            indexes,
            ids_end,
            id_runs,
            notes,
            near,
            passed,
            state,
        })
    }

    fn pairs(&mut self, count: u64) -> Result<Vec<(u64, u64)>, CheckpointFault> {
        (0..count).map(|_| Ok((self.next()?, self.next()?))).collect()
    }

    fn body(&mut self) -> Result<Body, CheckpointFault> {
        let len = usize::try_from(self.next()?).map_err(|_| CheckpointFault::Field)?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(CheckpointFault::Length)?;
        // Read where it is aligned as it was made.
        let bytes = Bytes::copy_from_slice(&self.bytes[self.at..end]);
        self.at = end;
        let body = Body::verify(bytes).map_err(|_| CheckpointFault::Field)?;
        if matches!(body.content(), Content::State(_)) {
            Ok(body)
        } else {
            Err(CheckpointFault::Field)
        }
    }
}

/// The name of a checkpoint's file.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:020}.checkpoint")
}

/// The number of a checkpoint's file; `None` if it is none.
#[must_use]
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".checkpoint")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "checkpoint_test.rs"]
mod tests;
