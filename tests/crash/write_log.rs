//! The write log of qemu's `blklogwrites`: every write and flush of a disk, in the order they came.
//!
//! ```text
//! sector 0     magic u64, version u64, entries u64, sector size u32        (little endian)
//! then         sector u64, sectors u64, flags u64, data length u64, zeros to the end of its
//!              sector, and the data, unless it is a discard
//! ```
//! A request of the file system ends after its entry is in the log and the count above says so. So
//! whatever a client is told by then rests on the entries counted by then.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a sector, here and on the disk: what a device writes whole or not at all.
pub const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A log, and what it holds.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    /// In the order they came.
    pub entries: Vec<Entry>,
}

/// One request to the disk.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where on the disk, bytes.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
    /// Everything written before is durable.
    pub flushes: bool,
    /// It is durable itself when it ends.
    pub durable: bool,
    discards: bool,
    data_at: u64,
}

impl WriteLog {
    /// Reads the heads of a log that nobody writes any more.
    pub fn open(path: &Path) -> Self {
        let file = File::open(path).expect("a log was recorded");
        assert_eq!(number(&file, 0), MAGIC, "{} is a write log", path.display());
        let mut at = SECTOR;
        let entries = (0..number(&file, 16)).map(|_| {
            let flags = number(&file, at + 16);
            let entry = Entry {
                at: number(&file, at) * SECTOR,
                len: number(&file, at + 8) * SECTOR,
                flushes: flags & FLUSH > 0,
                durable: flags & FUA > 0,
                discards: flags & DISCARD > 0,
                data_at: at + SECTOR,
            };
            at = entry.data_at + if entry.discards { 0 } else { entry.len };
            entry
        });
        let entries = entries.collect();
        Self { file, entries }
    }

    /// The bytes that an entry puts on the disk.
    pub fn data(&self, entry: Entry) -> Vec<u8> {
        let mut data = vec![0; entry.len as usize];
        if !entry.discards {
            self.file.read_exact_at(&mut data, entry.data_at).expect("its data is in the log");
        }
        data
    }
}

/// The growing end of a log.
#[derive(Debug)]
pub struct LogEnd(File);

impl LogEnd {
    /// Of a log that is written.
    pub fn of(path: &Path) -> Self {
        Self(File::open(path).expect("the log was made"))
    }

    /// Entries so far.
    pub fn now(&self) -> u64 {
        number(&self.0, 16)
    }
}

fn number(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).expect("the log is whole");
    u64::from_le_bytes(bytes)
}
