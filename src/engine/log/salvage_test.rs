//! What can be read behind rot, and what is lost: exactly, hole by hole.

use super::super::model::{Disk, log};
use super::super::scan::Known;
use super::*;

fn break_entry(disk: &mut Disk, (place, len): (Place, u64), at: u64) {
    assert!(at < len, "a byte of the entry");
    let file = disk.files.get_mut(&place.segment).expect("a file");
    file[(place.position + at) as usize] ^= 1;
}

/// `entries 1-4 | lost 5-6 @3-5 | entries 7-10`: offsets of holes behind the `@`.
fn told(disk: &Disk) -> String {
    let (outcome, found) = disk.recover(Known::default());
    let mut words = vec![range("entries", found.iter().map(|entry| entry.header.index.0))];
    let mut run = Vec::new();
    for salvaged in disk.salvage(&outcome) {
        match salvaged {
            Salvaged::Entry(entry) => run.push(entry.header.index.0),
            Salvaged::Hole(hole) => {
                words.push(range("entries", run.drain(..)));
                let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
                let first_offset = number(hole.first_offset.map(|offset| offset.0));
                let end_offset = number(hole.end_offset.map(|offset| offset.0));
                let end = number(hole.end.map(|end| end.0));
                words.push(format!("lost {}-{end} @{first_offset}-{end_offset}", hole.first));
            }
        }
    }
    words.push(range("entries", run.drain(..)));
    words.retain(|word| !word.is_empty());
    words.join(" | ")
}

fn range(what: &str, mut indexes: impl Iterator<Item = u64>) -> String {
    let Some(first) = indexes.next() else { return String::new() };
    let last = indexes.fold(first, |last, index| {
        assert_eq!(index, last + 1, "nothing is left out without a hole");
        index
    });
    format!("{what} {first}-{last}")
}

#[test]
fn every_hole_is_told_and_everything_else_is_read() {
    // Entries 3, 8, 13, ... are no-ops: each ten entries hold eight events.
    let cases: [(&[(u64, u64)], &str); 9] = [
        (&[(5, 10)], "entries 1-4 | lost 5-6 @3-4 | entries 6-30"),
        (&[(1, 0)], "lost 1-2 @0-1 | entries 2-30"),
        (&[(5, 10), (6, 99)], "entries 1-4 | lost 5-7 @3-5 | entries 7-30"),
        (
            &[(5, 10), (7, 120), (21, 80)],
            "entries 1-4 | lost 5-6 @3-4 | entries 6-6 | lost 7-8 @5-6 | entries 8-20 | \
             lost 21-22 @16-17 | entries 22-30",
        ),
        (&[(10, 5)], "entries 1-9 | lost 10-11 @7-8 | entries 11-30"),
        (&[(11, 5)], "entries 1-10 | lost 11-12 @8-9 | entries 12-30"),
        (&[(10, 5), (11, 5)], "entries 1-9 | lost 10-12 @7-9 | entries 12-30"),
        (&[(29, 100)], "entries 1-28 | lost 29-30 @22-23 | entries 30-30"),
        // No entry vouches for the very last one: a tear, even behind rot.
        (&[(2, 3), (30, 99)], "entries 1-1 | lost 2-3 @1-2 | entries 3-29"),
    ];
    let (whole, places) = log(3);
    for (broken, expected) in cases {
        let mut disk = whole.clone();
        for (index, at) in broken {
            break_entry(&mut disk, places[*index as usize - 1], *at);
        }
        assert_eq!(told(&disk), expected, "{broken:?}");
    }
}

#[test]
fn lost_files_are_holes() {
    let (whole, _) = log(3);
    let without = |segments: &[u64]| {
        let mut disk = whole.clone();
        disk.files.retain(|first, _| !segments.contains(&first.0));
        told(&disk)
    };
    assert_eq!(without(&[1]), "lost 1-11 @0-8 | entries 11-30");
    assert_eq!(without(&[11]), "entries 1-10 | lost 11-21 @8-16 | entries 21-30");
    assert_eq!(without(&[1, 11]), "lost 1-21 @0-16 | entries 21-30");
    // A log of which nothing is left, though entries of it were committed.
    let nothing = Disk::default();
    let known = Known { committed: Index(7), cut_from: Index(0), ..Known::default() };
    let (outcome, found) = nothing.recover(known);
    assert!(found.is_empty() && outcome.rot.is_some());
    let [Salvaged::Hole(hole)] = nothing.salvage(&outcome)[..] else { panic!("one hole") };
    assert_eq!((hole.first, hole.end, hole.end_offset), (Index(1), None, None));
}

#[test]
fn holes_say_their_bytes() {
    let (mut disk, places) = log(2);
    break_entry(&mut disk, places[4], 10);
    break_entry(&mut disk, places[9], 10);
    break_entry(&mut disk, places[10], 10);
    let (outcome, _) = disk.recover(Known::default());
    let holes: Vec<_> = disk
        .salvage(&outcome)
        .into_iter()
        .filter_map(|found| if let Salvaged::Hole(hole) = found { Some(hole) } else { None })
        .map(|hole| (hole.from, hole.to))
        .collect();
    let behind = |i: usize| Place::new(places[i].0.segment, places[i].0.position + places[i].1);
    assert_eq!(holes, [(behind(3), places[5].0), (behind(8), places[11].0)]);
}

proptest::proptest! {
    #[test]
    fn damage_anywhere_loses_nothing_else(
        at in 0..60_000_usize, len in 1..9_000_usize, segment in 0..2_u64, zero in 0..2_u8,
    ) {
        let (whole, places) = log(3);
        let mut disk = whole.clone();
        let file = disk.files.get_mut(&Index(segment * 10 + 1)).expect("a file");
        file[at..at + len].iter_mut().for_each(|byte| *byte = if zero == 1 { 0 } else { !*byte });
        let (_, all) = whole.recover(Known::default());
        let (outcome, mut found) = disk.recover(Known::default());
        if outcome.rot.is_some() {
            for salvaged in disk.salvage(&outcome) {
                if let Salvaged::Entry(entry) = salvaged { found.push(entry) }
            }
        }
        // Every entry without a changed byte is found, and nothing that never was.
        for (entry, (place, len)) in all.iter().zip(&places) {
            let (from, to) = (place.position as usize, (place.position + len) as usize);
            let (old, new) = (&whole.files[&place.segment], &disk.files[&place.segment]);
            let is_found = found.contains(entry);
            proptest::prop_assert!(is_found || old[from..to] != new[from..to]);
        }
        proptest::prop_assert!(found.iter().all(|entry| all.contains(entry)));
    }
}
