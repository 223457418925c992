//! A disk with two images: what a reader sees now (live), and what a power loss leaves (durable).
//!
//! Promises of this disk, and nothing more: a completed write with sync is durable; one without is
//! live; a completed sync makes durable what was live when it was asked for; completions come in
//! any order. A process crash leaves every write in flight undone, done in part or done. A power
//! loss takes each 512-byte sector that is not durable, or leaves it, one by one.
//! It also checks what the driver's contract forbids the engine.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronosdb::base::ids::{Index, PartitionId};
use chronosdb::base::size::BLOCK;
use chronosdb::engine::{HardState, Input, SegmentFile};

use super::rng::Rng;
use crate::hold;

const SECTOR: usize = 512;
type Key = (u16, u64);
/// Dirty sectors as they were live at one moment.
type Seen = Vec<(usize, [u8; SECTOR])>;

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; the kernel's memory survives.
    Process,
    /// The power is gone.
    Power,
}

/// Something asked of the disk.
#[derive(Debug)]
pub enum Op {
    Create { partition: PartitionId, segment: Index },
    Fill { partition: PartitionId, segment: Index, from: u64, to: u64 },
    Write(Write),
    Read { partition: PartitionId, read: u64, segment: Index, position: u64, len: u64 },
    Sync { partition: PartitionId, segment: Index },
    Remove { partition: PartitionId, segment: Index },
    Save { partition: PartitionId, state: HardState },
}

/// A write to the log.
#[derive(Debug)]
pub struct Write {
    pub partition: PartitionId,
    pub number: u64,
    pub segment: Index,
    pub position: u64,
    pub data: Vec<u8>,
    pub sync: bool,
}

#[derive(Default)]
struct File {
    /// Its directory entry survives a power loss.
    entry_durable: bool,
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors whose live bytes a power loss may take.
    dirty: BTreeSet<usize>,
    /// Writes must end before this: filled in this incarnation, or the length found at mount.
    filled_end: u64,
    /// Blocks written and completed since the last cut: their bytes must not change again.
    kept: BTreeSet<u64>,
}

/// The machine's storage.
pub struct Disk {
    rng: Rng,
    files: BTreeMap<Key, File>,
    slots: BTreeMap<u16, HardState>,
    /// In flight, with what a sync has seen.
    flight: BTreeMap<u64, (Op, Seen)>,
    next_op: u64,
    /// Partitions whose log may be rewritten: until recovered, and while it is cut.
    unlocked: BTreeSet<u16>,
}

