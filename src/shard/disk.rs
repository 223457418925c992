//! The files of the shard's partitions, through io_uring with direct I/O.
//!
//! Each effect on a file starts a task; its completion goes to the inbox. Reads and writes of a
//! partition run side by side; what makes, removes or replaces files runs one after the other per
//! partition ([`FileOp`]).
//!
//! **A failed write, sync, read or file operation stops the process** (`file::fatal`): after an
//! error nobody knows what is on the disk, and a sync tried again may report success for lost data.
//! A short write is an error too. A full disk is different where nothing depends on the bytes yet:
//! making and zero-filling segments takes of the reserve (`space`), then waits, and goes on by
//! itself.
//!
//! A segment has two descriptors: one with O_DSYNC for durable writes to blocks that are filled
//! already (one device command each), one without for filling, reading and unsynced writes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::{Directory, DmaBuffer};

use super::directory::partition_path;
use super::file::{Buffer, Durable, File, check, is_full, run};
use super::inbox::Inbox;
use super::mount::{STATE_FILE, encode_slot, segment_path};
use super::space::Space;
use super::stats::Counters;
use crate::base::ids::{Index, PartitionId, RunNo};
use crate::base::limits::FILL_STEP_SCARCE;
use crate::base::size::{BLOCK, block_floor};
use crate::base::time::Now;
use crate::engine::{HardState, Input};

/// Bytes of zeros written at once: small enough to let durable writes pass in between.
const FILL_BYTES: u64 = 512 << 10;
/// Segment files kept open per shard; beyond that those not in use are closed.
const OPEN_FILES: usize = 256;
/// A job's slice while it keeps up, microseconds.
const JOB_SLICE_US: u64 = 200;
/// Slices grow at most by the square of this.
const JOB_SLICES_MAX: u64 = 10;

/// The disk as one shard sees it.
pub(super) struct Disk {
    pub(super) data: PathBuf,
    pub(super) direct: bool,
    pub(super) inbox: Rc<Inbox>,
    pub(super) counters: Rc<Counters>,
    pub(super) space: Space,
    files: RefCell<BTreeMap<FileKey, Rc<File>>>,
    /// Open files of runs (`jobs`).
    pub(super) runs: RefCell<BTreeMap<(PartitionId, RunNo), Rc<File>>>,
    queues: RefCell<BTreeMap<PartitionId, Rc<Queue>>>,
    zeros: RefCell<Option<Rc<DmaBuffer>>>,
    /// How long a job may hold the core before all others get a turn.
    pub(super) job_slice_us: Cell<u64>,
}

/// Which descriptor of which segment.
type FileKey = (PartitionId, Index, Durable);

/// Where a write or read of the log goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) partition: PartitionId,
    pub(super) segment: Index,
    /// First byte, whole blocks.
    pub(super) position: u64,
    /// Bytes, whole blocks.
    pub(super) len: u64,
}

/// Operations that must keep their order within a partition.
#[derive(Clone, Copy, Debug)]
pub(super) enum FileOp {
    /// Make the file of a segment; answered by `SegmentCreated`.
    Create(Index),
    /// Remove it.
    Remove(Index),
    /// Save the replica's hard state; answered by `HardStateSaved`.
    Save(HardState),
}

#[derive(Default)]
struct Queue {
    ops: RefCell<VecDeque<FileOp>>,
    busy: Cell<bool>,
    /// Number of the slot written last.
    slot: Cell<u64>,
}

impl Disk {
    /// The disk under a data directory. `direct`: its file system can do direct I/O.
    pub(super) fn new(
        data: &Path,
        direct: bool,
        inbox: Rc<Inbox>,
        counters: Rc<Counters>,
        space: Space,
    ) -> Rc<Self> {
        Rc::new(Self {
            data: data.to_owned(),
            direct,
            inbox,
            counters,
            space,
            files: RefCell::default(),
            runs: RefCell::default(),
            queues: RefCell::default(),
            zeros: RefCell::default(),
            job_slice_us: Cell::new(JOB_SLICE_US),
        })
    }

    /// Jobs are behind, in percent of what is due to them: their slices grow with its square, so
    /// that what they free is not outrun for ever by what comes in.
    pub(super) fn hurry_jobs(&self, behind: u64) {
        let slices = (behind / 50).clamp(1, JOB_SLICES_MAX);
        self.job_slice_us.set(JOB_SLICE_US * slices.pow(2));
    }

