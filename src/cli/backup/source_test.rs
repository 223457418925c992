//! Tests of what a backup opens: all of a cut or another cut, and nothing behind it.

use std::cell::Cell;
use std::path::PathBuf;

use super::*;
use crate::cli::backup::copy::{Copier, Pace};
use crate::cli::backup::copy_all;
use crate::cli::backup::manifest::{Header, Manifest};

/// A data directory of one partition: two segments, a checkpoint and a run.
fn place() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a directory");
    let data = place.path().join("data");
    let partition = PartitionId(0);
    fs::create_dir_all(partition_path(&data, partition)).expect("new");
    let write = |path: PathBuf, bytes: &[u8]| fs::write(path, bytes).expect("writable");
    write(data.join(FORMAT_FILE), b"format = 1\n");
    write(partition_path(&data, partition).join(STATE_FILE), &[9; 8_192]);
    write(segment_path(&data, partition, Index(1)), &[1; 8_192]);
    write(segment_path(&data, partition, Index(50)), &[2; 16_384]);
    write(checkpoint_path(&data, partition, 4), &[3; 100]);
    write(run_path(&data, partition, RunNo(7)), &[4; 5_000]);
    (place, data)
}

fn cut(checkpoint: u64) -> CutAnswer {
    CutAnswer {
        version: 1,
        data_dir: String::new(),
        identity: (0, 0),
        partitions: vec![PartitionCut {
            partition: 0,
            term: 3,
            vote: 1,
            log_start: 0,
            commit: 60,
            segments: vec![1, 50],
            end: 5_000,
            checkpoints: vec![checkpoint],
            runs: vec![7],
        }],
    }
}

fn names(sources: &[Source]) -> Vec<(&str, u64)> {
    sources.iter().map(|source| (source.name.as_str(), source.content.bytes())).collect()
}

#[test]
fn a_file_that_has_gone_asks_for_another_cut() {
    let (_place, data) = place();
    let asked = Cell::new(0);
    let sources = of_cut(&data, || {
        asked.set(asked.get() + 1);
        Ok(cut(if asked.get() < 3 { 2 } else { 4 }))
    });
    assert_eq!(asked.get(), 3, "checkpoint 2 has gone");
    let expected = [
        ("p-00000/replica.state", 8_192),
        ("p-00000/00000000000000000001.seg", 8_192),
        ("p-00000/00000000000000000050.seg", 8_192),
        ("p-00000/00000000000000000004.checkpoint", 100),
        ("p-00000/00000000000000000007.run", 5_000),
        ("chronosdb.toml", 11),
    ];
    assert_eq!(names(&sources.expect("opened")), expected);

    asked.set(0);
    let why = of_cut(&data, || {
        asked.set(asked.get() + 1);
        Ok(cut(2))
    });
    assert_eq!(asked.get(), BACKUP_CUTS, "not for ever");
    assert!(why.expect_err("gone each time").contains("try again"));
    assert_eq!(of_cut(&data, || Err("no".into())).expect_err("not asked again"), "no");
}

#[test]
fn nothing_behind_the_cut_is_copied() {
    let (place, data) = place();
    let sources = of_cut(&data, || Ok(cut(4))).expect("opened");
    // Removed while it is copied.
    fs::remove_file(run_path(&data, PartitionId(0), RunNo(7))).expect("there");
    let dir = place.path().join("backup");
    fs::create_dir(&dir).expect("new");
    let mut copier = Copier::new(0, Pace::new(0));
    let files = copy_all(&dir, sources, 1, &mut copier).expect("copied");
    Manifest { header: Header::new(5, 1, false), files }.write(&dir).expect("written");

    let manifest = Manifest::read(&dir).expect("sound");
    let copied = |name: &str| fs::read(dir.join(name)).expect("copied");
    for file in &manifest.files {
        let found = copier.digest(&file.file, &dir.join(&file.file)).expect("readable");
        assert_eq!(found, (file.bytes, file.siphash));
    }
    let tail = copied("p-00000/00000000000000000050.seg");
    assert_eq!(tail, [[2; 5_000].as_slice(), &[0; 3_192]].concat(), "zeros behind the cut");
    assert_eq!(copied("p-00000/00000000000000000007.run"), [4; 5_000]);
    let found = crate::shard::mount::survey(&dir, PartitionId(0)).expect("readable");
    let state = found.expect("there").hard_state.expect("saved");
    assert_eq!((state.term, state.vote, state.commit), (Term(3), 1, Index(60)), "the cut's");
}

#[test]
fn a_stopped_directory_is_taken_as_it_is() {
    let (_place, data) = place();
    let directory = partition_path(&data, PartitionId(0));
    for stranger in ["x", "00000000000000000009.checkpoint.new"] {
        fs::write(directory.join(stranger), "x").expect("writable");
    }
    let sources = all_of(&data, 1).expect("opened");
    let expected = [
        ("p-00000/00000000000000000001.seg", 8_192),
        ("p-00000/00000000000000000004.checkpoint", 100),
        ("p-00000/00000000000000000007.run", 5_000),
        ("p-00000/00000000000000000050.seg", 16_384),
        ("p-00000/replica.state", 8_192),
        ("chronosdb.toml", 11),
    ];
    assert_eq!(names(&sources), expected);
    let why = all_of(&data, 2).expect_err("a partition lacks");
    assert!(why.contains("p-00001"), "{why}");
}
