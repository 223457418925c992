//! Torn or rotten: the verdict on every class of byte, in every kind of place, as tables.
//!
//! A verdict is one of
//! - `ends N`: a clean end behind entry N, not a byte to cut;
//! - `torn N`: cut behind entry N, whatever lies there;
//! - `rot A>B`: rot from entry A on, the next with a whole head is B (`A>`: none); nothing is cut.
//!
//! The log has two segments of ten entries (1 to 10, 11 to 20), each a write of its own that was
//! synced before the next. So entry 19 is vouched for by 20, and 20 by none.

use super::body::Body;
use super::envelope::{HEAD_BYTES, decode_head};
use super::model::{Disk, IDS, in_flight_together, log};
use super::scan::{Known, ScanOutcome};
use super::segment::Place;
use crate::base::ids::Index;
use crate::base::size::{BLOCK, block_ceil, block_floor};

const SECTOR: u64 = 512;

/// The verdict on a disk, and that it says the same in all its parts.
fn verdict(disk: &Disk, known: Known) -> String {
    let (outcome, found) = disk.recover(known);
    let good = found.last().map_or(0, |entry| entry.header.index.0);
    if let Some(rot) = &outcome.rot {
        assert_eq!(rot.first_bad.0, good + 1, "rot begins behind the last good entry");
        assert_eq!((outcome.torn_bytes, outcome.zero), (0, None), "nothing is cut");
        assert!(outcome.segments_to_remove.is_empty(), "nothing is removed");
        let next = rot.next_valid.map_or(String::new(), |next| next.0.to_string());
        return format!("rot {good_next}>{next}", good_next = good + 1);
    }
    let end = outcome.end.as_ref().expect("there are files").place;
    if let Some(last) = found.last()
        && last.place.segment == end.segment
    {
        assert_eq!(end.position, last.place.position + last.body.entry_len());
    } else {
        assert_eq!(end.position, 0, "the segment holds no entry");
    }
    check_cut(disk, &outcome, end);
    let clean = outcome.torn_bytes == 0 && outcome.segments_to_remove.is_empty();
    format!("{} {good}", if clean { "ends" } else { "torn" })
}

/// What is cut is everything behind the end that is not zero, and nothing before it.
fn check_cut(disk: &Disk, outcome: &ScanOutcome, end: Place) {
    let file = &disk.files[&end.segment];
    let behind = &file[(end.position as usize).min(file.len())..];
    let words = behind.chunks(8).rposition(|word| word.iter().any(|byte| *byte != 0));
    let torn = words.map_or(0, |last| 8 * (last as u64 + 1)).min(behind.len() as u64);
    assert_eq!(outcome.torn_bytes, torn);
    let (from, to) = (block_ceil(end.position), block_ceil(end.position + torn));
    assert_eq!(outcome.zero, (from < to).then_some((from, to)));
}

/// Rows of a table: their first cell, and one per column.
fn rows(table: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    table.trim().lines().filter(|line| !line.contains("----")).map(|line| {
        let mut cells = line.split('|').map(str::trim);
        (cells.next().expect("a first cell"), cells.collect())
    })
}

fn file(disk: &mut Disk, place: Place) -> &mut Vec<u8> {
    disk.files.get_mut(&place.segment).expect("a file")
}

/// Single-bit flips, by the bytes they hit; every byte of each class is tried.
const FLIPS: &str = "
bytes of the entry    | 1       | 5       | 10        | 11        | 19        | 20
----------------------------------------------------------------------------------
0-3 magic             | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
4-5 version           | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
6-6 kind              | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
7-7 zero              | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
8-15 cluster          | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
16-17 partition       | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
18-19 zero            | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
20-23 count           | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
24-31 segment         | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
32-39 synced_index    | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
40-47 term            | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
48-55 index           | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
56-63 base_offset     | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
64-71 append_ts       | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
72-75 chain           | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
76-79 body_len        | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
80-83 body_crc        | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
84-91 zero            | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
92-95 header_crc      | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
body                  | rot 1>2 | rot 5>6 | rot 10>11 | rot 11>12 | rot 19>20 | torn 19
padding               | ends 20 | ends 20 | ends 20   | ends 20   | ends 20   | torn 20
";

