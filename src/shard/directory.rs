//! The data directory: who it belongs to, what made it, what must not change.
//!
//! ```text
//! <data>/lock             held (flock) by the process that serves the directory
//! <data>/chronosdb.toml   format, cluster number, dedup key, partitions; checksummed, written once
//! <data>/p-00000/...      one directory per partition, see `mount`
//! ```
//! Opening makes the directory when it is new and otherwise checks that this process may serve it.
//! Tools open that of a stopped node, which makes nothing. Every refusal is one sentence that says
//! what to do. Runs before any executor: plain files.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock, fstatfs};
use serde::{Deserialize, Serialize};

use crate::base::ids::PartitionId;

/// The format this program writes; it reads no other.
const FORMAT: u32 = 1;
const LOCK_FILE: &str = "lock";
/// Says what made the directory; without it, nothing else of it is served.
pub const FORMAT_FILE: &str = "chronosdb.toml";
/// End of the name of a file that is being written.
pub(super) const UNFINISHED: &str = ".new";
/// What a backup has and a data directory has not.
pub const BACKUP_MANIFEST: &str = "manifest.jsonl";
/// What a new file system has at its top.
const LOST_AND_FOUND: &str = "lost+found";
/// `f_type` of file systems that live in memory: direct I/O is accepted there and means nothing.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// An open data directory. The lock is held as long as this lives.
#[derive(Debug)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Random number, in every envelope of the log.
    pub cluster: u64,
    /// Key of the dedup hash.
    pub dedup_key: [u8; 16],
    /// Partitions, fixed when the directory was made.
    pub partitions: u16,
    /// The file system can do direct I/O.
    pub direct_io: bool,
    _lock: File,
}

