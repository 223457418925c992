//! A checkpoint that has runs made anew: it is as another one, and speaks only of runs that have
//! what the log has not.
//!
//! ```text
//!   offsets:     removed | log_start .... log ................ |
//!   was:         [ run ] [ run .... ] [ run ] [ run ]            resume -> (the log's end)
//!   renewed:     [ run ] [ run .... ]                   resume -> (all of the log)
//! ```
//! A start that finds a run damaged can do without any checkpoint only as long as the log is whole.
//! Behind removed segments ids and dead letters are in runs of ids and checkpoints alone, and would
//! be forgotten with them. From this one a start takes the state, those runs and those ids, and the
//! due axis and all other ids from the log.
//!
//! Must hold: it needs nothing that was not durable for the checkpoint it is made of.

use bytes::Bytes;

use super::adopt::head_of;
use super::checkpoint::{Checkpoint, RunFiles, open_ids};
pub use super::log::envelope::HEAD_BYTES;
use super::log::envelope::decode_head;
use super::log::{Ids, Place, SegmentFile, Spot};
use crate::base::ids::{Index, Offset, PartitionId, RunNo};

/// Numbers between the newest checkpoint and a renewed one: another may be on its way to the disk.
const STEP: u64 = 2;

/// Whose log it is that begins with a segment, and the first offset in it; `None` if these are not
/// its first bytes, of which [`HEAD_BYTES`] are needed.
#[must_use]
pub fn beginning(head: &[u8], partition: PartitionId, segment: Index) -> Option<(Ids, Offset)> {
    let (envelope, header) = decode_head(head).ok()?;
    let is_first = envelope.segment == segment && header.index == segment;
    let ids = Ids { cluster: envelope.cluster, partition: envelope.partition };
    (is_first && ids.partition == partition).then_some((ids, header.base_offset))
}

/// The number and the bytes of a checkpoint made of the newest of `files` (number and bytes of
/// each) that can be. The log begins with the first of `segments`, and `start` is the offset there.
/// `None` if there is none, or a run does not say which offsets it has.
pub fn renew(
    mut files: Vec<(u64, Bytes)>,
    ids: Ids,
    (segments, start): (&[SegmentFile], Offset),
    runs: &impl RunFiles,
) -> Option<(u64, Vec<u8>)> {
    files.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let number = files.first()?.0 + STEP;
    let first = segments.first()?.first;
    files.iter().find_map(|(_, bytes)| {
        let checkpoint = Checkpoint::decode(bytes, ids).ok()?;
        checkpoint.check_segments(segments, first).ok()?;
        let renewed = checkpoint.renewed(number, first, start, runs)?;
        let bytes = renewed.encode();
        assert!(
            Checkpoint::decode(&Bytes::copy_from_slice(&bytes), ids).is_ok(),
            "what is written can be read"
        );
        Some((number, bytes))
    })
}

impl Checkpoint {
    fn renewed(
        self,
        number: u64,
        first: Index,
        start: Offset,
        runs: &impl RunFiles,
    ) -> Option<Self> {
        let ids = self.ids;
        let begins = |run: &RunNo| head_of(ids, *run, runs).map(|head| head.first_offset);
        let mut carried = Vec::new();
        for run in &self.carried {
            if begins(run)? < start {
                carried.push(*run);
            }
        }
        let (mut id_runs, mut ids_end) = (Vec::new(), start);
        for run in &self.id_runs {
            let offsets = open_ids(ids, *run, runs)?.offsets();
            if offsets.start < start {
                // One may reach into the log.
                ids_end = ids_end.max(offsets.end);
                id_runs.push(*run);
            }
        }
        let resume = Spot { place: Place::new(first, 0), index: first };
        let reached = first <= self.last.0 && start <= self.flushed && ids_end <= self.ids_end;
        reached.then_some(Self {
            number,
            flushed: start,
            resume,
            carried,
            indexes: Vec::new(),
            ids_end,
            id_runs,
            notes: Vec::new(),
            ..self
        })
    }
}

#[cfg(test)]
#[path = "renew_test.rs"]
mod tests;
