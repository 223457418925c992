//! Tests of the disk's operations on real files, with direct and with buffered I/O.

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use bytes::Bytes;
use glommio::LocalExecutorBuilder;
use rustix::fs::OFlags;
use rustix::process::Signal;

use super::*;
use crate::base::ids::Term;
use crate::shard::clock::breathe;
use crate::shard::fault::{Fault, plant};
use crate::shard::mount::mount;
use crate::shard::space::Reserve;

const PARTITION: PartitionId = PartitionId(1);
const SEGMENT: Index = Index(42);
const LEN: u64 = 2 * FILL_BYTES + BLOCK;

/// What it is told next, but for the space on the disk.
async fn next(inbox: &Inbox) -> Input {
    loop {
        match inbox.take() {
            Some(Input::DiskSpace { .. }) => {}
            Some(input) => return input,
            None => breathe().await,
        }
    }
}

fn extent(position: u64, len: u64) -> Extent {
    Extent { partition: PARTITION, segment: SEGMENT, position, len }
}

async fn read(disk: &Rc<Disk>, position: u64, len: u64) -> Bytes {
    disk.read(extent(position, len), 5);
    match next(&disk.inbox).await {
        Input::ReadDone { read: 5, data, .. } => data,
        other => panic!("{other:?}"),
    }
}

/// Runs a scene on a disk with an empty partition, once per kind of I/O.
fn on_disk<F: Future<Output = ()>>(scene: impl Fn(Rc<Disk>) -> F + Clone + Send + 'static) {
    for direct in [true, false] {
        on_one_disk(direct, scene.clone());
    }
}

fn on_one_disk<F: Future<Output = ()>>(
    direct: bool,
    scene: impl FnOnce(Rc<Disk>) -> F + Send + 'static,
) {
    let place = tempfile::tempdir_in(env!("OUT_DIR"));
    let place = place.expect("a directory");
    let data = place.path().to_owned();
    let run = LocalExecutorBuilder::default().spawn(move || async move {
        let mounted = mount(&data, PARTITION).expect("mounted");
        let counters = Rc::new(Counters::new());
        let space = Space::new(Reserve::new(&data, 0), false);
        let disk = Disk::new(&data, direct, Rc::new(Inbox::default()), counters, space);
        disk.mount(PARTITION, mounted.slot);
        scene(disk).await;
    });
    run.expect("a thread").join().expect("the scene ends well");
}

/// Runs a scene, once per kind of I/O, in a process of its own that must stop at a failed sync.
/// `test` is the name of the test that calls this: the process runs it again.
fn dies<F: Future<Output = ()>>(
    test: &str,
    kinds: &[&str],
    scene: impl FnOnce(Rc<Disk>) -> F + Send + 'static,
) {
    const KIND: &str = "CHRONOSDB_TEST_DIES_ON";
    if let Ok(kind) = std::env::var(KIND) {
        return on_one_disk(kind == "direct", scene);
    }
    let (_, module) = module_path!().split_once("::").expect("a module of the crate");
    for kind in kinds {
        let me = std::env::current_exe().expect("a test has a binary");
        let mut process = Command::new(me);
        process.args(["--exact", &format!("{module}::{test}"), "--nocapture"]).env(KIND, kind);
        let output = process.output().expect("started");
        let said = String::from_utf8_lossy(&output.stderr);
        let aborted = output.status.signal() == Some(Signal::ABORT.as_raw());
        assert!(aborted && said.contains("cannot sync"), "{kind}: {}: {said}", output.status);
    }
}

async fn create_and_fill(disk: &Rc<Disk>) {
    disk.in_order(PARTITION, FileOp::Create(SEGMENT));
    assert!(matches!(next(&disk.inbox).await, Input::SegmentCreated { segment: SEGMENT, .. }));
    disk.fill(PARTITION, SEGMENT, 0, LEN);
    assert!(matches!(next(&disk.inbox).await, Input::Filled { end: LEN, .. }));
}

#[test]
fn what_is_written_is_read() {
    on_disk(|disk| async move {
        create_and_fill(&disk).await;
        assert!(read(&disk, 0, LEN).await.iter().all(|byte| *byte == 0));
        // Several in flight; they finish in any order.
        for write in 0..8 {
            let sync = write % 2 == 0;
            disk.write(extent(write * 2 * BLOCK, BLOCK), write, sync, |buffer| {
                buffer.fill(write as u8 + 1);
            });
        }
        let mut done = Vec::new();
        while done.len() < 8 {
            match next(&disk.inbox).await {
                Input::WriteDone { partition: PARTITION, write } => done.push(write),
                other => panic!("{other:?}"),
            }
        }
        done.sort_unstable();
        assert_eq!(done, (0..8).collect::<Vec<_>>());
        disk.sync(PARTITION, SEGMENT);
        assert!(matches!(next(&disk.inbox).await, Input::Synced { segment: SEGMENT, .. }));
        let data = read(&disk, 0, 16 * BLOCK).await;
        for (block, bytes) in data.chunks(BLOCK as usize).enumerate() {
            let expected = if block % 2 == 0 { block / 2 + 1 } else { 0 };
            assert!(bytes.iter().all(|byte| usize::from(*byte) == expected), "block {block}");
        }
    });
}

