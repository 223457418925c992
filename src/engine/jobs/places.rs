//! Places for the jobs of a shard: how many are under way at once, and whose turn it is.
//!
//! A merge may take long, since it reads what many flushes have written; a flush must not wait for
//! it, since memory and the next start wait for the flush. So each kind has places of its own. Of
//! the partitions that want one, the next behind the one that flushed last gets it; but a flush of
//! the due axis is followed by that of the ids of the same events, or they would stay in memory for
//! a whole round.
//!
//! Must hold: no more than [`limits::FLUSHES`] and [`limits::MERGES`] are under way.

use crate::base::ids::PartitionId;
use crate::base::limits;
use crate::engine::horizon::RunningJob;

/// See the module.
#[derive(Debug, Default)]
pub struct Places {
    flushes: usize,
    merges: usize,
    /// From which partition on they are asked whether they want a place.
    first: PartitionId,
    /// Jobs are so far behind that publishes wait for them.
    pub is_behind: bool,
}

/// What kind of place a job takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It takes something out of the memory.
    Flush,
    /// It makes one run of several.
    Merge,
}

impl Places {
    /// Whether a job of this kind may begin.
    pub fn has_room(&self, kind: Kind) -> bool {
        match kind {
            Kind::Flush => self.flushes < limits::FLUSHES,
            Kind::Merge => self.merges < limits::MERGES,
        }
    }

    /// From which partition on they are asked whether they want a place.
    pub fn first(&self) -> PartitionId {
        self.first
    }

    /// A partition begins a job.
    ///
    /// # Panics
    /// If there is no place for it.
    pub fn begin(&mut self, partition: PartitionId, job: &RunningJob) {
        let kind = job.kind();
        assert!(self.has_room(kind), "partition {partition}: no place for a {kind:?}");
        match job {
            RunningJob::Flush { .. } => self.first = partition,
            RunningJob::FlushIds => self.first = PartitionId(partition.0.saturating_add(1)),
            RunningJob::Merge { .. } | RunningJob::MergeIds { .. } => {}
        }
        *self.count(kind) += 1;
    }

    /// A job is over.
    ///
    /// # Panics
    /// If none of its kind is under way.
    pub fn end(&mut self, kind: Kind) {
        let count = self.count(kind);
        assert!(*count > 0, "no {kind:?} is under way");
        *count -= 1;
    }

    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Flush => &mut self.flushes,
            Kind::Merge => &mut self.merges,
        }
    }
}

impl RunningJob {
    /// Which place it takes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Flush { .. } | Self::FlushIds => Kind::Flush,
            Self::Merge { .. } | Self::MergeIds { .. } => Kind::Merge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

    #[test]
    fn each_kind_has_its_own_places() {
        let mut places = Places::default();
        let merge = || RunningJob::MergeIds { range: 0..2 };
        for _ in 0..limits::FLUSHES {
            assert!(places.has_room(Kind::Flush));
            places.begin(PartitionId(3), &RunningJob::FlushIds);
        }
        assert!(!places.has_room(Kind::Flush), "at the limit");
        for _ in 0..limits::MERGES {
            assert!(places.has_room(Kind::Merge), "a flush takes none of a merge");
            places.begin(PartitionId(4), &merge());
        }
        assert!(!places.has_room(Kind::Merge), "at the limit");
        places.end(Kind::Flush);
        assert!(places.has_room(Kind::Flush) && !places.has_room(Kind::Merge));
    }

    #[test]
    fn ids_follow_their_events_and_then_it_is_the_next_ones_turn() {
        let mut places = Places::default();
        assert_eq!(places.first(), PartitionId(0));
        let flush = RunningJob::Flush { offsets: Offset(0)..Offset(1), far: 0 };
        places.begin(PartitionId(3), &flush);
        assert_eq!(places.first(), PartitionId(3));
        places.end(Kind::Flush);
        places.begin(PartitionId(5), &RunningJob::MergeIds { range: 0..2 });
        assert_eq!(places.first(), PartitionId(3), "a merge changes nothing");
        places.begin(PartitionId(3), &RunningJob::FlushIds);
        assert_eq!(places.first(), PartitionId(4));
    }
}
