//! Checkpoints on the disk of one shard.
//!
//! ```text
//! p-00000/00000000000000000003.checkpoint       whole, or not there
//! p-00000/00000000000000000004.checkpoint.new   being written; removed at the next start
//! ```
//! Written under another name, synced, renamed, and then the directory is synced: so a name that
//! is there has all of its bytes. They are small and written once a second at most: through the
//! page cache, like no other file.
//!
//! What a start does not use is removed, and so are runs that no checkpoint lists: the log has all
//! that was in them.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::directory::{
    DirectoryError, UNFINISHED, io_error, partition_path, sync_directory, write_aside,
};
use super::disk::Disk;
use super::file::{Buffer, Durable, File, check, fatal, is_full, run};
use super::jobs::{parse_run_name, run_path};
use super::mount::{Mounted, segment_path, survey};
use crate::base::ids::{Index, Offset, PartitionId, RunNo};
use crate::engine::checkpoint::{self, Found, RunFiles};
use crate::engine::log::Ids;
use crate::engine::renew;
use crate::engine::{Input, SegmentFile};

/// The file of a checkpoint.
pub fn checkpoint_path(data: &Path, partition: PartitionId, number: u64) -> PathBuf {
    partition_path(data, partition).join(checkpoint::file_name(number))
}

/// Finds the checkpoints of a partition whose directory is there, says which are not used, and
/// removes what nothing speaks of.
pub(super) fn find(
    data: &Path,
    ids: Ids,
    (segments, log_start): (&[SegmentFile], Index),
) -> Result<Found, DirectoryError> {
    let path = partition_path(data, ids.partition);
    let list = list(&path).map_err(io_error("list the directory", &path))?;
    let files = read_all(data, ids.partition, &list.checkpoints)?;
    let refuse = |number, fault: checkpoint::CheckpointFault| {
        let (partition, text) = (ids.partition, "a checkpoint is not used: the start takes longer");
        tracing::warn!(%partition, number, %fault, text);
    };
    let found = checkpoint::choose(files, ids, (segments, log_start), &Runs { data, ids }, refuse);
    let mut gone = list.unfinished;
    let unused = list.checkpoints.iter().filter(|number| !found.keeps_checkpoint(**number));
    gone.extend(unused.map(|number| checkpoint_path(data, ids.partition, *number)));
    // Checkpoints first: none is left behind that lists a run which is gone.
    let unused = list.runs.iter().filter(|run| !found.keeps(**run));
    gone.extend(unused.map(|run| run_path(data, ids.partition, *run)));
    for path in &gone {
        fs::remove_file(path).map_err(io_error("remove", path))?;
    }
    if !gone.is_empty() {
        sync_directory(&path)?;
    }
    Ok(found)
}

/// Removes all checkpoints of a partition: its log is not what they were made of any more, or is
/// to be read as a whole.
pub fn forget(data: &Path, partition: PartitionId) -> Result<(), DirectoryError> {
    let path = partition_path(data, partition);
    let listed = list(&path).map_err(io_error("list the directory", &path))?;
    for number in listed.checkpoints {
        let path = checkpoint_path(data, partition, number);
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    sync_directory(&path)
}

/// Has the next start make anew what runs have and the log has as well: it finds no checkpoint, or,
/// where segments were removed, a renewed one alone. Changes nothing where that cannot be made.
/// Whether it was done.
pub fn renew(data: &Path, partition: PartitionId) -> Result<bool, DirectoryError> {
    let Some(Mounted { mut segments, hard_state, .. }) = survey(data, partition)? else {
        return Ok(false);
    };
    let log_start = hard_state.unwrap_or_default().log_start;
    if log_start <= Index(1) {
        forget(data, partition)?;
        return Ok(true);
    }
    segments.retain(|file| file.first >= log_start);
    let Some((ids, start)) = segments.first().and_then(|file| head_of(data, partition, file.first))
    else {
        return Ok(false);
    };
    let home = partition_path(data, partition);
    let listed = list(&home).map_err(io_error("list the directory", &home))?;
    let files = read_all(data, partition, &listed.checkpoints)?;
    let Some((number, bytes)) = renew::renew(files, ids, (&segments, start), &Runs { data, ids })
    else {
        return Ok(false);
    };
    write_aside(&checkpoint_path(data, partition, number), &bytes)?;
    sync_directory(&home)?;
    // Only now: one of them is always there.
    for number in listed.checkpoints {
        let path = checkpoint_path(data, partition, number);
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    sync_directory(&home)?;
    Ok(true)
}

/// Whose log it is that begins with this segment, and its first offset; `None` if it cannot be
/// read.
fn head_of(data: &Path, partition: PartitionId, segment: Index) -> Option<(Ids, Offset)> {
    let mut head = [0; renew::HEAD_BYTES];
    let file = fs::File::open(segment_path(data, partition, segment)).ok()?;
    file.read_exact_at(&mut head, 0).ok()?;
    renew::beginning(&head, partition, segment)
}

/// Numbers and bytes of checkpoints.
fn read_all(
    data: &Path,
    partition: PartitionId,
    numbers: &[u64],
) -> Result<Vec<(u64, Bytes)>, DirectoryError> {
    let read = |number: &u64| {
        let path = checkpoint_path(data, partition, *number);
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        Ok((*number, Bytes::from(bytes)))
    };
    numbers.iter().map(read).collect()
}

/// The derived files in a partition's directory.
#[derive(Debug, Default)]
pub struct Listed {
    /// Numbers of checkpoints.
    pub checkpoints: Vec<u64>,
    /// Numbers of runs.
    pub runs: Vec<RunNo>,
    /// Checkpoints that were being written.
    pub unfinished: Vec<PathBuf>,
}

/// Lists the derived files in a partition's directory.
pub fn list(path: &Path) -> io::Result<Listed> {
    let mut listed = Listed::default();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = checkpoint::parse_file_name(name) {
            listed.checkpoints.push(number);
        } else if let Some(run) = parse_run_name(name) {
            listed.runs.push(run);
        } else if let Some(whole) = name.strip_suffix(UNFINISHED)
            && checkpoint::parse_file_name(whole).is_some()
        {
            listed.unfinished.push(entry.path());
        }
    }
    Ok(listed)
}

struct Runs<'a> {
    data: &'a Path,
    ids: Ids,
}

