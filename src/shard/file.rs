//! An open file of a data directory, direct or buffered, whose operations stop the process where
//! they fail ([`fatal`]): after an error nobody knows what is on the disk.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaBuffer, DmaFile, OpenOptions};
use rustix::fs::OFlags;

use crate::base::limits;
use crate::base::size::BLOCK;

thread_local! {
    /// Of one shard: each has a thread.
    static READ: RefCell<[BytesMut; limits::READ_BUFFERS]> = RefCell::default();
}

/// Which descriptor of a file: one whose writes are durable, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Durable {
    No,
    Yes,
}

/// A buffer of the kind its file wants.
pub(super) enum Buffer {
    Direct(DmaBuffer),
    Buffered(Vec<u8>),
}

impl Buffer {
    pub(super) fn zeroed(direct: bool, len: u64) -> Self {
        let mut buffer = Self::of_any_bytes(direct, len);
        if let Self::Direct(buffer) = &mut buffer {
            buffer.as_bytes_mut().fill(0);
        }
        buffer
    }

    /// A buffer of which all bytes will be written: it may hold what another write has left.
    pub(super) fn of_any_bytes(direct: bool, len: u64) -> Self {
        if direct {
            Self::Direct(glommio::allocate_dma_buffer(len as usize))
        } else {
            Self::Buffered(vec![0; len as usize])
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Direct(buffer) => buffer.len(),
            Self::Buffered(buffer) => buffer.len(),
        }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Direct(buffer) => buffer.as_bytes_mut(),
            Self::Buffered(buffer) => buffer,
        }
    }
}

/// An open file and its name for errors. Its operations stop the process where they fail.
pub(super) enum File {
    Direct(DmaFile, PathBuf),
    Buffered(BufferedFile, PathBuf),
}

impl File {
    pub(super) async fn open(path: &Path, direct: bool, durable: Durable) -> Self {
        check("open", path, Self::try_open(path, direct, durable, false).await)
    }

    pub(super) async fn try_open(
        path: &Path,
        direct: bool,
        durable: Durable,
        create: bool,
    ) -> Result<Self, GlommioError<()>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).mode(0o600);
        // Known bad: both descriptors are of the same kind.
        if direct && durable == Durable::Yes && !cfg!(bug_open_without_dsync) {
            options.custom_flags(OFlags::DSYNC.bits() as i32);
        }
        let name = path.to_owned();
        if direct {
            Ok(Self::Direct(options.dma_open(path).await?, name))
        } else {
            Ok(Self::Buffered(options.buffered_open(path).await?, name))
        }
    }

    /// Writes all of the buffer.
    pub(super) async fn write(&self, buffer: Buffer, position: u64) {
        let (Self::Direct(_, path) | Self::Buffered(_, path)) = self;
        let len = buffer.len();
        let written = check("write", path, self.try_write(buffer, position).await);
        if written != len {
            fatal("write", path, &format!("only {written} of {len} bytes were written"));
        }
    }

    pub(super) async fn try_write(
        &self,
        buffer: Buffer,
        position: u64,
    ) -> Result<usize, GlommioError<()>> {
        match (self, buffer) {
            (Self::Direct(file, _), Buffer::Direct(buffer)) => {
                file.write_at(buffer, position).await
            }
            (Self::Buffered(file, _), Buffer::Buffered(buffer)) => {
                file.write_at(buffer, position).await
            }
            _ => unreachable!("all files of a data directory are of one kind"),
        }
    }

    /// Reads up to `len` bytes; fewer only at the end of the file.
    pub(super) async fn read(&self, position: u64, len: usize) -> Bytes {
        let mut data = BytesMut::new();
        while data.len() < len {
            let (at, left) = (position + data.len() as u64, len - data.len());
            let piece = match self {
                Self::Direct(file, path) => {
                    check("read", path, file.read_at_aligned(at, left).await)
                }
                Self::Buffered(file, path) => check("read", path, file.read_at(at, left).await),
            };
            if piece.len() == len {
                return copied(&piece);
            }
            data.extend_from_slice(&piece);
            // A piece that ends within a block ends at the end of the file.
            if piece.is_empty() || piece.len() % BLOCK as usize != 0 {
                break;
            }
        }
        data.freeze()
    }

    pub(super) async fn sync(&self) {
        let (Self::Direct(_, path) | Self::Buffered(_, path)) = self;
        let mut synced = self.try_sync().await;
        if cfg!(bug_retry_after_sync_error) && synced.is_err() {
            synced = self.try_sync().await; // known bad: what was lost is not dirty any more
        }
        check("sync", path, synced);
    }

    async fn try_sync(&self) -> Result<(), GlommioError<()>> {
        #[cfg(test)]
        super::fault::strike(super::fault::Fault::Sync)?;
        match self {
            Self::Direct(file, _) => file.fdatasync().await,
            Self::Buffered(file, _) => file.fdatasync().await,
        }
    }

    /// Direct files are opened so that a write is a sync.
    pub(super) async fn sync_if_buffered(&self) {
        if let Self::Buffered(..) = self {
            self.sync().await;
        }
    }

    pub(super) fn path(&self) -> &Path {
        let (Self::Direct(_, path) | Self::Buffered(_, path)) = self;
        path
    }

    pub(super) async fn len(&self) -> u64 {
        match self {
            Self::Direct(file, path) => check("measure", path, file.file_size().await),
            Self::Buffered(file, path) => check("measure", path, file.file_size().await),
        }
    }

    pub(super) async fn close(self) {
        match self {
            Self::Direct(file, path) => check("close", &path, file.close().await),
            Self::Buffered(file, path) => check("close", &path, file.close().await),
        }
    }
}

/// The bytes in memory that an earlier read of the shard has left, if any has. New memory for each
/// would cost more than the copy: a piece as large as these is given back to the system, and comes
/// page by page again.
fn copied(piece: &[u8]) -> Bytes {
    if piece.len() > limits::READ_BYTES {
        return Bytes::copy_from_slice(piece); // seldom, and too much to be kept
    }
    READ.with_borrow_mut(|buffers| {
        let free = buffers.iter_mut().position(|buffer| buffer.try_reclaim(piece.len()));
        let place = free.unwrap_or_else(|| {
            buffers.rotate_right(1); // the one that has waited longest may be held for long
            buffers[0] = BytesMut::with_capacity(piece.len());
            0
        });
        buffers[place].extend_from_slice(piece);
        buffers[place].split().freeze()
    })
}

pub(super) fn run(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

pub(super) fn check<T>(doing: &str, path: &Path, result: Result<T, GlommioError<()>>) -> T {
    result.unwrap_or_else(|error| {
        // The system's own words: glommio's repeat the path and name a descriptor.
        let system = error.raw_os_error().map(std::io::Error::from_raw_os_error);
        let why = system.map_or_else(|| error.to_string(), |system| system.to_string());
        fatal(doing, path, &why)
    })
}

pub(super) fn is_full(error: &GlommioError<()>) -> bool {
    let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT];
    full.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Stops the process: what the disk holds is not known any more, and only a new start finds out.
pub(super) fn fatal(doing: &str, path: &Path, error: &str) -> ! {
    let path = path.display();
    tracing::error!(%path, error, "cannot {doing} the log: stopping");
    eprintln!("chronosdb: cannot {doing} {path}: {error}; stopping, for its state is not known");
    std::process::abort()
}