impl Disk {
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            files: BTreeMap::new(),
            slots: BTreeMap::new(),
            flight: BTreeMap::new(),
            next_op: 0,
            unlocked: BTreeSet::new(),
        }
    }

    /// What a starting process finds. A driver syncs a directory before it lists it
    /// (`shard/mount.rs`), so every entry it has seen is durable; bytes are not.
    pub fn mount(&mut self, partition: PartitionId) -> (Vec<SegmentFile>, Option<HardState>) {
        assert!(self.flight.is_empty(), "a crash has ended everything in flight");
        self.unlocked.insert(partition.0);
        let files = self.files.range_mut((partition.0, 0)..=(partition.0, u64::MAX));
        let segments = files.map(|((_, first), file)| {
            file.entry_durable = true;
            file.filled_end = file.live.len() as u64 / BLOCK * BLOCK;
            file.kept.clear();
            SegmentFile { first: Index(*first), len: file.live.len() as u64 }
        });
        (segments.collect(), self.slots.get(&partition.0).copied())
    }

    /// What a process finds that only looks.
    pub fn look(&self, partition: PartitionId) -> (Vec<SegmentFile>, Option<HardState>) {
        let files = self.files.range((partition.0, 0)..=(partition.0, u64::MAX));
        let segments = files.map(|((_, first), file)| SegmentFile {
            first: Index(*first),
            len: file.live.len() as u64,
        });
        (segments.collect(), self.slots.get(&partition.0).copied())
    }

    /// From here on written bytes stay as they are.
    pub fn lock(&mut self, partition: PartitionId) {
        if self.unlocked.remove(&partition.0) {
            let files = self.files.range_mut((partition.0, 0)..=(partition.0, u64::MAX));
            files.for_each(|(_, file)| file.kept.clear());
        }
    }

    /// The log of this partition is about to be cut: bytes may change once more.
    pub fn unlock_for_cut(&mut self, partition: PartitionId) {
        self.unlocked.insert(partition.0);
    }

    pub fn submit(&mut self, op: Op) -> u64 {
        self.check(&op);
        let mut seen = Vec::new();
        if let Op::Sync { partition, segment } = &op {
            let file = &self.files[&(partition.0, segment.0)];
            seen = file.dirty.iter().map(|s| (*s, sector(&file.live, *s))).collect();
        }
        self.next_op += 1;
        self.flight.insert(self.next_op, (op, seen));
        self.next_op
    }

    /// The operation is done; what the engine is told of it.
    pub fn complete(&mut self, id: u64) -> Option<(PartitionId, Input)> {
        let (op, seen) = self.flight.remove(&id)?;
        match op {
            Op::Create { partition, segment } => {
                let file = File { entry_durable: true, ..File::default() };
                self.files.insert((partition.0, segment.0), file);
                Some((partition, Input::SegmentCreated { partition, segment }))
            }
            Op::Fill { partition, segment, from, to } => {
                let file = self.file(partition, segment);
                file.put(from as usize, &vec![0; (to - from) as usize], true);
                file.filled_end = file.filled_end.max(to);
                Some((partition, Input::Filled { partition, segment, end: to }))
            }
            Op::Write(Write { partition, number, segment, position, data, sync }) => {
                let file = self.file(partition, segment);
                file.put(position as usize, &data, sync);
                let blocks = position / BLOCK..(position + data.len() as u64) / BLOCK;
                file.kept.extend(blocks);
                Some((partition, Input::WriteDone { partition, write: number }))
            }
            Op::Read { partition, read, segment, position, len } => {
                self.leak(partition, segment, position, len);
                let file = &self.files[&(partition.0, segment.0)];
                let start = (position as usize).min(file.live.len());
                let end = ((position + len) as usize).min(file.live.len());
                let data = Bytes::copy_from_slice(&file.live[start..end]);
                Some((partition, Input::ReadDone { partition, read, data }))
            }
            Op::Sync { partition, segment } => {
                let file = self.file(partition, segment);
                file.keep_seen(&seen);
                Some((partition, Input::Synced { partition, segment }))
            }
            Op::Remove { partition, segment } => {
                self.files.remove(&(partition.0, segment.0));
                None
            }
            Op::Save { partition, state } => {
                self.slots.insert(partition.0, state);
                Some((partition, Input::HardStateSaved { partition }))
            }
        }
    }

    /// First indexes of a partition's segments.
    pub fn firsts(&self, partition: PartitionId) -> Vec<Index> {
        let files = self.files.range((partition.0, 0)..=(partition.0, u64::MAX));
        files.map(|((_, first), _)| Index(*first)).collect()
    }

    /// Bytes of a segment's file.
    pub fn len(&self, partition: PartitionId, segment: Index) -> u64 {
        self.files[&(partition.0, segment.0)].live.len() as u64
    }

    /// Bytes as a job reads them.
    pub fn peek(&self, partition: PartitionId, segment: Index, position: u64, len: u64) -> Bytes {
        let live = &self.files[&(partition.0, segment.0)].live;
        let start = (position as usize).min(live.len());
        let end = ((position + len) as usize).min(live.len());
        Bytes::copy_from_slice(&live[start..end])
    }

    /// The process or the machine ends here, with everything in flight.
    pub fn crash(&mut self, crash: Crash) {
        for (_, (op, _)) in std::mem::take(&mut self.flight) {
            self.abandon(op);
        }
        if crash == Crash::Power {
            self.lose_power();
        }
    }

    /// Flips bits of a byte that lies inside a sealed segment's data. False if there is none.
    pub fn rot(&mut self, partition: PartitionId) -> bool {
        let keys: Vec<Key> =
            self.files.range((partition.0, 0)..=(partition.0, u64::MAX)).map(|(k, _)| *k).collect();
        let Some((_, sealed)) = keys.split_last() else { return false };
        if sealed.is_empty() {
            return false;
        }
        let file = self.files.get_mut(self.rng.pick(sealed)).expect("listed above");
        let Some(last) = file.live.iter().rposition(|byte| *byte != 0) else { return false };
        let at = self.rng.below(last as u64 + 1) as usize;
        let flip = 1 << self.rng.below(8);
        file.live[at] ^= flip;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= flip;
        }
        true
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.live.len() as u64).sum()
    }

    /// A fill under way: whose, its bytes, and how many of them the file does not have yet.
    pub fn fill_in_flight(&self, id: u64) -> Option<(PartitionId, u64, u64)> {
        let (Op::Fill { partition, segment, from, to }, _) = self.flight.get(&id)? else {
            return None;
        };
        let len = self.files[&(partition.0, segment.0)].live.len() as u64;
        Some((*partition, to - from, to.saturating_sub(len.max(*from))))
    }

    /// A fill under way comes no further than so many bytes.
    pub fn end_fill_at(&mut self, id: u64, bytes: u64) {
        if let Some((Op::Fill { from, to, .. }, _)) = self.flight.get_mut(&id) {
            *to = (*to).min(*from + bytes);
        }
    }

    /// Whether the operation is a write to a log.
    pub fn is_log_write(&self, id: u64) -> bool {
        self.flight.get(&id).is_some_and(|(op, _)| matches!(op, Op::Write(_)))
    }

    /// Operations under way.
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    fn file(&mut self, partition: PartitionId, segment: Index) -> &mut File {
        self.files.get_mut(&(partition.0, segment.0)).expect("checked when submitted")
    }

    /// Bytes of writes in flight may be seen before they are done.
    fn leak(&mut self, partition: PartitionId, segment: Index, position: u64, len: u64) {
        let Self { rng, files, flight, .. } = self;
        let file = files.get_mut(&(partition.0, segment.0)).expect("checked when submitted");
        for (op, _) in flight.values() {
            let Op::Write(write) = op else { continue };
            let end = write.position + write.data.len() as u64;
            let apart = end <= position || position + len <= write.position;
            if (write.partition, write.segment) == (partition, segment) && !apart {
                file.put_some(rng, write, 50);
            }
        }
    }

    fn abandon(&mut self, op: Op) {
        match op {
            Op::Create { partition, segment } => {
                if self.rng.percent(50) {
                    self.files.insert((partition.0, segment.0), File::default());
                }
            }
            Op::Fill { partition, segment, from, to } => {
                let sectors = (to - from) / SECTOR as u64;
                let done = self.rng.below(sectors + 1) as usize * SECTOR;
                let durable = self.rng.percent(50);
                self.file(partition, segment).put(from as usize, &vec![0; done], durable);
            }
            Op::Write(write) => {
                let Self { rng, files, .. } = self;
                let file = files.get_mut(&(write.partition.0, write.segment.0)).expect("checked");
                match rng.below(7) {
                    0 => {}
                    1 | 2 => file.put(write.position as usize, &write.data, false),
                    3 => file.put(write.position as usize, &write.data, write.sync),
                    _ => {
                        let share = rng.between(5, 95);
                        file.put_some(rng, &write, share);
                    }
                }
            }
            Op::Remove { partition, segment } => {
                if self.rng.percent(50) {
                    self.files.remove(&(partition.0, segment.0));
                }
            }
            Op::Save { partition, state } => {
                if self.rng.percent(50) {
                    self.slots.insert(partition.0, state);
                }
            }
            Op::Read { .. } | Op::Sync { .. } => {}
        }
    }

    fn lose_power(&mut self) {
        let Self { rng, files, .. } = self;
        files.retain(|_, file| file.entry_durable || rng.percent(50));
        let share = *rng.pick(&[0, 0, 20, 50, 90, 100]);
        for file in files.values_mut() {
            file.entry_durable = true;
            // The length follows the last sector that made it, or a fill's, or neither.
            let kept: Vec<usize> =
                file.dirty.iter().copied().filter(|_| rng.percent(share)).collect();
            let mut image = std::mem::take(&mut file.durable);
            for s in kept {
                let end = ((s + 1) * SECTOR).min(file.live.len());
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[s * SECTOR..end].copy_from_slice(&file.live[s * SECTOR..end]);
            }
            file.dirty.clear();
            file.live.clone_from(&image);
            file.durable = image;
        }
    }

    fn check(&self, op: &Op) {
        let key = op.key();
        let file = self.files.get(&key);
        if let Op::Create { .. } = op {
            hold!(DiskContract, file.is_none(), "{op:?}: the file is there already");
        } else if !matches!(op, Op::Save { .. }) {
            hold!(DiskContract, file.is_some(), "{op:?}: there is no such file");
        }
        if let Op::Save { partition, .. } = op {
            let saving =
                |(other, _): &(Op, _)| matches!(other, Op::Save { .. }) && other.key() == key;
            hold!(
                DiskContract,
                !self.flight.values().any(saving),
                "{partition}: two saves at once"
            );
        }
        let Some((start, end)) = op.range() else { return };
        hold!(
            DiskContract,
            start % BLOCK == 0 && end % BLOCK == 0 && start < end,
            "{key:?}: {start}..{end} is not a range of whole blocks"
        );
        let changes = |op: &Op| matches!(op, Op::Write(_) | Op::Fill { .. });
        for (other, _) in self.flight.values() {
            let Some((from, to)) = other.range() else { continue };
            let apart = other.key() != key || end <= from || to <= start;
            hold!(
                DiskContract,
                apart || !changes(op) || !changes(other),
                "{key:?}: {start}..{end} shares a block with {from}..{to}, which is in flight"
            );
        }
        match (op, file) {
            (Op::Write(write), Some(file)) => self.check_write(write, file, start, end),
            (Op::Fill { .. }, Some(file)) => {
                let written = file.kept.range(start / BLOCK..end / BLOCK).next().is_some();
                let open = self.unlocked.contains(&key.0);
                hold!(
                    DiskContract,
                    open || !written,
                    "{key:?}: fill of {start}..{end}, which is written"
                );
            }
            _ => {}
        }
    }

    fn check_write(&self, write: &Write, file: &File, start: u64, end: u64) {
        let place = (write.partition.0, write.segment.0, start, end);
        hold!(
            DiskContract,
            end <= file.filled_end,
            "{place:?}: write beyond the filled {}",
            file.filled_end
        );
        if self.unlocked.contains(&write.partition.0) {
            return;
        }
        for block in file.kept.range(start / BLOCK..end / BLOCK) {
            let at = (block * BLOCK) as usize;
            let old = &file.live[at..at + BLOCK as usize];
            let new = &write.data[at - start as usize..][..BLOCK as usize];
            // Zeros are padding: entries may grow into them, and nothing else may change.
            let same = old.iter().zip(new).all(|(old, new)| *old == 0 || old == new);
            hold!(DiskContract, same, "{place:?}: block {block} was durable and is changed");
        }
    }
}

