//! Jobs and runs on the disk of one shard: each job is a task beside the pump.
//!
//! ```text
//! p-00000/00000000000000000007.run   a run, of records, of keys or of ids
//! ```
//! A run counts once a checkpoint lists it; others are removed at the next start (`checkpoints`).
//! A job lets the pump work between any two of its steps. Where the disk is full it is given up and
//! its file removed: what it carries is still in the log and in memory, and the engine begins it
//! anew when there is space. It never takes of the reserve.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use glommio::GlommioError;

use super::clock::breathe;
use super::directory::partition_path;
use super::disk::Disk;
use super::file::{Buffer, Durable, File, check, fatal, is_full, run};
use crate::base::ids::{Index, PartitionId, RunNo};
use crate::base::limits;
use crate::base::time::Now;
use crate::engine::Input;
use crate::engine::jobs::{Job, JobSpec, JobStep};

/// Writes of a job under way, oldest first. Waiting for each would cost the job a turn of the pump
/// for each, too.
#[derive(Default)]
struct Writes(VecDeque<glommio::Task<bool>>);

impl Writes {
    fn begin(&mut self, write: impl Future<Output = bool> + 'static) {
        self.0.push_back(glommio::spawn_local(write));
    }

    /// Waits until no more than `rest` are under way. False if one that has ended found no space.
    async fn wait_for(&mut self, rest: usize) -> bool {
        let mut all = true;
        while self.0.len() > rest {
            let oldest = self.0.pop_front().expect("more than none");
            all &= oldest.await;
        }
        all
    }
}

/// A file that a job reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// A segment, by its first index.
    Log(Index),
    /// A run.
    Run(RunNo),
}

/// Run files kept open per shard; beyond that those not in use are closed.
const OPEN_RUNS: usize = 256;

/// The file of a run.
pub fn run_path(data: &Path, partition: PartitionId, run: RunNo) -> PathBuf {
    partition_path(data, partition).join(format!("{:020}.run", run.0))
}

/// The number in the name of a run's file; `None` if it is none.
pub fn parse_run_name(name: &str) -> Option<RunNo> {
    let digits = name.strip_suffix(".run")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(RunNo)).flatten()
}

impl Disk {
    /// Does a job; answered by `JobDone` or `JobGivenUp`.
    pub(super) fn start_job(self: &Rc<Self>, partition: PartitionId, spec: JobSpec) {
        let disk = self.clone();
        run(async move {
            let mut job = Job::new(spec);
            let mut made: Vec<RunNo> = Vec::new();
            let mut ahead = BTreeMap::new();
            let mut writes = Writes::default();
            let mut slice_began_us = Now::read().boot_us;
            loop {
                match job.go_on() {
                    JobStep::ReadLog { segment, position, len } => {
                        let source = Source::Log(segment);
                        let range = (position, len as usize);
                        job.feed(&disk.read_ahead(&mut ahead, partition, source, range).await);
                    }
                    JobStep::ReadRun { run, position, len } => {
                        let range = (position, len as usize);
                        job.feed(
                            &disk.read_ahead(&mut ahead, partition, Source::Run(run), range).await,
                        );
                    }
                    JobStep::Write { run, position, bytes } => {
                        let written = if position == 0 {
                            // Makes the file.
                            made.push(run);
                            disk.write_run(partition, run, position, &bytes).await
                        } else {
                            let room = writes.wait_for(limits::JOB_WRITES - 1).await;
                            let disk = disk.clone();
                            writes.begin(async move {
                                disk.write_run(partition, run, position, &bytes).await
                            });
                            room
                        };
                        if !written {
                            writes.wait_for(0).await;
                            return disk.give_up(partition, &made).await;
                        }
                    }
                    JobStep::Sync { run } => {
                        if !writes.wait_for(0).await {
                            return disk.give_up(partition, &made).await;
                        }
                        disk.run(partition, run).await.sync().await;
                        disk.sync_directory(partition).await;
                    }
                    JobStep::Pause => {}
                    JobStep::Done(outcome) => {
                        disk.inbox.push(Input::JobDone { partition, outcome });
                        return;
                    }
                }
                let ran_us = Now::read().boot_us.saturating_sub(slice_began_us);
                if ran_us >= disk.job_slice_us.get() {
                    breathe().await;
                    slice_began_us = Now::read().boot_us;
                }
            }
        });
    }

