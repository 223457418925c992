//! What the simulated disk keeps and loses.

use super::*;
use crate::rng::Salt;

const P: PartitionId = PartitionId(0);
const S: Index = Index(1);

fn disk(seed: u64) -> Disk {
    let mut disk = Disk::new(Rng::new(seed, Salt::Disk));
    disk.mount(P);
    disk.lock(P);
    done(&mut disk, Op::Create { partition: P, segment: S });
    done(&mut disk, Op::Fill { partition: P, segment: S, from: 0, to: 65_536 });
    disk
}

fn done(disk: &mut Disk, op: Op) -> Option<Input> {
    let id = disk.submit(op);
    disk.complete(id).map(|(_, input)| input)
}

fn write(position: u64, byte: u8, blocks: usize, sync: bool) -> Op {
    let data = vec![byte; blocks * BLOCK as usize];
    Op::Write(Write { partition: P, number: 1, segment: S, position, data, sync })
}

fn read(disk: &mut Disk, position: u64, len: u64) -> Bytes {
    let read = Op::Read { partition: P, read: 1, segment: S, position, len };
    match done(disk, read) {
        Some(Input::ReadDone { data, .. }) => data,
        other => panic!("{other:?}"),
    }
}

#[test]
fn synced_writes_survive_power_loss_and_unsynced_ones_may_not() {
    let mut lost = 0;
    let mut torn = 0;
    for seed in 0..200 {
        let mut disk = disk(seed);
        done(&mut disk, write(0, 1, 1, true));
        done(&mut disk, write(4096, 2, 1, false));
        disk.submit(write(8192, 3, 4, true));
        disk.crash(Crash::Power);
        disk.mount(P);
        assert!(read(&mut disk, 0, 4096).iter().all(|b| *b == 1));
        lost += usize::from(read(&mut disk, 4096, 4096)[0] == 0);
        let flight = read(&mut disk, 8192, 4 * 4096);
        torn += usize::from(flight.contains(&3) && flight.contains(&0));
    }
    assert!((20..180).contains(&lost), "{lost}");
    assert!(torn > 20, "{torn}");
}

#[test]
fn a_process_crash_keeps_what_was_live_until_the_power_goes() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut disk = disk(seed);
        done(&mut disk, write(0, 1, 1, false));
        disk.crash(Crash::Process);
        disk.mount(P);
        assert!(read(&mut disk, 0, 4096).iter().all(|b| *b == 1));
        if seed % 2 == 0 {
            done(&mut disk, Op::Sync { partition: P, segment: S });
        }
        disk.crash(Crash::Power);
        disk.mount(P);
        let kept = read(&mut disk, 0, 4096)[0] == 1;
        assert!(kept || seed % 2 == 1, "a synced byte is lost");
        lost += usize::from(!kept);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_sync_covers_what_was_written_before_it_and_no_more() {
    let mut disk = disk(4);
    done(&mut disk, write(0, 1, 1, false));
    let sync = disk.submit(Op::Sync { partition: P, segment: S });
    done(&mut disk, write(4096, 2, 1, false));
    disk.complete(sync);
    let file = &disk.files[&(0, 1)];
    assert_eq!((file.durable[0], file.durable[4096]), (1, 0));
    assert_eq!(file.dirty.len(), 8);
}

fn refused(op: impl FnOnce(&mut Disk) + std::panic::UnwindSafe) -> bool {
    let run = std::panic::AssertUnwindSafe(|| op(&mut disk(1)));
    let error = std::panic::catch_unwind(run).err();
    error.is_some_and(|e| e.downcast_ref::<String>().is_some_and(|t| t.contains("DiskContract")))
}

#[test]
fn the_contract_is_checked() {
    assert!(refused(|disk| {
        disk.submit(write(0, 1, 2, true));
        disk.submit(write(4096, 1, 1, true));
    }));
    assert!(refused(|disk| {
        disk.submit(write(65_536, 1, 1, true));
    }));
    assert!(refused(|disk| {
        done(disk, write(0, 1, 1, true));
        disk.submit(write(0, 2, 1, true));
    }));
    assert!(refused(|disk| {
        disk.submit(Op::Sync { partition: P, segment: Index(9) });
    }));
    assert!(!refused(|disk| {
        done(disk, write(0, 1, 1, true));
        disk.unlock_for_cut(P);
        done(disk, write(0, 2, 1, true));
    }));
}