impl RunFiles for Runs<'_> {
    fn len(&self, run: RunNo) -> Option<u64> {
        Some(fs::metadata(run_path(self.data, self.ids.partition, run)).ok()?.len())
    }

    fn all(&self) -> Vec<RunNo> {
        list(&partition_path(self.data, self.ids.partition))
            .map_or(Vec::new(), |listed| listed.runs)
    }

    fn read(&self, run: RunNo, position: u64, len: u64) -> Option<Bytes> {
        let file = fs::File::open(run_path(self.data, self.ids.partition, run)).ok()?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(&mut bytes, position).ok()?;
        Some(Bytes::from(bytes))
    }
}

impl Disk {
    /// Writes a checkpoint; answered by `CheckpointSaved`.
    pub(super) fn save_checkpoint(
        self: &Rc<Self>,
        partition: PartitionId,
        number: u64,
        bytes: Vec<u8>,
    ) {
        let disk = self.clone();
        run(async move {
            let path = checkpoint_path(&disk.data, partition, number);
            let mut unfinished = path.clone().into_os_string();
            unfinished.push(UNFINISHED);
            let unfinished = PathBuf::from(unfinished);
            let file = loop {
                match File::try_open(&unfinished, false, Durable::No, true).await {
                    Err(error) if is_full(&error) => disk.wait_for_space(&unfinished).await,
                    result => break check("create", &unfinished, result),
                }
            };
            let len = bytes.len();
            loop {
                match file.try_write(Buffer::Buffered(bytes.clone()), 0).await {
                    Ok(written) if written == len => break,
                    // A short write comes before the error that tells why.
                    Ok(_) => disk.wait_for_space(&unfinished).await,
                    Err(error) if is_full(&error) => disk.wait_for_space(&unfinished).await,
                    Err(error) => fatal("write", &unfinished, &error.to_string()),
                }
            }
            file.sync().await;
            file.close().await;
            check("rename", &unfinished, glommio::io::rename(&unfinished, &path).await);
            disk.sync_directory(partition).await;
            disk.counters.count(|c| c.checkpoint_bytes += len as u64);
            disk.inbox.push(Input::CheckpointSaved { partition });
        });
    }

    /// Removes a checkpoint that is not needed any more.
    pub(super) fn remove_checkpoint(self: &Rc<Self>, partition: PartitionId, number: u64) {
        let disk = self.clone();
        run(async move {
            let path = checkpoint_path(&disk.data, partition, number);
            check("remove", &path, glommio::io::remove(&path).await);
        });
    }

