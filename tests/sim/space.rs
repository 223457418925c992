//! The room on the machine's disk: a capacity that other programs share, and what a driver does
//! about it.
//!
//! Others take and give back space all the time, down to nothing. The driver looks every
//! [`LOOK_EVERY_US`] and tells each shard; a fill that finds no space says so at once and ends
//! early, one that is known to be needed takes of the reserve or pauses, and a job is given up.
//! When there is plenty the reserve is made again.

use chronosdb::base::ids::PartitionId;
use chronosdb::base::limits::{DISK_RESERVE_FILE_SHARE, FILL_STEP_SCARCE};
use chronosdb::base::size::block_floor;
use chronosdb::engine::{Effect, Input};

use super::heal::Stage;
use super::rng::{Rng, Salt};
use super::world::{Event, World};

const LOOK_EVERY_US: u64 = 100_000;
/// Before an operation that found nothing is told to have done nothing.
const PAUSE_US: u64 = 50_000;
/// After one the disk counts as full for so long.
const FULL_US: u64 = 120_000;

/// See the module. Without a bound for most seeds.
pub struct Space {
    rng: Rng,
    /// What the node and the others beside it can have together; `None`: as much as it likes.
    capacity: Option<u64>,
    /// Bytes of the reserve's file.
    reserve: u64,
    full_until_us: u64,
}

impl Space {
    pub fn new(seed: u64, bounded: bool) -> Self {
        let rng = Rng::new(seed, Salt::Space);
        Self { rng, capacity: bounded.then_some(u64::MAX), reserve: 0, full_until_us: 0 }
    }
}

impl World {
    /// The first look, of a process that starts.
    pub fn begin_space(&mut self) {
        if self.space.capacity.is_some() {
            self.remake_reserve();
            self.tell_space();
        }
    }

    /// Others take or give back some; the driver looks.
    pub fn space(&mut self) {
        if self.space.capacity.is_none() || self.stage != Stage::Chaos {
            return;
        }
        let mark = self.profile.engine.disk_reserve_bytes;
        if self.space.rng.percent(20) {
            let rng = &mut self.space.rng;
            let free = match rng.below(6) {
                0 => 0,
                1 => rng.below(mark),
                2 => mark - 1 + rng.below(2),
                3 => rng.between(mark, 2 * mark),
                _ => 2 * mark + rng.below(1 << 20),
            };
            self.space.capacity = Some(self.used() + free);
            self.note(format_args!("others leave {free} bytes"));
        }
        self.remake_reserve();
        if self.node.is_some() {
            self.tell_space();
        }
        self.after(LOOK_EVERY_US, Event::Space);
    }

    /// The operator makes room.
    pub fn end_of_scarcity(&mut self) {
        if self.space.capacity.is_some() {
            (self.space.capacity, self.space.full_until_us) = (Some(u64::MAX), 0);
            if self.node.is_some() {
                self.tell_space();
            }
        }
    }

    /// What is free; without a bound: everything.
    pub fn free(&self) -> u64 {
        self.space.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// An operation on a partition found no space.
    pub fn ran_full(&mut self, partition: PartitionId) {
        self.coverage.full_disks += 1;
        self.space.full_until_us = self.clock.time_us() + FULL_US;
        self.tell(partition, Input::DiskSpace { free_bytes: 0 });
    }

    /// Whether a fill that comes to its end has found space; what there is of it is its new end.
    /// If there is none it comes to its end later, with nothing done.
    pub fn has_space(&mut self, op: u64) -> bool {
        let Some((partition, wanted, new)) = self.disk.fill_in_flight(op) else { return true };
        let free = self.free();
        if new <= free {
            return true;
        }
        let needed = self.is_full();
        self.ran_full(partition);
        let some = block_floor(wanted - new + free);
        if some > 0 || !needed {
            self.disk.end_fill_at(op, some);
            return true;
        }
        let back = self.space.reserve.min(FILL_STEP_SCARCE);
        self.space.reserve -= back;
        if back > 0 {
            self.coverage.reserves_used += 1;
            self.note(format_args!("{back} bytes of the reserve are given back"));
            self.disk.end_fill_at(op, wanted.min(back));
            return true;
        }
        self.disk.end_fill_at(op, 0);
        self.after(PAUSE_US, Event::Disk(op));
        false
    }

    /// What a shard does while space is low, as coverage counts it.
    pub fn count_low(&mut self, effect: &Effect) {
        use chronosdb::base::api::Reply;
        if let Effect::Reply { reply: Reply::Acked(outcomes), .. } = effect {
            let settled = outcomes.iter().filter(|outcome| outcome.result.is_ok());
            self.coverage.settled_low += settled.count() as u64;
        }
    }

    fn is_full(&self) -> bool {
        self.clock.time_us() < self.space.full_until_us
    }

    fn used(&self) -> u64 {
        self.disk.bytes() + self.jobs.bytes() + self.space.reserve
    }

    fn remake_reserve(&mut self) {
        let mark = self.profile.engine.disk_reserve_bytes;
        let bytes = block_floor(mark / DISK_RESERVE_FILE_SHARE);
        if self.space.reserve < bytes && self.free() >= 2 * mark + bytes {
            self.space.reserve = bytes;
        }
    }

    fn tell_space(&mut self) {
        let free_bytes = if self.is_full() { 0 } else { self.free() };
        for partition in (0..self.profile.engine.partitions).map(PartitionId) {
            // Each shard once: by the first partition that it owns.
            let shards = self.node.as_ref().expect("tested by the caller").shards.len() as u16;
            if partition.0 < shards {
                self.tell(partition, Input::DiskSpace { free_bytes });
            }
        }
    }
}