impl Op {
    fn key(&self) -> Key {
        match self {
            Self::Create { partition, segment }
            | Self::Fill { partition, segment, .. }
            | Self::Read { partition, segment, .. }
            | Self::Sync { partition, segment }
            | Self::Remove { partition, segment } => (partition.0, segment.0),
            Self::Write(write) => (write.partition.0, write.segment.0),
            Self::Save { partition, .. } => (partition.0, u64::MAX),
        }
    }

    /// Bytes touched, if it is an operation on bytes.
    fn range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Fill { from, to, .. } => Some((*from, *to)),
            Self::Read { position, len, .. } => Some((*position, position + len)),
            Self::Write(write) => Some((write.position, write.position + write.data.len() as u64)),
            _ => None,
        }
    }

    /// Whether it changes what is stored.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Read { .. })
    }
}

impl File {
    fn put(&mut self, at: usize, data: &[u8], durable: bool) {
        let end = at + data.len();
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[at..end].copy_from_slice(data);
        let sectors = at / SECTOR..end.div_ceil(SECTOR);
        if !durable {
            self.dirty.extend(sectors);
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[at..end].copy_from_slice(data);
        if !self.dirty.is_empty() {
            sectors.for_each(|s| {
                self.dirty.remove(&s);
            });
        }
    }

    /// Some sectors of a write become visible, none durable.
    fn put_some(&mut self, rng: &mut Rng, write: &Write, share: u64) {
        for (i, data) in write.data.chunks(SECTOR).enumerate() {
            if rng.percent(share) {
                self.put(write.position as usize + i * SECTOR, data, false);
            }
        }
    }

    /// What a sync saw is durable now, unless something newer is already.
    fn keep_seen(&mut self, seen: &[(usize, [u8; SECTOR])]) {
        for (s, data) in seen {
            if !self.dirty.contains(s) {
                continue;
            }
            let at = s * SECTOR;
            let end = (at + SECTOR).min(self.live.len());
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[at..end].copy_from_slice(&data[..end - at]);
            if self.durable[at..end] == self.live[at..end] {
                self.dirty.remove(s);
            }
        }
    }
}

fn sector(bytes: &[u8], s: usize) -> [u8; SECTOR] {
    let mut data = [0; SECTOR];
    let end = ((s + 1) * SECTOR).min(bytes.len());
    data[..end - s * SECTOR].copy_from_slice(&bytes[s * SECTOR..end]);
    data
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