/// Why a data directory can't be served. Displays as one sentence that says what to do.
#[derive(Debug)]
pub enum DirectoryError {
    /// The system refused a file operation.
    Io {
        /// What was tried, as a verb phrase.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process serves it.
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Written by a version whose format this one does not know.
    Format {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// `--partitions` differs from what the directory was made with.
    Partitions {
        /// The directory.
        path: PathBuf,
        /// What it was made with.
        found: u16,
        /// What was asked for.
        asked: u16,
    },
    /// The file that describes the directory is missing beside data, or can't be read.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A tool was to look at it, and there is none.
    Absent {
        /// What was named.
        path: PathBuf,
    },
    /// It was to be new, and something is in it.
    NotEmpty {
        /// What was named.
        path: PathBuf,
        /// What is in it.
        found: PathBuf,
    },
    /// It was to be served, and is a backup.
    Backup {
        /// What was named.
        path: PathBuf,
    },
    /// No direct I/O, and buffered I/O was not allowed.
    NoDirectIo {
        /// The directory.
        path: PathBuf,
    },
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, error } => {
                let path = path.display();
                write!(f, "cannot {doing} {path}: {error}; check the path and its permissions")
            }
            Self::InUse { path } => write!(
                f,
                "the data directory {} is in use by another process; stop that one or give \
                 another --data-dir",
                path.display()
            ),
            Self::Format { path, found } => write!(
                f,
                "the data directory {} has format {found}, this version reads format {FORMAT}; \
                 run the version that wrote it, or a newer one",
                path.display()
            ),
            Self::Partitions { path, found, asked } => write!(
                f,
                "the data directory {} was made with {found} partitions, which is fixed; start \
                 with --partitions {found} instead of {asked}",
                path.display()
            ),
            Self::Damaged { path, why } => {
                let path = path.display();
                write!(f, "{path} is damaged ({why}); restore it from a backup")
            }
            Self::Absent { path } => write!(
                f,
                "{} is no data directory (it holds no {FORMAT_FILE}); name the --data-dir of a \
                 stopped node",
                path.display()
            ),
            Self::NotEmpty { path, found } => write!(
                f,
                "{} holds {} already; name a directory that is empty or not there yet",
                path.display(),
                found.display()
            ),
            Self::Backup { path } => write!(
                f,
                "{} is a backup, which a server would change; restore it into a directory of its \
                 own with `chronosdb restore` and serve that",
                path.display()
            ),
            Self::NoDirectIo { path } => write!(
                f,
                "the file system of {} has no direct I/O; use a disk file system (ext4, xfs, \
                 btrfs) for --data-dir, or start with --allow-buffered-io",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DirectoryError {}

/// What [`FORMAT_FILE`] holds.
#[derive(Serialize, Deserialize)]
struct FormatFile {
    format: u32,
    cluster: String,
    dedup_key: String,
    partitions: u16,
    checksum: String,
}

impl FormatFile {
    fn checksum(&self) -> String {
        let all =
            format!("{} {} {} {}", self.format, self.cluster, self.dedup_key, self.partitions);
        format!("{:08x}", crc32fast::hash(all.as_bytes()))
    }

    fn text(&self) -> String {
        let fields = toml::to_string(self).expect("plain fields are always TOML");
        format!("# What made this data directory. Never edit it.\n{fields}")
    }
}

impl Directory {
    /// Opens the directory, or makes it with `partitions` partitions, and locks it.
    ///
    /// Where the file system has no direct I/O, `allow_buffered_io` decides between a warning and
    /// a refusal.
    pub fn open(
        path: &Path,
        partitions: u16,
        allow_buffered_io: bool,
    ) -> Result<Self, DirectoryError> {
        assert!(partitions > 0, "a data directory has at least one partition");
        // glommio gives relative paths to io_uring without a directory to start from.
        let path = &std::path::absolute(path).map_err(io_error("find the directory", path))?;
        create_private(path)?;
        if path.join(BACKUP_MANIFEST).exists() {
            return Err(DirectoryError::Backup { path: path.to_owned() });
        }
        let lock = lock(path)?;
        let direct_io = has_direct_io(path)?;
        if !direct_io {
            if !allow_buffered_io {
                return Err(DirectoryError::NoDirectIo { path: path.to_owned() });
            }
            tracing::warn!(
                path = %path.display(),
                "no direct I/O on this file system: going on with buffered I/O, which is slower \
                 and, in memory, survives no restart of the machine"
            );
        }
        let file = match read_format(path)? {
            Some(file) => file,
            None => create_format(path, partitions)?,
        };
        // What an earlier process has made and did not live to make durable is built upon now.
        sync_directory(path)?;
        if file.partitions != partitions {
            let (found, asked) = (file.partitions, partitions);
            return Err(DirectoryError::Partitions { path: path.to_owned(), found, asked });
        }
        Self::describe(path, &file, direct_io, lock)
    }

    /// Opens and locks the directory of a stopped node, for tools. Makes nothing but the lock file
    /// of a copy that came without one, and writes nothing.
    pub fn open_stopped(path: &Path) -> Result<Self, DirectoryError> {
        let path = &std::path::absolute(path).map_err(io_error("find the directory", path))?;
        if !path.is_dir() {
            return Err(DirectoryError::Absent { path: path.to_owned() });
        }
        let Some(file) = read_format(path)? else {
            return Err(DirectoryError::Absent { path: path.to_owned() });
        };
        let lock = File::open(path.join(LOCK_FILE)).or_else(|_| open_lock(path))?;
        hold(&lock, path)?;
        Self::describe(path, &file, has_direct_io(path)?, lock)
    }

    fn describe(
        path: &Path,
        file: &FormatFile,
        direct_io: bool,
        lock: File,
    ) -> Result<Self, DirectoryError> {
        let damaged =
            |why: &str| DirectoryError::Damaged { path: path.join(FORMAT_FILE), why: why.into() };
        Ok(Self {
            path: path.to_owned(),
            cluster: u64::from_str_radix(&file.cluster, 16).map_err(|_| damaged("cluster"))?,
            dedup_key: u128::from_str_radix(&file.dedup_key, 16)
                .map_err(|_| damaged("dedup_key"))?
                .to_be_bytes(),
            partitions: file.partitions,
            direct_io,
            _lock: lock,
        })
    }
}

/// A directory that is to become a data directory, locked: no server starts on it meanwhile.
#[derive(Debug)]
pub struct Claimed {
    /// Where it is.
    pub path: PathBuf,
    _lock: File,
}

impl Claimed {
    /// Makes and locks a directory that is not there yet, or is empty.
    pub fn new(path: &Path) -> Result<Self, DirectoryError> {
        let path = std::path::absolute(path).map_err(io_error("find the directory", path))?;
        create_private(&path)?;
        if !path.join(LOCK_FILE).exists() {
            is_empty(&path)?;
        }
        let lock = open_lock(&path)?;
        hold(&lock, &path)?;
        // A server that ended just now has left something behind.
        is_empty(&path)?;
        Ok(Self { path, _lock: lock })
    }
}

/// Refuses a directory in which there is anything but a lock that nobody needs.
pub fn is_empty(path: &Path) -> Result<(), DirectoryError> {
    for entry in fs::read_dir(path).map_err(io_error("list the directory", path))? {
        let found = entry.map_err(io_error("list the directory", path))?.file_name();
        if found != LOCK_FILE && found != LOST_AND_FOUND {
            return Err(DirectoryError::NotEmpty { path: path.into(), found: found.into() });
        }
    }
    Ok(())
}

/// Cluster number and partitions of a data directory, whoever serves it. Changes nothing.
pub fn read_description(path: &Path) -> Result<(u64, u16), DirectoryError> {
    let file = read_format(path)?.ok_or(DirectoryError::Absent { path: path.into() })?;
    let damaged = DirectoryError::Damaged { path: path.join(FORMAT_FILE), why: "cluster".into() };
    let cluster = u64::from_str_radix(&file.cluster, 16).map_err(|_| damaged)?;
    Ok((cluster, file.partitions))
}

/// The directory of one partition.
pub fn partition_path(data: &Path, partition: PartitionId) -> PathBuf {
    data.join(format!("p-{:05}", partition.0))
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    #[cfg(test)]
    super::fault::strike(super::fault::Fault::DirectorySync)
        .map_err(io_error("make durable the directory", path))?;
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("make durable the directory", path))
}

/// Makes a directory that only its owner can enter, parents included, durably. One that is there
/// is made durable too: who made it may have died before that.
pub fn create_private(path: &Path) -> Result<(), DirectoryError> {
    let named = |path: &&Path| !path.as_os_str().is_empty();
    let missing = path.ancestors().filter(named).take_while(|path| !path.is_dir());
    let missing: Vec<&Path> = missing.collect();
    if missing.is_empty() {
        return match sync_directory(parent_of(path)) {
            // A parent that may not be read: somebody else made the directory there.
            Err(DirectoryError::Io { error, .. })
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                Ok(())
            }
            synced => synced,
        };
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io_error("create the directory", path))?;
    // A name is durable when the directory that holds it is synced: each that is new.
    missing.into_iter().rev().map(parent_of).try_for_each(sync_directory)
}

/// The directory that holds a name.
fn parent_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Turns the system's error into ours.
pub fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    move |error| DirectoryError::Io { doing, path: path.to_owned(), error }
}

