//! The space on the disk below a data directory: looked at, told to the engine, and a part of the
//! reserve kept as a file, so that other programs can't take it.
//!
//! ```text
//! <data>/reserve     an eighth of --disk-reserve, allocated and empty; made while there is plenty,
//!                    shortened by operations that are needed and find no space
//! ```
//! All shards look for themselves; any of them shortens the file, a little at a time, so that
//! others who look for space can't have all of it; the first shard makes it. It holds nothing, so
//! it need not be durable: a start makes what is missing.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use glommio::io::OpenOptions as OpenAsync;
use glommio::timer::sleep;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::disk::Disk;
use super::file::{check, run};
use crate::base::limits::{DISK_RESERVE_FILE_SHARE, DISK_RESERVE_SHARE, FILL_STEP_SCARCE};
use crate::base::size::block_floor;
use crate::base::time::Now;
use crate::engine::Input;

const RESERVE_FILE: &str = "reserve";
/// Between two looks, ms.
const LOOK_EVERY_MS: u64 = 1_000;
/// Pause of an operation that found nothing, even in the reserve, ms.
const FULL_PAUSE_MS: u64 = 1_000;
/// After such an operation the disk counts as full for so long, whatever the system says (which
/// knows nothing of quotas): longer than the pause, so that one that is tried again renews it.
const FULL_HOLD_MS: u64 = 2 * FULL_PAUSE_MS + LOOK_EVERY_MS;

/// Bytes of a file system that this process may still take, and all of it.
fn room(data: &Path) -> io::Result<(u64, u64)> {
    let about = statvfs(data)?;
    Ok((about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize))
}

/// The reserve below a data directory: what is wanted, or less on a small file system.
pub(super) fn reserve_bytes(data: &Path, wanted: u64) -> io::Result<u64> {
    let (_, all) = room(data)?;
    Ok(wanted.min(all / DISK_RESERVE_SHARE))
}

/// The file of the reserve.
#[derive(Clone, Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// Free space above which it is made.
    plenty: u64,
}

impl Reserve {
    /// That of a data directory with so large a reserve.
    pub(super) fn new(data: &Path, reserve_bytes: u64) -> Self {
        let bytes = block_floor(reserve_bytes / DISK_RESERVE_FILE_SHARE);
        Self { path: data.join(RESERVE_FILE), bytes, plenty: 2 * reserve_bytes + bytes }
    }

    /// Makes the file unless it is there. Blocks for a moment.
    pub(super) fn make(&self) -> io::Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let made = options
            .open(&self.path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?));
        if made.is_err() {
            // Half a reserve would be taken for one.
            let _absent = fs::remove_file(&self.path);
        }
        made
    }

    fn is_whole(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|about| about.len() == self.bytes)
    }

    /// Makes the file at a start, if there is plenty of space. Without one acknowledgements have
    /// less to go on with on a full disk, which is no reason not to start.
    pub(super) fn make_at_start(&self, data: &Path) -> io::Result<()> {
        let (free, _) = room(data)?;
        if self.bytes > 0 && free >= self.plenty {
            self.make().unwrap_or_else(|error| {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot keep a reserve of disk space in a file");
            });
        }
        Ok(())
    }
}

/// What a shard knows of the space.
pub(super) struct Space {
    reserve: Reserve,
    /// This shard makes the file.
    keeper: bool,
    /// Boot time until which the disk counts as full, ms.
    full_until_ms: Cell<u64>,
}

impl Space {
    pub(super) fn new(reserve: Reserve, keeper: bool) -> Self {
        Self { reserve, keeper, full_until_ms: Cell::new(0) }
    }
}

impl Disk {
    /// Looks at the space now and every second.
    pub(super) fn watch_space(self: &Rc<Self>) {
        let disk = self.clone();
        disk.look_at_space();
        run(async move {
            loop {
                sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
                disk.look_at_space();
            }
        });
    }

    /// Tells the engine what is free. Takes a system call that waits for nothing.
    pub(super) fn look_at_space(&self) {
        let (free, _) = match room(&self.data) {
            Ok(room) => room,
            Err(error) => {
                tracing::warn!(%error, "cannot look at the space on the disk");
                return;
            }
        };
        self.counters.count(|c| c.disk_free_bytes = free);
        if self.space.keeper && free >= self.space.reserve.plenty {
            self.remake_reserve();
        }
        let free_bytes = if self.is_full() { 0 } else { free };
        self.inbox.push(Input::DiskSpace { free_bytes });
    }

