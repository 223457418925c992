//! Cuts, looked at while a node works: a backup of each would be a sound log that has everything
//! committed, with the checkpoints and runs that it names.

use chronosdb::base::ids::{Index, PartitionId, ShardId};
use chronosdb::base::size::{BLOCK, block_ceil};
use chronosdb::engine::Cut;
use chronosdb::engine::log::{Known, Scan, ScanOutcome, SegmentFile};

use super::disk::Disk;
use super::world::World;
use crate::hold;

impl World {
    /// Takes the cut of a partition, and reads what a copy of it would hold.
    pub fn look_at_cut(&mut self, shard: ShardId, partition: PartitionId) {
        let is_rotten = self.oracle.records.partitions[partition.0 as usize].rotten;
        // A process that is about to die has condemned what is damaged: its checkpoints are gone.
        if is_rotten || self.effects_left == Some(0) {
            return;
        }
        let engine = &self.node.as_mut().expect("alive").shard(shard).engine;
        let cuts = engine.cuts();
        let status = engine.replica_status(partition);
        let of = |cut: &Cut| cut.ids.partition == partition;
        let Some(cut) = cuts.into_iter().flatten().find(of) else { return };
        let status = status.expect("a partition that serves has a replica");
        let outcome = scan(&self.disk, &cut);
        let committed = cut.hard_state.commit;
        hold!(CutSound, outcome.rot.is_none(), "{partition}: {cut:?} {:?}", outcome.rot);
        hold!(CutSound, outcome.torn_bytes == 0, "{partition}: {cut:?} is torn");
        let last = outcome.last.map_or(Index(0), |last| last.index);
        hold!(CutSound, last >= committed, "{partition}: {cut:?} ends at {last}");
        hold!(CutSound, committed == status.committed, "{partition}: {cut:?} {status:?}");
        let there = self.jobs.has(partition, &cut.checkpoints, &cut.runs);
        hold!(CutSound, there, "{partition}: {cut:?} names what is not there");
        self.coverage.cuts += 1;
    }
}

/// The log of a copy, read as a start reads it.
fn scan(disk: &Disk, cut: &Cut) -> ScanOutcome {
    let partition = cut.ids.partition;
    let len = |first: Index| {
        let is_cut = first == cut.end.segment;
        if is_cut { block_ceil(cut.end.position) } else { disk.len(partition, first) }
    };
    let log_start = cut.hard_state.log_start;
    let own = cut.segments.iter().filter(|first| **first >= log_start);
    let files = own.map(|first| SegmentFile { first: *first, len: len(*first) });
    let known = Known { committed: cut.hard_state.commit, log_start, ..Known::default() };
    let mut scan = Scan::recover(cut.ids, files.collect(), known);
    while let Some(request) = scan.next_read() {
        let end = len(request.segment).min(request.position + request.len);
        let wanted = end.saturating_sub(request.position);
        let mut bytes = disk.peek(partition, request.segment, request.position, wanted).to_vec();
        if request.segment == cut.end.segment && end > cut.end.position {
            let zeros = (end - cut.end.position).min(BLOCK) as usize;
            let kept = bytes.len() - zeros;
            bytes[kept..].fill(0);
        }
        scan.feed(&bytes.into());
        drop(scan.take_entries());
    }
    scan.finish()
}
