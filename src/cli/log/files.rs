//! The log files of a stopped node, read from end to end.
//!
//! Promises: the directory stays locked while this lives, so that no server starts meanwhile;
//! nothing is written. What the disk refuses to read is taken for zeros and counted, so that one
//! bad sector does not hide the rest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Logs;
use super::beside::Beside;
use crate::base::ids::{Index, PartitionId};
use crate::base::size::{BLOCK, block_ceil, block_floor};
use crate::engine::log::{
    Hole, Ids, Known, ReadRequest, Salvage, Salvaged, Scan, ScanOutcome, Scanned,
};
use crate::shard::mount::{Mounted, segment_path, survey};
use crate::shard::{Directory, DirectoryError};

/// A stopped node's data directory, locked.
#[derive(Debug)]
pub struct Stopped {
    directory: Directory,
}

/// What is met on the way through a log.
#[derive(Debug)]
pub enum Met {
    /// An entry before any damage.
    Good(Scanned),
    /// Entries are lost here.
    Hole(Hole),
    /// An entry behind damage.
    Behind(Scanned),
}

/// Whether to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// Read on.
    On,
    /// Enough is known.
    Enough,
}

/// The log of one partition.
#[derive(Debug)]
pub struct LogFiles {
    data: PathBuf,
    ids: Ids,
    /// What its directory holds.
    pub mounted: Mounted,
    /// Bytes that the disk refused to read.
    pub unreadable: u64,
    file: Option<(Index, File)>,
}

impl Stopped {
    /// Opens and locks a data directory. An error is one sentence that says what to do.
    pub fn open(path: &Path) -> Result<Self, String> {
        let directory = Directory::open_stopped(path).map_err(|error| match error {
            DirectoryError::InUse { path } => format!(
                "the data directory {} is in use by another process; stop the server first (a \
                 running one checks its logs at its start)",
                path.display()
            ),
            error => error.to_string(),
        })?;
        Ok(Self { directory })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory.path
    }

    /// The partitions asked for: all, unless some are named.
    pub fn partitions(&self, logs: &Logs) -> Result<Vec<PartitionId>, String> {
        let count = self.directory.partitions;
        if let Some(beyond) = logs.partition.iter().find(|partition| **partition >= count) {
            return Err(format!(
                "there is no partition {beyond}; {} has partitions 0 to {}",
                self.path().display(),
                count - 1
            ));
        }
        let named =
            |partition: &u16| logs.partition.is_empty() || logs.partition.contains(partition);
        Ok((0..count).filter(named).map(PartitionId).collect())
    }

    /// The log of a partition; `None` if it has no directory.
    pub fn log(&self, partition: PartitionId) -> Result<Option<LogFiles>, String> {
        let mut mounted = survey(self.path(), partition).map_err(|error| error.to_string())?;
        if let Some(Mounted { segments, hard_state: Some(state), .. }) = &mut mounted {
            // Segments that retention was removing when the process ended are none of the log.
            segments.retain(|file| file.first >= state.log_start);
        }
        Ok(mounted.map(|mounted| LogFiles {
            data: self.path().to_owned(),
            ids: Ids { cluster: self.directory.cluster, partition },
            mounted,
            unreadable: 0,
            file: None,
        }))
    }
}

impl LogFiles {
    /// The files beside it.
    pub fn beside(&self) -> Result<Beside, String> {
        Beside::list(&self.data, self.ids)
    }

