//! What a partition's directory holds, found before the shard starts.
//!
//! ```text
//! p-00000/00000000000000000001.seg   a segment of the log, named by the index of its first entry
//! p-00000/00000000000000000007.run   a part of the due axis, or ids (`jobs`)
//! p-00000/0…03.checkpoint            what a start goes on from (`checkpoints`)
//! p-00000/replica.state              two 4 KiB slots; the valid one with the higher number counts
//! ```
//! A slot is `magic u64, version u32, partition u32, number u64, term u64, vote u64, commit u64,
//! cut_from u64, log_start u64, crc u32` in little endian, zeros behind. The slots are written in
//! turn, so a torn write leaves the state before it.
//!
//! A server mounts, which makes what is missing. Tools on a stopped node [`survey`], which changes
//! nothing, and may save a state ([`Mounted::save_state`]) while they hold the directory's lock.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::directory::{DirectoryError, create_private, io_error, partition_path, sync_directory};
use crate::base::ids::{Index, PartitionId, Term};
use crate::base::size::BLOCK;
use crate::engine::log::segment::{file_name, parse_file_name};
use crate::engine::{HardState, SegmentFile};

/// Name of the slot file in a partition's directory.
pub const STATE_FILE: &str = "replica.state";
const MAGIC: u64 = 0x6574_6174_536e_7268;
/// Version 1 had no `log_start`.
const VERSION: u32 = 2;
/// Bytes of a slot that its checksum covers.
const COVERED: usize = 64;
/// As many of version 1.
const COVERED_BEFORE: usize = 56;

/// A partition as the disk has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Which one.
    pub partition: PartitionId,
    /// Sorted by first index.
    pub segments: Vec<SegmentFile>,
    /// What was saved last; `None` if there is no slot that is whole.
    pub hard_state: Option<HardState>,
    /// Number of the slot written last, 0 for none.
    pub slot: u64,
}

/// The file of a segment.
pub fn segment_path(data: &Path, partition: PartitionId, segment: Index) -> PathBuf {
    partition_path(data, partition).join(file_name(segment))
}

/// Makes the partition's directory and slot file if they are not there, and lists what is, durably.
pub(super) fn mount(data: &Path, partition: PartitionId) -> Result<Mounted, DirectoryError> {
    let path = partition_path(data, partition);
    create_private(&path)?;
    let state = path.join(STATE_FILE);
    if !state.exists() {
        create_state(&state)?;
    }
    // Not only for the new: a process that died may have made a segment and not its entry durable.
    // What is listed below is there for good.
    sync_directory(&path)?;
    survey(data, partition).map(|found| found.expect("just made"))
}

/// What is there of the partition, as [`mount`] finds it; `None` if it has no directory. Changes
/// nothing.
pub fn survey(data: &Path, partition: PartitionId) -> Result<Option<Mounted>, DirectoryError> {
    let path = partition_path(data, partition);
    if !path.is_dir() {
        return Ok(None);
    }
    let state = path.join(STATE_FILE);
    let mut slots = Vec::new();
    match fs::File::open(&state).and_then(|mut file| file.read_to_end(&mut slots)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("read", &state)(error)),
    }
    let newest = slots
        .chunks(BLOCK as usize)
        .filter_map(|slot| decode_slot(slot, partition))
        .max_by_key(|(number, _)| *number);
    Ok(Some(Mounted {
        partition,
        segments: segments(&path).map_err(io_error("list the directory", &path))?,
        hard_state: newest.map(|(_, state)| state),
        slot: newest.map_or(0, |(number, _)| number),
    }))
}

/// What lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing was written to it yet.
    Empty,
    /// A state.
    Whole,
    /// Neither: a write that was torn, or damage.
    Damaged,
}

/// What lies in the slots of a partition's slot file.
#[must_use]
pub fn slots(bytes: &[u8], partition: PartitionId) -> Vec<Slot> {
    let slot = |slot: &[u8]| {
        let is_blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if is_blank(slot) && slot.len() as u64 == BLOCK {
            return Slot::Empty;
        }
        // In either version nothing is behind the checksum of the later one.
        let rest = slot.get(COVERED + 4..).is_some_and(is_blank);
        let is_whole = rest && decode_slot(slot, partition).is_some();
        if is_whole { Slot::Whole } else { Slot::Damaged }
    };
    let mut found: Vec<Slot> = bytes.chunks(BLOCK as usize).map(slot).collect();
    found.resize(2.max(found.len()), Slot::Damaged);
    found
}