    /// Takes a partition; `slot` is the number of its hard state's newest slot.
    pub(super) fn mount(&self, partition: PartitionId, slot: u64) {
        let queue = Queue::default();
        queue.slot.set(slot);
        self.queues.borrow_mut().insert(partition, Rc::new(queue));
    }

    /// Writes to the log what `fill` puts into a buffer, all of it; answered by `WriteDone`.
    pub(super) fn write(
        self: &Rc<Self>,
        extent: Extent,
        write: u64,
        sync: bool,
        fill: impl FnOnce(&mut [u8]),
    ) {
        assert!(extent.is_aligned(), "{extent:?}");
        let mut buffer = Buffer::of_any_bytes(self.direct, extent.len);
        fill(buffer.bytes());
        let disk = self.clone();
        run(async move {
            let begun = Now::read();
            let durable = if sync { Durable::Yes } else { Durable::No };
            let file = disk.file((extent.partition, extent.segment, durable)).await;
            file.write(buffer, extent.position).await;
            if sync {
                file.sync_if_buffered().await;
            }
            disk.counters.write_took(Now::read().boot_us - begun.boot_us);
            disk.counters.count(|c| {
                c.log_writes += 1;
                c.log_write_bytes += extent.len;
            });
            disk.inbox.push(Input::WriteDone { partition: extent.partition, write });
        });
    }

    /// Reads from the log; answered by `ReadDone`.
    pub(super) fn read(self: &Rc<Self>, extent: Extent, read: u64) {
        assert!(extent.is_aligned(), "{extent:?}");
        let disk = self.clone();
        run(async move {
            let file = disk.file((extent.partition, extent.segment, Durable::No)).await;
            let data = file.read(extent.position, extent.len as usize).await;
            disk.counters.count(|c| {
                c.log_reads += 1;
                c.log_read_bytes += data.len() as u64;
            });
            disk.inbox.push(Input::ReadDone { partition: extent.partition, read, data });
        });
    }

    /// Writes zeros from `from` to `to`, durably, or as far as there is space; answered by
    /// `Filled`.
    pub(super) fn fill(
        self: &Rc<Self>,
        partition: PartitionId,
        segment: Index,
        from: u64,
        to: u64,
    ) {
        assert!(
            from <= to && from.is_multiple_of(BLOCK) && to.is_multiple_of(BLOCK),
            "{from}..{to}"
        );
        let disk = self.clone();
        run(async move {
            let file = disk.file((partition, segment, Durable::No)).await;
            let end = disk.fill_some(&file, from, to).await;
            if end > from {
                file.sync().await;
            }
            disk.counters.count(|c| c.log_fill_bytes += end - from);
            disk.look_at_space();
            disk.inbox.push(Input::Filled { partition, segment, end });
        });
    }

    /// Makes a segment durable; answered by `Synced`.
    pub(super) fn sync(self: &Rc<Self>, partition: PartitionId, segment: Index) {
        let disk = self.clone();
        run(async move {
            disk.file((partition, segment, Durable::No)).await.sync().await;
            disk.counters.count(|c| c.log_syncs += 1);
            disk.inbox.push(Input::Synced { partition, segment });
        });
    }

    /// Does this after all such operations of the partition before it.
    pub(super) fn in_order(self: &Rc<Self>, partition: PartitionId, op: FileOp) {
        let queue = self.queues.borrow().get(&partition).expect("a mounted partition").clone();
        queue.ops.borrow_mut().push_back(op);
        if queue.busy.replace(true) {
            return;
        }
        let disk = self.clone();
        run(async move {
            loop {
                let Some(op) = queue.ops.borrow_mut().pop_front() else { break };
                match op {
                    FileOp::Create(segment) => disk.create(partition, segment).await,
                    FileOp::Remove(segment) => disk.remove(partition, segment).await,
                    FileOp::Save(state) => disk.save(partition, &queue, state).await,
                }
            }
            queue.busy.set(false);
        });
    }

    async fn create(&self, partition: PartitionId, segment: Index) {
        let path = segment_path(&self.data, partition, segment);
        let file = loop {
            match File::try_open(&path, self.direct, Durable::No, true).await {
                Err(error) if is_full(&error) => {
                    self.take_of_reserve().await;
                    self.wait_for_space(&path).await;
                }
                result => break check("create", &path, result),
            }
        };
        // An empty file may be left of a crash; one with data is never taken for a new one.
        assert_eq!(file.len().await, 0, "{} holds data already", path.display());
        self.keep((partition, segment, Durable::No), Rc::new(file));
        self.sync_directory(partition).await;
        self.inbox.push(Input::SegmentCreated { partition, segment });
    }

