//! The carried runs that a start takes up where no checkpoint can be used and the log has lost its
//! head: nothing else says which there are, and some have what the log has not.
//!
//! Must hold: a run that was finished and cannot be opened is among the suspects, unless a newer
//! one has all that it had. Jobs run one at a time, and a start removes what it does not know, so
//! only the newest file can be one that was never finished; without a sound footer it is taken for
//! one.

use std::sync::Arc;

use super::checkpoint::RunFiles;
use super::dedup::ID_RUN_MAGIC;
use super::log::Ids;
use super::runs::{Directory, Extent, Footer, HEADER, RunHead, RunIds, RunKind};
use crate::base::ids::{Offset, RunNo};

/// All whole carried runs, by their first offsets, but for those that a newer one replaces; and
/// those that may have been one, each with the first offset that it may have.
pub fn adopt(ids: Ids, files: &impl RunFiles) -> (Vec<Arc<Directory>>, Vec<(RunNo, Offset)>) {
    let mut numbers = files.all();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let newest = numbers.first().copied();
    let (mut adopted, mut suspects): (Vec<Arc<Directory>>, _) = (Vec::new(), Vec::new());
    for run in numbers {
        let opened = open_run(ids, run, files);
        let head = opened.as_ref().map(|run| *run.head()).or_else(|| head_of(ids, run, files));
        let replaced = head.is_some_and(|head| {
            adopted.iter().map(|newer| newer.head()).any(|newer| {
                newer.first_offset <= head.first_offset && head.end_offset <= newer.end_offset
            })
        });
        if replaced || head.is_some_and(|head| head.kind != RunKind::Carried) {
            continue;
        }
        match opened {
            Some(whole) => adopted.push(whole),
            None if newest == Some(run) && footer_of(ids, run, files).is_none() => {}
            None if is_of_ids(run, files) => {}
            None => suspects.push((run, head.map_or(Offset(0), |head| head.first_offset))),
        }
    }
    adopted.sort_by_key(|run| (run.head().first_offset, run.head().ids.run));
    (adopted, suspects)
}

/// Reads the directory of a run; `None` if it is damaged.
pub fn open_run(ids: Ids, run: RunNo, files: &impl RunFiles) -> Option<Arc<Directory>> {
    let footer = footer_of(ids, run, files)?;
    let Extent { position, len } = footer.directory;
    let directory = Directory::decode(&files.read(run, position, len)?, &footer).ok()?;
    Some(Arc::new(directory))
}

fn footer_of(ids: Ids, run: RunNo, files: &impl RunFiles) -> Option<Footer> {
    let len = files.len(run)?;
    let Extent { position, len: footer_len } = Footer::extent(len)?;
    Footer::decode(&files.read(run, position, footer_len)?, &run_ids(ids, run), len).ok()
}

/// Reads the header of a run of records; `None` if it is damaged, or another file.
pub fn head_of(ids: Ids, run: RunNo, files: &impl RunFiles) -> Option<RunHead> {
    let bytes = files.read(run, HEADER.position, HEADER.len)?;
    RunHead::decode(&bytes, &run_ids(ids, run)).ok()
}

fn is_of_ids(run: RunNo, files: &impl RunFiles) -> bool {
    let len = ID_RUN_MAGIC.len() as u64;
    files.read(run, 0, len).is_some_and(|bytes| bytes[..] == ID_RUN_MAGIC)
}

fn run_ids(ids: Ids, run: RunNo) -> RunIds {
    RunIds { cluster: ids.cluster, partition: ids.partition, run }
}