    /// Bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.mounted.segments.iter().map(|file| file.len).sum()
    }

    /// Reads the log from its first entry on, past all damage, and shows what it meets to `meet`;
    /// `read` hears how many bytes of the files lie behind. `None` if `meet` had enough.
    pub fn walk(
        &mut self,
        mut read: impl FnMut(u64),
        mut meet: impl FnMut(Met) -> Result<Go, String>,
    ) -> Result<Option<ScanOutcome>, String> {
        let segments = self.mounted.segments.clone();
        let hard = self.mounted.hard_state.unwrap_or_default();
        let (committed, cut_from, log_start) = (hard.commit, hard.cut_from, hard.log_start);
        let known = Known { committed, cut_from, log_start };
        let mut scan = Scan::recover(self.ids, segments.clone(), known);
        while let Some(request) = scan.next_read() {
            scan.feed(&self.read(request)?);
            read(self.bytes_before(request));
            for entry in scan.take_entries() {
                if meet(Met::Good(entry))? == Go::Enough {
                    return Ok(None);
                }
            }
        }
        let outcome = scan.finish();
        let Some(rot) = &outcome.rot else { return Ok(Some(outcome)) };
        let mut salvage = Salvage::new(self.ids, segments, rot, outcome.last);
        loop {
            for found in salvage.take() {
                let met = match found {
                    Salvaged::Hole(hole) => Met::Hole(hole),
                    Salvaged::Entry(entry) => Met::Behind(entry),
                };
                if meet(met)? == Go::Enough {
                    return Ok(None);
                }
            }
            let Some(request) = salvage.next_read() else { return Ok(Some(outcome)) };
            salvage.feed(&self.read(request)?);
            read(self.bytes_before(request));
        }
    }

    /// Bytes of the files up to the beginning of a read.
    fn bytes_before(&self, request: ReadRequest) -> u64 {
        let files = self.mounted.segments.iter();
        let before = files.take_while(|file| file.first < request.segment);
        before.map(|file| file.len).sum::<u64>() + request.position
    }

    fn read(&mut self, request: ReadRequest) -> Result<Bytes, String> {
        let path = segment_path(&self.data, self.mounted.partition, request.segment);
        let fault = unreadable(&path);
        let file = match self.file.take() {
            Some((segment, file)) if segment == request.segment => file,
            _ => File::open(&path).map_err(&fault)?,
        };
        let ReadRequest { position, len, .. } = request;
        let read = read_patiently(position, len, |buffer, at| file.read_at(buffer, at));
        let (bytes, unreadable) = read.map_err(fault)?;
        self.file = Some((request.segment, file));
        self.unreadable += unreadable;
        Ok(bytes.into())
    }
}

/// A file beside the log, open.
#[derive(Debug)]
pub struct OpenFile {
    path: PathBuf,
    file: File,
    /// Its length.
    pub len: u64,
    /// Bytes that the disk refused to read.
    pub unreadable: u64,
}

impl OpenFile {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, String> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(unreadable(path))?;
        Ok(Self { path: path.to_owned(), file, len, unreadable: 0 })
    }

    /// Reads what is asked for, or up to the end of the file.
    pub fn read(&mut self, position: u64, len: u64) -> Result<Bytes, String> {
        // A length that a damaged file speaks of is not believed. What is read are whole blocks.
        let len = block_ceil(len.min(self.len.saturating_sub(position)));
        let read = read_patiently(position, len, |buffer, at| self.file.read_at(buffer, at));
        let (bytes, refused) = read.map_err(unreadable(&self.path))?;
        self.unreadable += refused;
        Ok(bytes.into())
    }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> String {
    move |error| {
        format!("cannot read {}: {error}; check the disk and the permissions", path.display())
    }
}

/// Reads what is asked for, or up to the end of the file. Blocks that the disk refuses are zeros;
/// how many bytes these were comes with it.
fn read_patiently(
    position: u64,
    len: u64,
    mut read_at: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<(Vec<u8>, u64)> {
    let mut bytes = vec![0; len as usize];
    let (mut done, mut refused, mut step) = (0, 0, bytes.len());
    while done < bytes.len() {
        let end = bytes.len().min(block_floor((done + step) as u64) as usize);
        match read_at(&mut bytes[done..end], position + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error()) => {
                return Err(error);
            }
            // From here on block by block, to lose no more than the disk has lost.
            Err(_) if step > BLOCK as usize => step = BLOCK as usize,
            Err(_) => {
                bytes[done..end].fill(0);
                refused += (end - done) as u64;
                done = end;
            }
        }
    }
    bytes.truncate(done);
    Ok((bytes, refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_sector_is_zeros_and_all_else_is_read() {
        let disk: Vec<u8> = (0..5 * BLOCK + 100).map(|i| (i % 251) as u8 + 1).collect();
        let bad = 2 * BLOCK..3 * BLOCK;
        let read = |buffer: &mut [u8], at: u64| {
            let end = (at + buffer.len() as u64).min(disk.len() as u64);
            if at < bad.end && end > bad.start {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            let part = &disk[at as usize..end as usize];
            buffer[..part.len()].copy_from_slice(part);
            Ok(part.len())
        };
        let (bytes, refused) = read_patiently(BLOCK, 16 * BLOCK, read).expect("read");
        assert_eq!(refused, BLOCK);
        let mut expected = disk.clone();
        expected[bad.start as usize..bad.end as usize].fill(0);
        assert!(bytes == expected[BLOCK as usize..]);
        let denied = |_: &mut [u8], _| Err(io::ErrorKind::PermissionDenied.into());
        assert!(read_patiently(BLOCK, 16 * BLOCK, denied).is_err());
    }
}
