//! The files that a backup takes, all of them open.
//!
//! A file that is open stays, whatever a server removes; so everything is opened first, and if a
//! file of a cut has gone by then (a checkpoint that another has replaced, runs that were merged),
//! another cut is asked for.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use super::fault;
use crate::base::ids::{Index, PartitionId, RunNo, Term};
use crate::base::limits::{BACKUP_CUTS, BACKUP_FILES};
use crate::base::size::{BLOCK, block_ceil};
use crate::control::backup::{CutAnswer, PartitionCut};
use crate::engine::HardState;
use crate::engine::checkpoint;
use crate::engine::log::segment;
use crate::shard::checkpoints::checkpoint_path;
use crate::shard::directory::{FORMAT_FILE, partition_path};
use crate::shard::mount::{Mounted, STATE_FILE, segment_path};
use crate::shard::{parse_run_name, run_path};

/// A file of a backup.
#[derive(Debug)]
pub struct Source {
    /// Its name below the data directory and below the backup: [`is_name`].
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// What a file of a backup is made of.
#[derive(Debug)]
pub enum Content {
    /// All of a file.
    Whole {
        /// Open.
        file: File,
        /// Its length when it was opened.
        len: u64,
    },
    /// A file up to a byte, and zeros to the end of that block.
    UpTo {
        /// Open.
        file: File,
        /// The byte.
        end: u64,
    },
    /// What a cut says is to be saved with it: the file itself may be newer.
    HardState {
        /// Whose.
        partition: PartitionId,
        /// What.
        state: HardState,
    },
}

impl Content {
    /// Bytes that it takes in the backup.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Whole { len, .. } => *len,
            Self::UpTo { end, .. } => block_ceil(*end),
            Self::HardState { .. } => 2 * BLOCK,
        }
    }
}

/// Whether a backup may have a file of this name: no other is read or written by it.
pub fn is_name(name: &str) -> bool {
    if name == FORMAT_FILE {
        return true;
    }
    let Some((partition, file)) = name.split_once('/') else { return false };
    let digits = partition.strip_prefix("p-").unwrap_or_default();
    digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()) && is_partitions(file)
}

/// Whether a partition's directory may have a file of this name.
fn is_partitions(file: &str) -> bool {
    file == STATE_FILE
        || segment::parse_file_name(file).is_some()
        || checkpoint::parse_file_name(file).is_some()
        || parse_run_name(file).is_some()
}

/// Opens the files of a cut. Asks for another one while files of it have gone.
pub fn of_cut(
    data: &Path,
    mut ask: impl FnMut() -> Result<CutAnswer, String>,
) -> Result<Vec<Source>, String> {
    for _ in 0..BACKUP_CUTS {
        let answer = ask()?;
        if let Some(sources) = open_cut(data, &answer.partitions)? {
            return Ok(sources);
        }
    }
    Err(format!(
        "files of {} were removed while they were opened, {BACKUP_CUTS} times in a row; try again \
         when the server has less to do",
        data.display()
    ))
}

/// `None` if a file has gone.
fn open_cut(data: &Path, cuts: &[PartitionCut]) -> Result<Option<Vec<Source>>, String> {
    let mut opening = Opening { data, sources: Vec::new() };
    for cut in cuts {
        let partition = PartitionId(cut.partition);
        let state = HardState {
            term: Term(cut.term),
            vote: cut.vote,
            commit: Index(cut.commit),
            cut_from: Index(0),
            log_start: Index(cut.log_start),
        };
        let path = partition_path(data, partition).join(STATE_FILE);
        let name = opening.name(&path);
        let content = Content::HardState { partition, state };
        opening.sources.push(Source { name, content });
        let (last, sealed) = cut.segments.split_last().expect("a log has a segment");
        let mut there = true;
        for first in sealed {
            there &= opening.whole(&segment_path(data, partition, Index(*first)))?;
        }
        there &= opening.up_to(&segment_path(data, partition, Index(*last)), cut.end)?;
        for number in &cut.checkpoints {
            there &= opening.whole(&checkpoint_path(data, partition, *number))?;
        }
        for run in &cut.runs {
            there &= opening.whole(&run_path(data, partition, RunNo(*run)))?;
        }
        // Known bad: what has gone is left out.
        if !there && !cfg!(bug_backup_without_gone) {
            return Ok(None);
        }
    }
    let there = opening.whole(&data.join(FORMAT_FILE))?;
    Ok(there.then_some(opening.sources))
}

/// Opens everything in a data directory that no server uses.
pub fn all_of(data: &Path, partitions: u16) -> Result<Vec<Source>, String> {
    let mut opening = Opening { data, sources: Vec::new() };
    for partition in (0..partitions).map(PartitionId) {
        let directory = partition_path(data, partition);
        let listed = fs::read_dir(&directory).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        });
        let mut paths = listed.map_err(fault("list", &directory))?;
        paths.retain(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(is_partitions)
        });
        paths.sort_unstable();
        for path in paths {
            opening.must(&path)?;
        }
    }
    opening.must(&data.join(FORMAT_FILE))?;
    Ok(opening.sources)
}

/// Writes the state file of a partition of a backup.
pub fn save_state(dir: &Path, partition: PartitionId, state: HardState) -> Result<(), String> {
    let mut file = Mounted { partition, segments: Vec::new(), hard_state: None, slot: 0 };
    file.save_state(dir, state).map_err(|error| error.to_string())
}

struct Opening<'a> {
    data: &'a Path,
    sources: Vec<Source>,
}

impl Opening<'_> {
    fn name(&self, path: &Path) -> String {
        let name = path.strip_prefix(self.data).expect("below the data directory");
        let name = name.to_str().expect("names of ours are text").to_owned();
        assert!(is_name(&name), "{name} is a file of a backup");
        name
    }

    /// False if the file has gone.
    fn whole(&mut self, path: &Path) -> Result<bool, String> {
        self.open(path, |file, len| Content::Whole { file, len })
    }

    /// Likewise.
    fn up_to(&mut self, path: &Path, end: u64) -> Result<bool, String> {
        self.open(path, |file, len| {
            // Known bad: what is behind the cut is copied, too.
            let end = if cfg!(bug_backup_beyond_cut) { len } else { end };
            Content::UpTo { file, end }
        })
    }

    fn must(&mut self, path: &Path) -> Result<(), String> {
        let there = self.whole(path)?;
        there.then_some(()).ok_or_else(|| fault("open", path)(ErrorKind::NotFound.into()))
    }

    fn open(
        &mut self,
        path: &Path,
        content: impl FnOnce(File, u64) -> Content,
    ) -> Result<bool, String> {
        if self.sources.len() >= BACKUP_FILES {
            return Err(format!(
                "there are more than {BACKUP_FILES} files in {}; stop the server and copy its \
                 directory as a whole",
                self.data.display()
            ));
        }
        let opened = File::open(path).and_then(|file| {
            let len = file.metadata()?.len();
            Ok((file, len))
        });
        match opened {
            Ok((file, len)) => {
                let name = self.name(path);
                self.sources.push(Source { name, content: content(file, len) });
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                Err(format!(
                    "{} files are open and no more may be; raise the limit (`ulimit -n`), or stop \
                     the server and copy its directory as a whole",
                    self.sources.len()
                ))
            }
            Err(error) => Err(fault("open", path)(error)),
        }
    }
}

#[cfg(test)]
#[path = "source_test.rs"]
mod source_test;