    /// What a job wants of a file, and [`limits::JOB_READ_BYTES`] of it for what it will want next:
    /// each read costs it a turn of the pump, which is long while much comes in. What a job reads
    /// does not change any more: runs, and a log up to where it ended when the job began.
    async fn read_ahead(
        &self,
        ahead: &mut BTreeMap<Source, (u64, Bytes)>,
        partition: PartitionId,
        source: Source,
        (position, len): (u64, usize),
    ) -> Bytes {
        if let Some((from, bytes)) = ahead.get(&source)
            && let Some(start) = position.checked_sub(*from).map(|start| start as usize)
            && start + len <= bytes.len()
        {
            return bytes.slice(start..start + len);
        }
        let much = len.max(limits::JOB_READ_BYTES);
        let bytes = match source {
            Source::Log(segment) => {
                let key = (partition, segment, Durable::No);
                self.file(key).await.read(position, much).await
            }
            Source::Run(of) => self.run(partition, of).await.read(position, much).await,
        };
        self.counters.count(|c| c.job_read_bytes += bytes.len() as u64);
        ahead.insert(source, (position, bytes.clone()));
        bytes.slice(..len.min(bytes.len()))
    }

    /// Reads from a run; answered by `ReadDone`.
    pub(super) fn read_run(
        self: &Rc<Self>,
        partition: PartitionId,
        read: u64,
        of: RunNo,
        (position, len): (u64, u64),
    ) {
        let disk = self.clone();
        run(async move {
            let data = disk.run(partition, of).await.read(position, len as usize).await;
            disk.counters.count(|c| {
                c.run_reads += 1;
                c.run_read_bytes += data.len() as u64;
            });
            disk.inbox.push(Input::ReadDone { partition, read, data });
        });
    }

    /// Removes a run that nobody reads.
    pub(super) fn remove_run(self: &Rc<Self>, partition: PartitionId, of: RunNo) {
        let disk = self.clone();
        run(async move {
            disk.runs.borrow_mut().remove(&(partition, of));
            let path = run_path(&disk.data, partition, of);
            check("remove", &path, glommio::io::remove(&path).await);
        });
    }

    async fn run(&self, partition: PartitionId, of: RunNo) -> Rc<File> {
        if let Some(file) = self.runs.borrow().get(&(partition, of)) {
            return file.clone();
        }
        let path = run_path(&self.data, partition, of);
        let file = Rc::new(File::open(&path, self.direct, Durable::No).await);
        self.keep_run(partition, of, &file);
        file
    }

    fn keep_run(&self, partition: PartitionId, of: RunNo, file: &Rc<File>) {
        let mut runs = self.runs.borrow_mut();
        if runs.len() >= OPEN_RUNS {
            runs.retain(|_, file| Rc::strong_count(file) > 1);
        }
        runs.insert((partition, of), file.clone());
    }

    /// Writes all of the bytes; the first ones make the file. False if there is no space for them.
    async fn write_run(
        &self,
        partition: PartitionId,
        of: RunNo,
        position: u64,
        bytes: &[u8],
    ) -> bool {
        let path = run_path(&self.data, partition, of);
        let file = if position == 0 {
            let opened = File::try_open(&path, self.direct, Durable::No, true).await;
            if opened.as_ref().is_err_and(is_full) {
                return false;
            }
            let file = Rc::new(check("create", &path, opened));
            self.keep_run(partition, of, &file);
            file
        } else {
            self.run(partition, of).await
        };
        let written = self.try_write_run(&file, &path, position, bytes).await;
        if written {
            self.counters.count(|c| c.run_write_bytes += bytes.len() as u64);
        }
        written
    }

    /// Removes the run of a job that has no space for it.
    async fn give_up(&self, partition: PartitionId, made: &[RunNo]) {
        for of in made {
            self.runs.borrow_mut().remove(&(partition, *of));
            let path = run_path(&self.data, partition, *of);
            tracing::warn!(path = %path.display(), "the disk is full: the run is made later");
            if path.exists() {
                check("remove", &path, glommio::io::remove(&path).await);
            }
        }
        self.ran_full();
        self.inbox.push(Input::JobGivenUp { partition });
    }

    /// False if there is no space.
    async fn try_write_run(&self, file: &File, path: &Path, position: u64, bytes: &[u8]) -> bool {
        let mut buffer = Buffer::of_any_bytes(self.direct, bytes.len() as u64);
        buffer.bytes().copy_from_slice(bytes);
        let written: Result<usize, GlommioError<()>> = file.try_write(buffer, position).await;
        match written {
            Ok(written) if written == bytes.len() => true,
            // A short write comes before the error that tells why.
            Ok(_) => false,
            Err(error) if is_full(&error) => false,
            Err(error) => fatal("write", path, &error.to_string()),
        }
    }
}
