//! The disk, past the page cache: durable writes as a log makes them (one in flight, blocks written
//! before, each on the disk when the call returns), streams, and reads of random blocks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::{Figures, LimitsArgs};
use crate::recorder::Latencies;

const BLOCK: usize = 4 << 10;
const STREAM: usize = 1 << 20;
/// Readers of random blocks at once.
const READERS: u64 = 16;

/// A file that is removed when it goes out of scope.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.0);
    }
}

/// A buffer at an address that direct I/O takes.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize, fill: u8) -> Self {
        let bytes = vec![fill; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        assert!(start < BLOCK, "an allocation has an address that can be aligned");
        Self { bytes, start, len }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Measures the disk of `--dir`.
pub fn measure(args: &LimitsArgs, figures: &mut Figures) -> io::Result<()> {
    let scratch = Scratch(args.dir.join(format!("limits-{}.probe", std::process::id())));
    let bytes = u64::from(args.file) << 20;
    let open = |extra: OFlags| open(&scratch.0, OFlags::DIRECT | extra);
    // Blocks written for the first time cost the file system more, so the stream comes twice.
    let direct = open(OFlags::empty())?;
    let first = stream_write(&direct, bytes, Duration::MAX)?;
    direct.sync_all()?;
    durable(&open(OFlags::DSYNC)?, bytes, args.each, figures)?;
    let again = stream_write(&direct, bytes, args.each)?;
    figures.tell("stream of writes, 1 MiB, new file", first, "MB/s", "stream_first_write_mb_s");
    figures.tell("stream of writes, 1 MiB, written before", again, "MB/s", "stream_write_mb_s");
    let read = stream_read(&direct, bytes, args.each)?;
    figures.tell("stream of reads, 1 MiB", read, "MB/s", "stream_read_mb_s");
    for readers in [1, READERS] {
        let rate = random_reads(&direct, bytes, readers, args.each)?;
        let what = format!("random reads of 4 KiB, {readers} in flight");
        figures.tell(&what, rate, "/s", &format!("random_read_{readers}_per_s"));
    }
    Ok(())
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.custom_flags(flags.bits() as i32).open(path)
}

fn durable(file: &File, bytes: u64, each: Duration, figures: &mut Figures) -> io::Result<()> {
    for (len, name) in [(BLOCK, "4k"), (64 << 10, "64k"), (STREAM, "1m")] {
        let buffer = Aligned::new(len, 0x5a);
        let latencies = Latencies::new();
        let began = Instant::now();
        let mut at = 0;
        let mut writes = 0_u32;
        while began.elapsed() < each {
            let sent = Instant::now();
            file.write_all_at(buffer.get(), at)?;
            latencies.record(sent.elapsed());
            at = (at + len as u64) % bytes;
            writes += 1;
        }
        let rate = f64::from(writes) / began.elapsed().as_secs_f64();
        let what = |of: &str| format!("durable direct write, {} KiB, {of}", len >> 10);
        for (of, key, percentile) in [("p50", "p50_us", 50.0), ("p99", "p99_us", 99.0)] {
            let value = latencies.percentile(percentile) as f64;
            figures.tell(&what(of), value, "us", &format!("durable_write_{name}_{key}"));
        }
        figures.tell(&what("one by one"), rate, "/s", &format!("durable_write_{name}_per_s"));
    }
    Ok(())
}

/// MB/s, with what is behind the file's cache at the end.
fn stream_write(file: &File, bytes: u64, most: Duration) -> io::Result<f64> {
    let buffer = Aligned::new(STREAM, 0xa5);
    let began = Instant::now();
    let mut written = 0;
    while written < bytes && began.elapsed() < most {
        file.write_all_at(buffer.get(), written)?;
        written += STREAM as u64;
    }
    file.sync_data()?;
    Ok(megabytes_per_second(written, began))
}

fn stream_read(file: &File, bytes: u64, most: Duration) -> io::Result<f64> {
    let mut buffer = Aligned::new(STREAM, 0);
    let began = Instant::now();
    let mut read = 0;
    while began.elapsed() < most {
        file.read_exact_at(buffer.get_mut(), read % bytes)?;
        read += STREAM as u64;
    }
    Ok(megabytes_per_second(read, began))
}

fn megabytes_per_second(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64().max(1e-9)
}

/// Reads a second, of blocks in no order, by so many threads with one in flight each.
fn random_reads(file: &File, bytes: u64, readers: u64, each: Duration) -> io::Result<f64> {
    let (began, done) = (Instant::now(), AtomicU64::new(0));
    let blocks = bytes / BLOCK as u64;
    let reader = |number: u64| -> io::Result<()> {
        let mut buffer = Aligned::new(BLOCK, 0);
        let mut at = number << 32;
        while began.elapsed() < each {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let block = (u128::from(at) * u128::from(blocks)) >> 64;
            file.read_exact_at(buffer.get_mut(), block as u64 * BLOCK as u64)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let reader = &reader;
        let threads: Vec<_> =
            (0..readers).map(|number| scope.spawn(move || reader(number))).collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("readers don't panic"));
        joined.collect::<io::Result<Vec<()>>>()
    })?;
    Ok(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_whole() {
        for len in [BLOCK, STREAM] {
            let mut buffer = Aligned::new(len, 7);
            assert_eq!(buffer.get().as_ptr().align_offset(BLOCK), 0);
            assert_eq!((buffer.get().len(), buffer.get_mut().len()), (len, len));
            assert!(buffer.get().iter().all(|byte| *byte == 7));
        }
    }
}