#[test]
fn a_flipped_bit() {
    let (whole, places) = log(2);
    let known = Known::default();
    assert_eq!(verdict(&whole, known), "ends 20");
    let mut rows = rows(FLIPS);
    let (_, columns) = rows.next().expect("a head");
    for (class, expected) in rows {
        for (column, expected) in columns.iter().zip(&expected) {
            let (place, len) = places[column.parse::<usize>().expect("an index") - 1];
            for at in bytes_of(class, &whole, place, len) {
                let mut disk = whole.clone();
                file(&mut disk, place)[(place.position + at) as usize] ^= 1 << (at * 5 % 8);
                let what = format!("byte {at} ({class}) of entry {column}");
                assert_eq!(verdict(&disk, known), *expected, "{what}");
            }
        }
    }
}

/// The bytes of an entry that belong to a class; of a body, one in every 61.
fn bytes_of(class: &str, disk: &Disk, place: Place, len: u64) -> Vec<u64> {
    let head = &disk.files[&place.segment][place.position as usize..];
    let body_len = u64::from(decode_head(head).expect("a head").0.body_len);
    let body_end = HEAD_BYTES as u64 + body_len;
    match class {
        "body" => (HEAD_BYTES as u64..body_end).step_by(61).chain([body_end - 1]).collect(),
        "padding" => (body_end..len).collect(),
        _ => {
            let range = class.split(' ').next().expect("a range");
            let (from, to) = range.split_once('-').expect("a range");
            (from.parse().expect("a byte")..=to.parse().expect("a byte")).collect()
        }
    }
}

/// Bits in a head, or a body, that are wrong with right checksums: no disk does this, a stale or a
/// misdirected write and another program do.
const FORGED: &str = "
with right checksums             | 5       | 10        | 11        | 20
----------------------------------------------------------------------------
4 version 2                      | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
6 kind 9                         | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
7 reserved 1                     | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
8 another cluster 1              | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
16 another partition 9           | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
20 another count 9               | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
24 another segment 2             | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
32 synced_index not below 200    | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
40 another term 0                | rot 5>6 | rot 10>11 | rot 11>12 | torn 19
48 an index behind 99            | rot 5>99 | rot 10>99 | rot 11>99 | torn 19
56 another base_offset 99        | rot 5>6 | rot 10>11 | rot 11>12 | torn 19
64 another append_ts 0           | rot 5>6 | rot 10>11 | rot 11>12 | torn 19
72 another chain 1               | rot 5>6 | rot 10>11 | rot 11>12 | torn 19
79 body over its limit 200       | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
78 body beyond the file 16       | rot 5>6 | rot 10>11 | rot 11>12 | torn 19
body of nonsense                 | rot 5>6 | rot 10>11 | rot 11>12 | rot 20>
";

#[test]
fn nonsense_with_right_checksums() {
    let (whole, places) = log(2);
    let mut rows = rows(FORGED);
    let (_, columns) = rows.next().expect("a head");
    for (class, expected) in rows {
        for (column, expected) in columns.iter().zip(&expected) {
            let (place, len) = places[column.parse::<usize>().expect("an index") - 1];
            let mut disk = whole.clone();
            let start = place.position as usize;
            forge(&mut file(&mut disk, place)[start..start + len as usize], class);
            let what = format!("{class}, entry {column}");
            assert_eq!(verdict(&disk, Known::default()), *expected, "{what}");
        }
    }
}

/// Changes an entry as the first cell says, `BYTE of what VALUE`, and makes its checksums right.
fn forge(entry: &mut [u8], class: &str) {
    let body_end = HEAD_BYTES + decode_head(entry).expect("a head").0.body_len as usize;
    let words: Vec<&str> = class.split(' ').collect();
    if let Ok(at) = words[0].parse::<usize>() {
        entry[at] = words[words.len() - 1].parse().expect("a value");
    } else {
        entry[HEAD_BYTES..body_end].fill(7);
        let body = bytes::Bytes::copy_from_slice(&entry[HEAD_BYTES..body_end]);
        assert!(Body::verify(body).is_err(), "nonsense");
    }
    let crc = crc32fast::hash(&entry[HEAD_BYTES..body_end]);
    entry[80..84].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&entry[..92]);
    entry[92..96].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_zeroed_sector_or_block() {
    let (whole, places) = log(2);
    for size in [SECTOR, BLOCK] {
        for (segment, last) in [(Index(1), 10), (Index(11), 20)] {
            let (place, len) = places[last - 1];
            for from in (0..place.position + len).step_by(size as usize) {
                let mut disk = whole.clone();
                let to = (from + size).min(disk.files[&segment].len() as u64);
                file(&mut disk, Place::new(segment, from))[from as usize..to as usize].fill(0);
                let what = format!("bytes {from} to {to} of segment {segment}");
                let expected = expected_of_zeros(&whole, &disk, &places);
                assert_eq!(verdict(&disk, Known::default()), expected, "{what}");
            }
        }
    }
}