    /// A run or the log is damaged: the next start must read the whole log. Ends the process.
    pub(super) fn condemn(&self, partition: PartitionId, text: &str) -> ! {
        let path = partition_path(&self.data, partition);
        match renew(&self.data, partition) {
            Ok(true) => {
                fatal("read", &path, &format!("{text}. The next start reads the whole log instead"))
            }
            Ok(false) => fatal("read", &path, text),
            Err(error) => fatal("renew the checkpoints of", &path, &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Term;
    use crate::engine::HardState;
    use crate::engine::checkpoint::Checkpoint;
    use crate::engine::log::envelope::encode_head;
    use crate::engine::log::{
        EntryHeader, EntryKind, Envelope, Place, Spot, StateBuilder, StateHead,
    };

    const IDS: Ids = Ids { cluster: 5, partition: PartitionId(3) };

    fn checkpoint(number: u64, carried: Vec<RunNo>) -> Vec<u8> {
        let checkpoint = Checkpoint {
            ids: IDS,
            number,
            last: (Index(1), Term(1)),
            applied_ts: 1,
            applied_end: Offset(0),
            flushed: Offset(0),
            resume: Spot { place: Place::new(Index(1), 0), index: Index(1) },
            last_run: RunNo(9),
            carried,
            indexes: Vec::new(),
            ids_end: Offset(0),
            id_runs: Vec::new(),
            notes: Vec::new(),
            near: Vec::new(),
            passed: None,
            state: StateBuilder::new(StateHead::default()).finish(),
        };
        checkpoint.encode()
    }

    #[test]
    fn a_renewed_checkpoint_takes_the_place_of_all_others_where_the_log_has_lost_its_head() {
        for shortened in [false, true] {
            let target = env!("OUT_DIR");
            let place = tempfile::tempdir_in(target).expect("a directory");
            let data = place.path();
            let directory = partition_path(data, IDS.partition);
            fs::create_dir(&directory).expect("new");
            let first = Index(if shortened { 50 } else { 1 });
            let mut mounted = survey(data, IDS.partition).expect("readable").expect("there");
            let log_start = Index(first.0 * u64::from(shortened));
            let state = HardState { log_start, ..HardState::default() };
            mounted.save_state(data, state).expect("saved");
            let (term, index, base_offset) = (Term(1), first, Offset(first.0 - 1));
            let (kind, chain, count, append_ts) = (EntryKind::NoOp, 0, 0, 1);
            let header = EntryHeader { kind, term, index, chain, base_offset, count, append_ts };
            let envelope = Envelope {
                cluster: IDS.cluster,
                partition: IDS.partition,
                segment: first,
                synced_index: Index(0),
                body_len: 0,
                body_crc: 0,
            };
            let path = segment_path(data, IDS.partition, first);
            fs::write(path, encode_head(&envelope, &header)).expect("written");
            for number in [3, 4] {
                let mut made = Checkpoint::decode(&checkpoint(number, Vec::new()).into(), IDS);
                let made = made.as_mut().expect("sound");
                (made.last.0, made.applied_end, made.flushed, made.ids_end) =
                    (Index(60), Offset(70), Offset(70), Offset(70));
                made.resume = Spot { place: Place::new(first, 96), index: first };
                let path = checkpoint_path(data, IDS.partition, number);
                fs::write(path, made.encode()).expect("written");
            }
            assert!(renew(data, IDS.partition).expect("writable"));
            let left = list(&directory).expect("readable");
            let expected: &[u64] = if shortened { &[6] } else { &[] };
            assert_eq!((&left.checkpoints[..], left.unfinished.len()), (expected, 0));
            let segments = [SegmentFile { first, len: 4_096 }];
            let found = find(data, IDS, (&segments, log_start)).expect("readable");
            let flushed = found.restored.map(|restored| restored.checkpoint.flushed);
            assert_eq!(flushed, shortened.then_some(Offset(49)));
        }
    }

    #[test]
    fn a_start_keeps_what_it_can_use_and_removes_the_rest() {
        let target = env!("OUT_DIR");
        let place = tempfile::tempdir_in(target).expect("a directory");
        let data = place.path();
        let directory = partition_path(data, IDS.partition);
        fs::create_dir(&directory).expect("new");
        let write = |name: &str, bytes: &[u8]| fs::write(directory.join(name), bytes);
        write(&checkpoint::file_name(1), &checkpoint(1, Vec::new())).expect("written");
        write(&checkpoint::file_name(2), &checkpoint(2, Vec::new())).expect("written");
        write(&checkpoint::file_name(3), &checkpoint(3, vec![RunNo(4)])).expect("written");
        write(&checkpoint::file_name(4), b"torn").expect("written");
        write(&(checkpoint::file_name(5) + UNFINISHED), b"half").expect("written");
        fs::write(run_path(data, IDS.partition, RunNo(4)), b"no run").expect("written");
        write("stranger", b"kept").expect("written");

        let segments = [SegmentFile { first: Index(1), len: 4096 }];
        let found = find(data, IDS, (&segments, Index(0))).expect("readable");
        assert_eq!(found.restored.expect("one is whole").checkpoint.number, 2);
        let kept: Vec<u64> = found.kept.iter().map(|kept| kept.number).collect();
        assert_eq!(kept, [1, 2]);
        let left = fs::read_dir(&directory).expect("there");
        let mut left: Vec<_> = left.map(|e| e.expect("an entry").file_name()).collect();
        left.sort_unstable();
        let expected = [&checkpoint::file_name(1), &checkpoint::file_name(2), "stranger"];
        assert_eq!(left, expected.map(std::ffi::OsString::from));
    }
}
