//! Segments: the files of a log, named by the index of their first entry.

use crate::base::ids::Index;

/// Ending of segment files.
const EXTENSION: &str = ".seg";
/// Digits of a name: enough for every u64, so that names sort as indexes do.
const DIGITS: usize = 20;

/// A byte of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The segment, by its first index.
    pub segment: Index,
    /// Byte in its file.
    pub position: u64,
}

impl Place {
    /// A byte of a segment.
    #[must_use]
    pub fn new(segment: Index, position: u64) -> Self {
        Self { segment, position }
    }
}

/// A segment file found at mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Index of its first entry, from its name.
    pub first: Index,
    /// Length of the file, bytes: how far it is zero-filled.
    pub len: u64,
}

/// The file name of the segment whose first entry has this index.
#[must_use]
pub fn file_name(first: Index) -> String {
    format!("{:0DIGITS$}{EXTENSION}", first.0)
}

/// The first index of the segment with this file name; `None` for any other file.
#[must_use]
pub fn parse_file_name(name: &str) -> Option<Index> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() != DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|first| *first > 0).map(Index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_sort() {
        for first in [1, 9, 10, 4_096, u64::MAX] {
            assert_eq!(parse_file_name(&file_name(Index(first))), Some(Index(first)));
        }
        assert_eq!(file_name(Index(42)), "00000000000000000042.seg");
        assert!(file_name(Index(9)) < file_name(Index(10)));
    }

    #[test]
    fn foreign_names_are_no_segments() {
        let long = "99999999999999999999.seg"; // More than a u64 holds.
        for name in ["", ".seg", "1.seg", "0000000000000000000x.seg", "00000000000000000000.seg"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
        assert_eq!(parse_file_name(long), None);
        assert_eq!(parse_file_name("00000000000000000042.seg.tmp"), None);
    }
}