fn lock(data: &Path) -> Result<File, DirectoryError> {
    let mut file = open_lock(data)?;
    hold(&file, data)?;
    // For people who look; nothing reads it.
    let note = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    note.map_err(io_error("write the lock file", &data.join(LOCK_FILE)))?;
    Ok(file)
}

fn open_lock(data: &Path) -> Result<File, DirectoryError> {
    let path = data.join(LOCK_FILE);
    let opened =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    opened.map_err(io_error("open the lock file", &path))
}

fn hold(file: &File, data: &Path) -> Result<(), DirectoryError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DirectoryError::InUse { path: data.to_owned() }),
        Err(error) => Err(io_error("lock", &data.join(LOCK_FILE))(error.into())),
    }
}

fn has_direct_io(data: &Path) -> Result<bool, DirectoryError> {
    let directory = File::open(data).map_err(io_error("open the directory", data))?;
    let kind = fstatfs(&directory).map_err(|e| io_error("look at", data)(e.into()))?.f_type;
    // The kernel's type is a signed word on some machines: only its low 32 bits are the number.
    if MEMORY_FILE_SYSTEMS.contains(&(kind as u64 & 0xffff_ffff)) {
        return Ok(false);
    }
    let path = data.join(LOCK_FILE);
    let direct = OFlags::DIRECT.bits() as i32;
    match OpenOptions::new().read(true).custom_flags(direct).open(&path) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            Ok(false)
        }
        Err(error) => Err(io_error("open with direct I/O", &path)(error)),
    }
}

fn read_format(data: &Path) -> Result<Option<FormatFile>, DirectoryError> {
    let path = data.join(FORMAT_FILE);
    let damaged = |why: String| DirectoryError::Damaged { path: path.clone(), why };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Data without its description is never taken for a new directory.
            if partition_path(data, PartitionId(0)).exists() {
                return Err(damaged("missing beside partitions".into()));
            }
            return Ok(None);
        }
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    // A newer format may say more or less than ours, but it says which it is.
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| damaged(first_line(&e)))?;
    let format = table.get("format").and_then(toml::Value::as_integer);
    let format = format.and_then(|f| u32::try_from(f).ok());
    match format {
        Some(FORMAT) => {}
        Some(found) => return Err(DirectoryError::Format { path: data.to_owned(), found }),
        None => return Err(damaged("no format".into())),
    }
    let file: FormatFile =
        table.try_into().map_err(|e: toml::de::Error| damaged(first_line(&e)))?;
    if file.checksum != file.checksum() {
        return Err(damaged("its checksum does not match".into()));
    }
    if file.partitions == 0 {
        return Err(damaged("no partitions".into()));
    }
    Ok(Some(file))
}

fn create_format(data: &Path, partitions: u16) -> Result<FormatFile, DirectoryError> {
    let random = |bytes: &mut [u8]| {
        let source = Path::new("/dev/urandom");
        File::open(source)
            .and_then(|mut f| f.read_exact(bytes))
            .map_err(io_error("read random numbers from", source))
    };
    let (mut cluster, mut dedup_key) = ([0; 8], [0; 16]);
    random(&mut cluster)?;
    random(&mut dedup_key)?;
    let mut file = FormatFile {
        format: FORMAT,
        cluster: format!("{:016x}", u64::from_be_bytes(cluster)),
        dedup_key: format!("{:032x}", u128::from_be_bytes(dedup_key)),
        partitions,
        checksum: String::new(),
    };
    file.checksum = file.checksum();
    write_aside(&data.join(FORMAT_FILE), file.text().as_bytes())?;
    Ok(file)
}

/// Writes a file aside, durably, and gives it its name: a crash leaves no half of it. The directory
/// is the caller's to sync.
pub(super) fn write_aside(path: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
    let mut aside = path.to_owned().into_os_string();
    aside.push(UNFINISHED);
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, path));
    written.map_err(io_error("write", path))
}

fn first_line(error: &toml::de::Error) -> String {
    error.message().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "directory_test.rs"]
mod directory_test;
