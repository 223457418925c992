//! Copies files at a bounded pace, and takes their checksums on the way.
//!
//! A checksum is SipHash-2-4 of 128 bits with a key of zeros, and no CRC: our files hold CRCs of
//! their own parts, and a CRC over a part and its CRC is the same for every part. Two states of one
//! replica could not be told apart.
//!
//! Promises: a copy is on the disk when it is called done; it was made, not found (a file that is
//! there already is never written to); what was read or written is not left in the page cache,
//! where it would push out what others need.

use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{Advice, fadvise, statvfs};
use rustix::process::{Resource, getrlimit, setrlimit};
use siphasher::sip128::{Hasher128, SipHasher24};

use super::fault;
use crate::base::limits::{BACKUP_READ_BYTES, BACKUP_SYNC_BYTES};
use crate::base::size::BLOCK;

/// A pace that falls behind by more than this does not make up for it.
const MADE_UP: Duration = Duration::from_millis(250);

/// Bytes in a second, at most.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: u64,
    /// When what was read so far may have been.
    due: Option<Instant>,
}

impl Pace {
    /// So many bytes; 0 for no bound.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        Self { rate, due: None }
    }

    /// How long to wait when `bytes` more have been read at `now`.
    #[must_use]
    pub fn wait(&mut self, now: Instant, bytes: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let earliest = now.checked_sub(MADE_UP).unwrap_or(now);
        let due = self.due.unwrap_or(now).max(earliest);
        let due = due + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.due = Some(due);
        due.saturating_duration_since(now)
    }
}

/// The sum of what was written, its bytes in order as digits of a number.
fn finish(sum: &SipHasher24) -> u128 {
    u128::from_be_bytes(sum.finish128().as_bytes())
}

/// Copies one file after the other.
#[derive(Debug)]
pub struct Copier {
    pace: Pace,
    bar: ProgressBar,
    buffer: Vec<u8>,
}

impl Copier {
    /// For `total` bytes, with a bar where a person looks on.
    #[must_use]
    pub fn new(total: u64, pace: Pace) -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
        bar.set_style(style.expect("a sound template"));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { pace, bar, buffer: vec![0; BACKUP_READ_BYTES] }
    }

    /// Copies the next `end` bytes of `file` to a new file `to`, and puts zeros behind them to make
    /// `len` bytes, less than a block more. Bytes and checksum of the copy, which is durable but
    /// for its name.
    pub fn copy(
        &mut self,
        name: &str,
        file: &mut File,
        (end, len): (u64, u64),
        to: &Path,
    ) -> Result<(u64, u128), String> {
        assert!(end <= len && len - end < BLOCK, "{end} bytes and zeros up to {len}");
        let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(to);
        let mut made = made.map_err(fault("create", to))?;
        let mut sum = SipHasher24::new();
        let (mut done, mut synced) = (0, 0);
        while done < end {
            let want = (end - done).min(self.buffer.len() as u64) as usize;
            let read = self.read(name, file, want)?;
            made.write_all(&self.buffer[..read]).map_err(fault("write", to))?;
            sum.write(&self.buffer[..read]);
            done += read as u64;
            if done - synced >= BACKUP_SYNC_BYTES {
                settle(&made, to)?;
                synced = done;
            }
        }
        let zeros = vec![0; (len - end) as usize];
        made.write_all(&zeros).map_err(fault("write", to))?;
        sum.write(&zeros);
        made.sync_all().map_err(fault("make durable", to))?;
        settle(&made, to)?;
        forget(file);
        Ok((len, finish(&sum)))
    }

    /// Bytes and checksum of a file.
    pub fn digest(&mut self, name: &str, path: &Path) -> Result<(u64, u128), String> {
        let mut file = File::open(path).map_err(fault("open", path))?;
        let left = file.metadata().map_err(fault("look at", path))?.len();
        let mut sum = SipHasher24::new();
        let mut done = 0;
        while done < left {
            let want = (left - done).min(self.buffer.len() as u64) as usize;
            let read = self.read(name, &mut file, want)?;
            sum.write(&self.buffer[..read]);
            done += read as u64;
        }
        forget(&file);
        Ok((done, finish(&sum)))
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Reads up to `want` bytes, at least one, in its time.
    fn read(&mut self, name: &str, file: &mut File, want: usize) -> Result<usize, String> {
        let read = loop {
            match file.read(&mut self.buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(fault("read", Path::new(name)))?,
            }
        };
        if read == 0 {
            return Err(format!("{name} is shorter than it was when it was opened"));
        }
        self.bar.inc(read as u64);
        let wait = self.pace.wait(Instant::now(), read as u64);
        if wait > Duration::ZERO {
            std::thread::sleep(wait);
        }
        Ok(read)
    }
}