#[test]
fn a_read_is_short_only_at_the_end_of_the_file() {
    on_disk(|disk| async move {
        create_and_fill(&disk).await;
        assert_eq!(read(&disk, LEN - 2 * BLOCK, 4 * BLOCK).await.len() as u64, 2 * BLOCK);
        assert!(read(&disk, LEN, BLOCK).await.is_empty());
        assert!(read(&disk, LEN + 8 * BLOCK, BLOCK).await.is_empty());
    });
}

#[test]
fn files_are_made_and_removed_in_order() {
    on_disk(|disk| async move {
        create_and_fill(&disk).await;
        // Not waited for in between: the second must not find the first one's file.
        disk.in_order(PARTITION, FileOp::Remove(SEGMENT));
        disk.in_order(PARTITION, FileOp::Create(SEGMENT));
        assert!(matches!(next(&disk.inbox).await, Input::SegmentCreated { .. }));
        let found = mount(&disk.data, PARTITION).expect("mounted").segments;
        assert_eq!(
            found.iter().map(|file| (file.first, file.len)).collect::<Vec<_>>(),
            [(SEGMENT, 0)]
        );
        disk.in_order(PARTITION, FileOp::Remove(SEGMENT));
        disk.in_order(PARTITION, FileOp::Save(HardState::default()));
        assert!(matches!(next(&disk.inbox).await, Input::HardStateSaved { .. }));
        assert!(mount(&disk.data, PARTITION).expect("mounted").segments.is_empty());
    });
}

#[test]
fn the_hard_state_alternates_between_its_slots() {
    on_disk(|disk| async move {
        for number in 1..=3 {
            let state = HardState {
                term: Term(number * 10),
                vote: 1,
                commit: Index(number),
                cut_from: Index(number + 1),
                log_start: Index(number + 2),
            };
            disk.in_order(PARTITION, FileOp::Save(state));
            assert!(matches!(next(&disk.inbox).await, Input::HardStateSaved { .. }));
            let found = mount(&disk.data, PARTITION).expect("mounted");
            assert_eq!((found.slot, found.hard_state), (number, Some(state)));
        }
    });
}

#[test]
fn a_failed_sync_stops_the_process() {
    dies("a_failed_sync_stops_the_process", &["direct", "buffered"], |disk| async move {
        create_and_fill(&disk).await;
        disk.write(extent(0, BLOCK), 1, false, |buffer| buffer.fill(1));
        assert!(matches!(next(&disk.inbox).await, Input::WriteDone { write: 1, .. }));
        plant(Fault::Sync);
        disk.sync(PARTITION, SEGMENT);
        next(&disk.inbox).await;
    });
}

#[test]
fn a_failed_sync_of_a_write_stops_the_process() {
    // A direct write is synced by its descriptor: see the next test.
    dies("a_failed_sync_of_a_write_stops_the_process", &["buffered"], |disk| async move {
        create_and_fill(&disk).await;
        plant(Fault::Sync);
        disk.write(extent(0, BLOCK), 1, true, |buffer| buffer.fill(1));
        next(&disk.inbox).await;
    });
}

#[test]
fn a_durable_write_goes_through_a_descriptor_that_syncs() {
    on_one_disk(true, |disk| async move {
        create_and_fill(&disk).await;
        for (write, sync) in [(1, true), (2, false)] {
            disk.write(extent(write * BLOCK, BLOCK), write, sync, |buffer| buffer.fill(1));
            assert!(matches!(next(&disk.inbox).await, Input::WriteDone { .. }));
        }
        for (durable, syncs) in [(Durable::Yes, true), (Durable::No, false)] {
            let file = disk.files.borrow()[&(PARTITION, SEGMENT, durable)].clone();
            let File::Direct(file, _) = &*file else { panic!("opened for direct I/O") };
            let info = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
            let info = std::fs::read_to_string(info).expect("an open descriptor");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal");
            let flags = OFlags::from_bits_retain(flags);
            assert!(flags.contains(OFlags::DIRECT), "{flags:?}");
            assert_eq!(flags.contains(OFlags::DSYNC), syncs, "{durable:?}: {flags:?}");
        }
    });
}

#[test]
fn a_failed_sync_of_a_directory_stops_the_process() {
    let test = "a_failed_sync_of_a_directory_stops_the_process";
    dies(test, &["direct", "buffered"], |disk| async move {
        plant(Fault::DirectorySync);
        disk.in_order(PARTITION, FileOp::Create(SEGMENT));
        next(&disk.inbox).await;
    });
}