    async fn remove(&self, partition: PartitionId, segment: Index) {
        let path = segment_path(&self.data, partition, segment);
        for durable in [Durable::No, Durable::Yes] {
            self.files.borrow_mut().remove(&(partition, segment, durable));
        }
        check("remove", &path, glommio::io::remove(&path).await);
        self.sync_directory(partition).await;
    }

    async fn save(&self, partition: PartitionId, queue: &Queue, state: HardState) {
        let number = queue.slot.get() + 1;
        let mut buffer = Buffer::zeroed(self.direct, BLOCK);
        encode_slot(buffer.bytes(), partition, number, state);
        let path = partition_path(&self.data, partition).join(STATE_FILE);
        let file = File::open(&path, self.direct, Durable::Yes).await;
        file.write(buffer, number % 2 * BLOCK).await;
        file.sync_if_buffered().await;
        file.close().await;
        queue.slot.set(number);
        self.inbox.push(Input::HardStateSaved { partition });
    }

    pub(super) async fn sync_directory(&self, partition: PartitionId) {
        if cfg!(bug_skip_directory_fsync) {
            return; // known bad: a name that can be seen is taken for durable
        }
        let path = partition_path(&self.data, partition);
        let directory = check("open", &path, Directory::open(&path).await);
        #[cfg(test)]
        check(
            "sync",
            &path,
            super::fault::strike(super::fault::Fault::DirectorySync)
                .map_err(glommio::GlommioError::from),
        );
        check("sync", &path, directory.sync().await);
        check("close", &path, directory.close().await);
    }

    /// Writes zeros from `from` on, until `to` or the end of space; returns where that is.
    ///
    /// One that was asked for before it was known that the disk is full comes back with what it
    /// has, perhaps nothing: the engine asks again for what is needed. That takes a little of the
    /// reserve, once, and comes back with nothing after a pause if it is used up or lost.
    async fn fill_some(&self, file: &File, from: u64, mut to: u64) -> u64 {
        let needed = self.is_full();
        let (mut at, mut taken) = (from, false);
        while at < to {
            let written = self.write_zeros(file, at, FILL_BYTES.min(to - at)).await;
            at += written;
            if written > 0 {
                continue;
            }
            self.ran_full();
            if at > from || !needed {
                break;
            }
            if taken || !self.take_of_reserve().await {
                self.wait_for_space(file.path()).await;
                break;
            }
            taken = true;
            to = to.min(from + FILL_STEP_SCARCE);
        }
        at
    }

    /// Writes `len` zeros, or as many as there is space for.
    async fn write_zeros(&self, file: &File, at: u64, len: u64) -> u64 {
        let (path, written) = match file {
            File::Direct(direct, path) if len == FILL_BYTES => {
                let zeros = self.zeros.borrow_mut().get_or_insert_with(zeros).clone();
                (path, direct.write_rc_at(zeros, at).await)
            }
            File::Direct(_, path) | File::Buffered(_, path) => {
                (path, file.try_write(Buffer::zeroed(self.direct, len), at).await)
            }
        };
        let written = match written {
            Err(error) if is_full(&error) => 0,
            written => check("fill", path, written) as u64,
        };
        // Direct writes go on at a whole block; what a short one left behind is written again.
        block_floor(written)
    }

    /// The open file of a segment, opened now if need be.
    pub(super) async fn file(&self, key: FileKey) -> Rc<File> {
        if let Some(file) = self.files.borrow().get(&key) {
            return file.clone();
        }
        let path = segment_path(&self.data, key.0, key.1);
        let file = Rc::new(File::open(&path, self.direct, key.2).await);
        self.keep(key, file.clone());
        file
    }

    fn keep(&self, key: FileKey, file: Rc<File>) {
        let mut files = self.files.borrow_mut();
        if files.len() >= OPEN_FILES {
            files.retain(|_, file| Rc::strong_count(file) > 1);
        }
        files.insert(key, file);
    }
}

impl Extent {
    fn is_aligned(self) -> bool {
        self.position.is_multiple_of(BLOCK) && self.len.is_multiple_of(BLOCK) && self.len > 0
    }
}

fn zeros() -> Rc<DmaBuffer> {
    let mut zeros = glommio::allocate_dma_buffer_global(FILL_BYTES as usize);
    zeros.as_bytes_mut().fill(0);
    Rc::new(zeros)
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;