/// Brings what is written to the disk, so that no sync has much to do, and out of memory.
fn settle(file: &File, path: &Path) -> Result<(), String> {
    file.sync_data().map_err(fault("make durable", path))?;
    forget(file);
    Ok(())
}

/// Drops what the page cache has of a file. Only a hint: a system that knows better keeps it.
fn forget(file: &File) {
    let _hint = fadvise(file, 0, None, Advice::DontNeed);
}

/// Refuses what does not fit on the disk of `dir`.
pub fn check_space(dir: &Path, bytes: u64) -> Result<(), String> {
    let found = statvfs(dir).map_err(|error| fault("look at", dir)(error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < bytes {
        let dir = dir.display();
        return Err(format!(
            "{bytes} bytes are to be copied, and {free} are free on the disk of {dir}"
        ));
    }
    Ok(())
}

/// A backup holds all of its files open.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it stays as it is, the file that is one too many says so.
    let _as_it_is = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::size::block_ceil;

    #[test]
    fn a_pace_is_kept_and_what_was_missed_is_not_made_up() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut pace = Pace::new(1_000);
        assert_eq!(pace.wait(at(0), 100), Duration::from_millis(100));
        assert_eq!(pace.wait(at(0), 100), Duration::from_millis(200));
        assert_eq!(pace.wait(at(200), 100), Duration::from_millis(100));
        // Behind by a little: made up. By much: begun anew.
        assert_eq!(pace.wait(at(450), 100), Duration::ZERO);
        assert_eq!(pace.wait(at(60_000), 1_000), Duration::from_millis(750));
        assert_eq!(Pace::new(0).wait(at(0), u64::MAX), Duration::ZERO);
    }

    fn sum_of(bytes: &[u8]) -> u128 {
        let mut sum = SipHasher24::new();
        sum.write(bytes);
        finish(&sum)
    }

    #[test]
    fn sums_tell_files_apart_that_end_with_a_checksum() {
        let sealed = |state: &[u8]| [state, &crc32fast::hash(state).to_le_bytes()].concat();
        let (one, other) = (sealed(b"state 1"), sealed(b"state 2"));
        assert_eq!(crc32fast::hash(&one), crc32fast::hash(&other), "which is why");
        assert_ne!(sum_of(&one), sum_of(&other));
    }

    #[test]
    fn a_copy_is_made_of_so_many_bytes_and_never_over_another() {
        let place = tempfile::tempdir().expect("a directory");
        let (from, to) = (place.path().join("1.seg"), place.path().join("2.seg"));
        std::fs::write(&from, [7; 10_000]).expect("writable");
        let mut copier = Copier::new(10_000, Pace::new(0));
        let mut copy = |end, to: &Path| {
            let mut file = File::open(&from).expect("there");
            copier.copy("1.seg", &mut file, (end, block_ceil(end)), to)
        };
        let (bytes, sum) = copy(5_000, &to).expect("copied");
        let expected = [[7; 5_000].as_slice(), &[0; 3_192]].concat();
        assert_eq!(std::fs::read(&to).expect("made"), expected);
        assert_eq!((bytes, sum), (8_192, sum_of(&expected)));
        let why = copy(5_000, &to).expect_err("it is there");
        assert!(why.contains("cannot create"), "{why}");
        let why = copy(10_001, &place.path().join("3.seg")).expect_err("too short");
        assert!(why.contains("1.seg is shorter"), "{why}");
        let found = Copier::new(0, Pace::new(0)).digest("2.seg", &to).expect("readable");
        assert_eq!(found, (8_192, sum));
        assert!(check_space(place.path(), u64::MAX).expect_err("no").contains("are free"));
    }
}