    /// Tells the engine that an operation found no space.
    pub(super) fn ran_full(&self) {
        self.space.full_until_ms.set(Now::read().boot_ms() + FULL_HOLD_MS);
        self.inbox.push(Input::DiskSpace { free_bytes: 0 });
    }

    /// Whether an operation found no space just now.
    pub(super) fn is_full(&self) -> bool {
        Now::read().boot_ms() < self.space.full_until_ms.get()
    }

    /// Waits a little for space, for an operation that found none.
    pub(super) async fn wait_for_space(&self, path: &Path) {
        tracing::warn!(path = %path.display(), "the disk is full: waiting for space");
        sleep(Duration::from_millis(FULL_PAUSE_MS)).await;
    }

    /// Gives [`FILL_STEP_SCARCE`] bytes of the reserve's file back for an operation that is needed
    /// and found no space. False if it has none.
    pub(super) async fn take_of_reserve(&self) -> bool {
        self.ran_full();
        let path = &self.space.reserve.path;
        let file = match OpenAsync::new().write(true).buffered_open(path).await {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
                return false;
            }
            opened => check("open", path, opened),
        };
        let bytes = check("measure", path, file.file_size().await);
        let left = bytes.saturating_sub(FILL_STEP_SCARCE);
        check("shorten", path, file.truncate(left).await);
        check("close", path, file.close().await);
        if bytes == self.space.reserve.bytes {
            tracing::warn!(bytes, "the disk is full: what is needed takes of the reserve");
        } else if left == 0 && bytes > 0 {
            tracing::warn!("the disk is full: the reserve is used up");
        }
        bytes > 0
    }

    /// In a thread of its own, since it may take a while; at once if it is there.
    fn remake_reserve(&self) {
        let reserve = self.space.reserve.clone();
        if reserve.bytes == 0 || reserve.is_whole() {
            return;
        }
        std::thread::spawn(move || {
            if let Err(error) = reserve.make() {
                let path = reserve.path.display();
                tracing::debug!(%path, %error, "cannot make the reserve again");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use glommio::LocalExecutorBuilder;

    use super::*;
    use crate::base::size::BLOCK;
    use crate::shard::inbox::Inbox;
    use crate::shard::stats::Counters;

    /// So large that its file is a step and a block.
    const RESERVE: u64 = DISK_RESERVE_FILE_SHARE * (FILL_STEP_SCARCE + BLOCK);

    fn len(data: &Path) -> Option<u64> {
        fs::metadata(data.join(RESERVE_FILE)).ok().map(|about| about.len())
    }

    #[test]
    fn the_reserve_is_given_back_a_little_at_a_time() {
        let place = tempfile::tempdir_in(env!("OUT_DIR"));
        let place = place.expect("a directory");
        let data = place.path().to_owned();
        let run = LocalExecutorBuilder::default().spawn(move || async move {
            let reserve = Reserve::new(&data, RESERVE);
            let space = Space::new(reserve.clone(), true);
            let (inbox, counters) = (Rc::new(Inbox::default()), Rc::new(Counters::new()));
            let disk = Disk::new(&data, true, inbox, counters, space);
            assert!(!disk.is_full() && !disk.take_of_reserve().await, "there is none");
            assert!(disk.is_full(), "it was needed");
            reserve.make().expect("there is space");
            for left in [BLOCK, 0] {
                assert!(disk.take_of_reserve().await);
                assert_eq!(len(&data), Some(left));
            }
            assert!(!disk.take_of_reserve().await, "used up");
            reserve.make().expect("there is space");
            assert_eq!(len(&data), Some(FILL_STEP_SCARCE + BLOCK), "whole again");
            while let Some(told) = disk.inbox.take() {
                assert!(matches!(told, Input::DiskSpace { free_bytes: 0 }), "{told:?}");
            }
            disk.look_at_space();
            let told = disk.inbox.take().expect("a look is told");
            let full = matches!(told, Input::DiskSpace { free_bytes: 0 });
            assert!(full, "what the system says does not count yet: {told:?}");
        });
        run.expect("a thread").join().expect("the scene ends well");
    }

    #[test]
    fn a_small_file_system_has_a_small_reserve() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (_, all) = room(data).expect("it is there");
        let eighth = all / DISK_RESERVE_SHARE;
        for (wanted, kept) in [(eighth - 1, eighth - 1), (eighth, eighth), (eighth + 1, eighth)] {
            assert_eq!(reserve_bytes(data, wanted).expect("it is there"), kept);
        }
    }
}