/// The verdict by the rule alone: the first entry of which a byte is changed is bad, and vouched
/// for if a later one is whole enough to say so.
fn expected_of_zeros(whole: &Disk, disk: &Disk, places: &[(Place, u64)]) -> String {
    let changed = |(place, len): &(Place, u64)| {
        let range = place.position as usize..(place.position + len) as usize;
        whole.files[&place.segment][range.clone()] != disk.files[&place.segment][range]
    };
    let head_is_good = |(place, _): &(Place, u64)| {
        decode_head(&disk.files[&place.segment][place.position as usize..]).is_ok()
    };
    let Some(first) = places.iter().position(changed) else { return "ends 20".to_owned() };
    let later = places.iter().skip(first + 1).position(head_is_good);
    if let Some(more) = later {
        return format!("rot {}>{}", first + 1, first + 1 + more + 1);
    }
    // All of the rest was zeroed, or its remains are cut.
    let (place, _) = places[first];
    let rest = &disk.files[&place.segment][place.position as usize..];
    let remains = rest.iter().any(|byte| *byte != 0);
    format!("{} {first}", if remains { "torn" } else { "ends" })
}

/// Zeroed ranges by what they hold, with what the hard state knows (committed up to the number).
const ZEROED: &str = "
zeroed                                        | knows 0   | knows 10  | knows 20
---------------------------------------------------------------------------------
the head of 1                                 | rot 1>2   | rot 1>2   | rot 1>2
the body of 5                                 | rot 5>6   | rot 5>6   | rot 5>6
all of 5 to 8                                 | rot 5>9   | rot 5>9   | rot 5>9
all of 10, the last of its segment            | rot 10>11 | rot 10>11 | rot 10>11
all of 11, the first of its segment           | rot 11>12 | rot 11>12 | rot 11>12
all of 10 to 12, over the boundary            | rot 10>13 | rot 10>13 | rot 10>13
the head of 20                                | torn 19   | torn 19   | rot 20>
all of 20                                     | ends 19   | ends 19   | rot 20>
all of 19 to 20, the last window              | ends 18   | ends 18   | rot 19>
all of 11 to 20, a segment just begun         | ends 10   | ends 10   | rot 11>
all of 10 to 20, but its file is there        | rot 10>   | rot 10>   | rot 10>
all of 1 to 20                                | rot 1>    | rot 1>    | rot 1>
";

#[test]
fn zeroed_ranges() {
    let (whole, places) = log(2);
    let mut rows = rows(ZEROED);
    let (_, columns) = rows.next().expect("a head");
    for (class, expected) in rows {
        let mut disk = whole.clone();
        let numbers = class.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        let numbers: Vec<usize> = numbers.collect();
        for index in numbers[0]..=*numbers.last().expect("an entry") {
            let (place, len) = places[index - 1];
            let (from, to) = match class.split(' ').nth(1).expect("what") {
                "head" => (0, HEAD_BYTES as u64),
                "body" => (HEAD_BYTES as u64, len),
                _ => (0, len),
            };
            let (from, to) = (place.position + from, place.position + to);
            file(&mut disk, place)[from as usize..to as usize].fill(0);
        }
        for (column, expected) in columns.iter().zip(&expected) {
            let committed = column.split(' ').nth(1).expect("a number").parse().expect("an index");
            let known =
                Known { committed: Index(committed), cut_from: Index(0), ..Known::default() };
            assert_eq!(verdict(&disk, known), *expected, "{class}, {column}");
        }
    }
}

/// Files that are gone or short, with what the hard state knows: `committed/cut_from`.
const FILES: &str = "
files                                         | 0/0       | 20/0      | 12/13
--------------------------------------------------------------------------------
both whole                                    | ends 20   | ends 20   | torn 12
segment 1 is gone                             | rot 1>11  | rot 1>11  | rot 1>11
segment 1 is empty                            | rot 1>11  | rot 1>11  | rot 1>11
segment 1 ends within 9                       | rot 9>11  | rot 9>11  | rot 9>11
segment 11 is gone                            | ends 10   | rot 11>   | rot 11>
segment 11 is empty                           | ends 10   | rot 11>   | rot 11>
segment 11 ends within 12                     | torn 11   | rot 12>   | rot 12>
segment 11 ends within 19                     | torn 18   | rot 19>   | torn 12
segment 11 in the place of 1                  | rot 1>11  | rot 1>11  | rot 1>11
segment 1 in the place of 11                  | rot 11>   | rot 11>   | rot 11>
both are gone                                 | nothing   | rot 1>    | rot 1>
";