impl Mounted {
    /// Saves a state durably, in the slot that is not the newest: a crash leaves the one before.
    pub fn save_state(&mut self, data: &Path, state: HardState) -> Result<(), DirectoryError> {
        let path = partition_path(data, self.partition).join(STATE_FILE);
        let number = self.slot + 1;
        let mut slot = vec![0; BLOCK as usize];
        encode_slot(&mut slot, self.partition, number, state);
        let saved = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                file.write_all_at(&slot, number % 2 * BLOCK).and_then(|()| file.sync_all())
            });
        saved.map_err(io_error("write", &path))?;
        sync_directory(&partition_path(data, self.partition))?;
        (self.slot, self.hard_state) = (number, Some(state));
        Ok(())
    }
}

fn create_state(path: &Path) -> Result<(), DirectoryError> {
    let made = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut f| f.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| f.sync_all()));
    made.map_err(io_error("create", path))
}

fn segments(path: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(first) = name.to_str().and_then(parse_file_name) else { continue };
        found.push(SegmentFile { first, len: entry.metadata()?.len() });
    }
    found.sort_by_key(|file| file.first);
    Ok(found)
}

/// Writes a state into a zeroed slot of 4 KiB.
pub(super) fn encode_slot(slot: &mut [u8], partition: PartitionId, number: u64, state: HardState) {
    assert_eq!(slot.len() as u64, BLOCK, "a slot is one block");
    assert!(number > 0, "slots are numbered from 1");
    slot[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
    slot[12..16].copy_from_slice(&u32::from(partition.0).to_le_bytes());
    slot[16..24].copy_from_slice(&number.to_le_bytes());
    slot[24..32].copy_from_slice(&state.term.0.to_le_bytes());
    slot[32..40].copy_from_slice(&state.vote.to_le_bytes());
    slot[40..48].copy_from_slice(&state.commit.0.to_le_bytes());
    slot[48..56].copy_from_slice(&state.cut_from.0.to_le_bytes());
    slot[56..COVERED].copy_from_slice(&state.log_start.0.to_le_bytes());
    let crc = crc32fast::hash(&slot[..COVERED]);
    slot[COVERED..COVERED + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The number and state of a slot, if it is whole and this partition's.
fn decode_slot(slot: &[u8], partition: PartitionId) -> Option<(u64, HardState)> {
    let version = u32::from_le_bytes(slot.get(8..12)?.try_into().expect("4 bytes"));
    let covered = slot.get(..if version == 1 { COVERED_BEFORE } else { COVERED })?;
    let crc = slot.get(covered.len()..covered.len() + 4)?;
    let u64_at = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
    let head = u64::from(version) | u64::from(partition.0) << 32;
    let known = (1..=VERSION).contains(&version) && u64_at(0) == MAGIC && u64_at(8) == head;
    if !known || crc32fast::hash(covered).to_le_bytes() != *crc {
        return None;
    }
    let state = HardState {
        term: Term(u64_at(24)),
        vote: u64_at(32),
        commit: Index(u64_at(40)),
        cut_from: Index(u64_at(48)),
        log_start: Index(if version == 1 { 0 } else { u64_at(56) }),
    };
    Some((u64_at(16), state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fault::{Fault, plant_behind};

    const PARTITION: PartitionId = PartitionId(3);

    fn place() -> tempfile::TempDir {
        let target = env!("OUT_DIR");
        tempfile::tempdir_in(target).expect("a directory")
    }

    fn slot(number: u64, term: u64) -> Vec<u8> {
        let mut slot = vec![0; BLOCK as usize];
        let state = HardState {
            term: Term(term),
            vote: 9,
            commit: Index(term * 10),
            ..HardState::default()
        };
        encode_slot(&mut slot, PARTITION, number, state);
        slot
    }

    #[test]
    fn a_new_partition_is_empty() {
        let place = place();
        let found = mount(place.path(), PARTITION).expect("mounted");
        assert_eq!(
            found,
            Mounted { partition: PARTITION, segments: vec![], hard_state: None, slot: 0 }
        );
    }

    #[test]
    fn what_is_found_is_durable_before_it_is_listed() {
        let place = place();
        mount(place.path(), PARTITION).expect("mounted");
        // The entry of the partition's directory, then the entries in it.
        for others in 0..2 {
            plant_behind(Fault::DirectorySync, others);
            let error = mount(place.path(), PARTITION).expect_err("a sync fails").to_string();
            assert!(error.contains("make durable"), "{error}");
        }
        mount(place.path(), PARTITION).expect("mounted");
    }

    #[test]
    fn segments_are_sorted_and_strangers_ignored() {
        let place = place();
        mount(place.path(), PARTITION).expect("mounted");
        let directory = partition_path(place.path(), PARTITION);
        for (first, len) in [(900, 8192), (1, 4096)] {
            let path = segment_path(place.path(), PARTITION, Index(first));
            fs::write(path, vec![0; len]).expect("written");
        }
        for stranger in ["x.seg", "1.seg", "0000000000000000000a.seg", "00000000000000000001.seg~"]
        {
            fs::write(directory.join(stranger), "x").expect("written");
        }
        let found = mount(place.path(), PARTITION).expect("mounted").segments;
        let expected = [(1, 4096), (900, 8192)];
        assert_eq!(found, expected.map(|(first, len)| SegmentFile { first: Index(first), len }));
    }

    #[test]
    fn the_newest_valid_slot_counts() {
        let place = place();
        let state = partition_path(place.path(), PARTITION).join(STATE_FILE);
        mount(place.path(), PARTITION).expect("mounted");
        fs::write(&state, [slot(8, 5), slot(7, 4)].concat()).expect("written");
        let found = mount(place.path(), PARTITION).expect("mounted");
        assert_eq!((found.slot, found.hard_state.expect("a state").term), (8, Term(5)));

        // The newer one torn: the state before it.
        let mut torn = slot(8, 5);
        torn[30] ^= 1;
        fs::write(&state, [torn.clone(), slot(7, 4)].concat()).expect("written");
        let found = mount(place.path(), PARTITION).expect("mounted");
        assert_eq!((found.slot, found.hard_state.expect("a state").commit), (7, Index(40)));

        fs::write(&state, [torn.clone(), torn].concat()).expect("written");
        assert_eq!(mount(place.path(), PARTITION).expect("mounted").hard_state, None);
    }

    fn golden_states(log_start: Index) -> [(u64, HardState); 2] {
        // Number 8 lies in the first block, number 7 in the second.
        [(8, 5, 0), (7, 4, 31)].map(|(number, term, cut_from)| {
            let (commit, cut_from) = (Index(term * 10), Index(cut_from));
            let term = Term(term);
            (number, HardState { term, vote: 1, commit, cut_from, log_start })
        })
    }

    fn golden_is_read(golden: &[u8], states: &[(u64, HardState); 2]) {
        let place = place();
        mount(place.path(), PARTITION).expect("mounted");
        let path = partition_path(place.path(), PARTITION).join(STATE_FILE);
        for (read, (number, state)) in [0, 4096].into_iter().zip(states) {
            let mut bytes = golden.to_vec();
            bytes[..read].fill(0);
            fs::write(&path, bytes).expect("writable");
            let found = mount(place.path(), PARTITION).expect("today's code reads it");
            assert_eq!((found.slot, found.hard_state), (*number, Some(*state)));
        }
    }

    #[test]
    fn golden_states_of_version_1_are_read() {
        let golden = include_bytes!("../../tests/golden/replica.v1.bin");
        golden_is_read(golden, &golden_states(Index(0)));
    }

    #[test]
    fn golden_states_of_version_2() {
        let golden = include_bytes!("../../tests/golden/replica.v2.bin");
        let states = golden_states(Index(25));
        let slots = states.map(|(number, state)| {
            let mut slot = vec![0; BLOCK as usize];
            encode_slot(&mut slot, PARTITION, number, state);
            slot
        });
        assert!(*golden == slots.concat()[..], "never changes");
        golden_is_read(golden, &states);
    }

    #[test]
    fn a_survey_changes_nothing_and_a_saved_state_is_found_again() {
        let place = place();
        assert_eq!(survey(place.path(), PARTITION).expect("readable"), None);
        let directory = partition_path(place.path(), PARTITION);
        assert!(!directory.exists());
        fs::create_dir(&directory).expect("new");
        let mut found = survey(place.path(), PARTITION).expect("readable").expect("there");
        assert_eq!((found.slot, found.hard_state), (0, None));
        assert!(!directory.join(STATE_FILE).exists());
        for term in 1..4 {
            let state = HardState { term: Term(term), ..HardState::default() };
            found.save_state(place.path(), state).expect("saved");
            let again = mount(place.path(), PARTITION).expect("mounted");
            assert_eq!((again.slot, again.hard_state), (term, Some(state)));
            assert_eq!(again, found);
        }
    }

    #[test]
    fn a_slot_of_another_partition_is_no_state() {
        assert_eq!(decode_slot(&slot(1, 1), PartitionId(4)), None);
        assert_eq!(decode_slot(&slot(1, 1)[..40], PARTITION), None);
        assert!(decode_slot(&slot(1, 1), PARTITION).is_some());
    }
}