#[test]
fn lost_and_shortened_files() {
    let (whole, places) = log(2);
    let mut rows = rows(FILES);
    let (_, columns) = rows.next().expect("a head");
    for (class, expected) in rows {
        let mut disk = whole.clone();
        let words: Vec<&str> = class.split(' ').collect();
        let segment = words.get(1).and_then(|word| word.parse().ok()).map_or(Index(0), Index);
        let last = words.last().expect("words").parse::<u64>();
        match (words[0], words.get(2).copied().unwrap_or_default(), last) {
            ("both", "gone", _) => disk.files.clear(),
            ("both", ..) => {}
            (_, "is", _) if words[3] == "gone" => drop(disk.files.remove(&segment)),
            (_, "is", _) => disk.files.get_mut(&segment).expect("a file").clear(),
            (_, "ends", Ok(entry)) => {
                let (place, len) = places[entry as usize - 1];
                file(&mut disk, place).truncate((place.position + len / 2) as usize);
            }
            (_, "in", Ok(other)) => {
                let bytes = whole.files[&segment].clone();
                disk.files.insert(Index(other), bytes);
            }
            _ => panic!("{class}"),
        }
        for (column, expected) in columns.iter().zip(&expected) {
            let (committed, cut) = column.split_once('/').expect("two numbers");
            let index = |text: &str| Index(text.parse().expect("an index"));
            let known =
                Known { committed: index(committed), cut_from: index(cut), ..Known::default() };
            let nothing = disk.files.is_empty() && known.committed == Index(0);
            let found = if nothing { "nothing".to_owned() } else { verdict(&disk, known) };
            assert_eq!(found, *expected, "{class}, {column}");
        }
    }
}

/// Three writes in flight together: none of them vouches for another, whatever became of them.
const IN_FLIGHT: &str = "
of three in flight      | knows 0 | knows 1 | knows 3
------------------------------------------------------
none is damaged         | ends 3  | ends 3  | ends 3
1 is damaged            | torn 0  | rot 1>2 | rot 1>2
2 is damaged            | torn 1  | torn 1  | rot 2>3
3 is damaged            | torn 2  | torn 2  | rot 3>
1 and 2 are damaged     | torn 0  | rot 1>2 | rot 1>2
2 and 3 are damaged     | torn 1  | torn 1  | rot 2>3
the gap behind 1        | ends 3  | ends 3  | ends 3
the gap behind 3        | torn 3  | torn 3  | torn 3
";

#[test]
fn writes_in_flight_together() {
    let (whole, places) = in_flight_together();
    let mut rows = rows(IN_FLIGHT);
    let (_, columns) = rows.next().expect("a head");
    for (class, expected) in rows {
        let mut disk = whole.clone();
        let numbers = class.split(' ').filter_map(|word| word.parse::<usize>().ok());
        for (place, len) in numbers.map(|index| places[index - 1]) {
            let in_gap = block_ceil(place.position + len) - 64;
            let at = if class.contains("gap") { in_gap } else { place.position + 100 };
            assert!(block_floor(at) == block_floor(place.position), "in the same block");
            file(&mut disk, place)[at as usize] ^= 8;
        }
        for (column, expected) in columns.iter().zip(&expected) {
            let committed = column.split(' ').nth(1).expect("a number").parse().expect("an index");
            let known =
                Known { committed: Index(committed), cut_from: Index(0), ..Known::default() };
            assert_eq!(verdict(&disk, known), *expected, "{class}, {column}");
        }
    }
}

#[test]
fn a_cut_is_never_believed_over_what_is_durable() {
    let (disk, _) = log(2);
    for (committed, cut_from, expected) in
        [(0, 11, "torn 10"), (0, 10, "ends 20"), (15, 15, "ends 20"), (14, 15, "torn 14")]
    {
        let known =
            Known { committed: Index(committed), cut_from: Index(cut_from), ..Known::default() };
        assert_eq!(verdict(&disk, known), expected, "{known:?}");
    }
    assert_eq!(IDS.partition.0, 3, "not the number that the tables forge");
}
