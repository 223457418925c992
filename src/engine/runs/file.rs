//! The two ends of a run file: its first 4 KiB say what it is, its last where the directory lies.
//!
//! ```text
//!  0          4096                                       directory           len - 4096   len
//!  | header   | block 0 | block 1 | ...                  | directory         | footer     |
//! header: 32 first_offset u64 | 40 end_offset u64 | 48 zero [36] | no body
//! footer: 32 directory_at u64 | 40 directory_len u64 | 48 zero [36] | no body
//! ```
//! The footer is written last: a file without a sound one was never finished.

use super::part::{
    FIELD_BYTES, HEAD_BYTES, Part, PartHead, RunFault, RunHead, RunIds, RunKind, is_zero, open,
    seal,
};
use crate::base::ids::Offset;
use crate::base::little_endian::u64_at;
use crate::base::size::BLOCK;

/// Bytes of a run file, whole 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte, a multiple of 4 KiB.
    pub position: u64,
    /// Bytes, a multiple of 4 KiB.
    pub len: u64,
}

impl Extent {
    /// Behind its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.position + self.len
    }
}

/// Where the header lies in every run file.
pub const HEADER: Extent = Extent { position: 0, len: BLOCK };

impl RunHead {
    /// Reads the header of the run `ids` from the bytes at [`HEADER`].
    pub fn decode(bytes: &[u8], ids: &RunIds) -> Result<Self, RunFault> {
        let opened = open(bytes, ids, Part::Header, 0)?;
        if !opened.body.is_empty() || !is_zero(&opened.fields[16..]) {
            return Err(RunFault::Field);
        }
        Self::from_fields(*ids, opened.kind, &opened.fields)
    }

    /// Puts the header behind `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut fields = [0; FIELD_BYTES];
        self.to_fields(&mut fields);
        encode_end(out, self, Part::Header, fields);
    }

    pub(super) fn to_fields(self, fields: &mut [u8; FIELD_BYTES]) {
        fields[0..8].copy_from_slice(&self.first_offset.0.to_le_bytes());
        fields[8..16].copy_from_slice(&self.end_offset.0.to_le_bytes());
    }

    pub(super) fn from_fields(
        ids: RunIds,
        kind: RunKind,
        fields: &[u8; FIELD_BYTES],
    ) -> Result<Self, RunFault> {
        let head = Self {
            ids,
            kind,
            first_offset: Offset(u64_at(fields, 0)),
            end_offset: Offset(u64_at(fields, 8)),
        };
        if head.first_offset <= head.end_offset { Ok(head) } else { Err(RunFault::Field) }
    }
}

/// The end of a run file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Which run it is.
    pub ids: RunIds,
    /// What its records have.
    pub kind: RunKind,
    /// Where its directory lies.
    pub directory: Extent,
}

impl Footer {
    /// Where the footer lies in a file of this length; `None` if no finished run is that long.
    #[must_use]
    pub fn extent(file_len: u64) -> Option<Extent> {
        let possible = file_len.is_multiple_of(BLOCK) && file_len >= 3 * BLOCK;
        possible.then(|| Extent { position: file_len - BLOCK, len: BLOCK })
    }

    /// Reads the footer of the run `ids`, whose file has this length.
    pub fn decode(bytes: &[u8], ids: &RunIds, file_len: u64) -> Result<Self, RunFault> {
        let place = Self::extent(file_len).ok_or(RunFault::Length)?;
        let opened = open(bytes, ids, Part::Footer, 0)?;
        if !opened.body.is_empty() || !is_zero(&opened.fields[16..]) {
            return Err(RunFault::Field);
        }
        let (position, len) = (u64_at(&opened.fields, 0), u64_at(&opened.fields, 8));
        if position.checked_add(len) != Some(place.position) {
            return Err(RunFault::Length);
        }
        let aligned = position.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
        if !aligned || position < HEADER.end() || len == 0 {
            return Err(RunFault::Field);
        }
        Ok(Self { ids: *ids, kind: opened.kind, directory: Extent { position, len } })
    }

    /// Puts the footer of the run `head` behind `out`.
    pub(super) fn encode(out: &mut Vec<u8>, head: &RunHead, directory: Extent) {
        let mut fields = [0; FIELD_BYTES];
        fields[0..8].copy_from_slice(&directory.position.to_le_bytes());
        fields[8..16].copy_from_slice(&directory.len.to_le_bytes());
        encode_end(out, head, Part::Footer, fields);
    }
}

fn encode_end(out: &mut Vec<u8>, head: &RunHead, part: Part, fields: [u8; FIELD_BYTES]) {
    let start = out.len();
    out.resize(start + HEAD_BYTES, 0);
    let part = PartHead { part, kind: head.kind, ids: head.ids, number: 0, fields };
    let len = seal(out, start, &part);
    assert_eq!(len as u64, BLOCK, "both ends take one block");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{PartitionId, RunNo};

    fn head() -> RunHead {
        RunHead {
            ids: RunIds { cluster: 1, partition: PartitionId(2), run: RunNo(3) },
            kind: RunKind::Carried,
            first_offset: Offset(10),
            end_offset: Offset(20),
        }
    }

    #[test]
    fn a_header_comes_back_as_it_went_in() {
        let mut out = Vec::new();
        head().encode(&mut out);
        assert_eq!(RunHead::decode(&out, &head().ids), Ok(head()));
        let mut backwards = Vec::new();
        RunHead { first_offset: Offset(21), ..head() }.encode(&mut backwards);
        assert_eq!(RunHead::decode(&backwards, &head().ids), Err(RunFault::Field));
        assert!(head().contains(Offset(10)) && !head().contains(Offset(20)));
    }

    #[test]
    fn a_footer_must_agree_with_the_length_of_its_file() {
        let mut out = Vec::new();
        let directory = Extent { position: 8 * BLOCK, len: 2 * BLOCK };
        Footer::encode(&mut out, &head(), directory);
        let decode = |file_len| Footer::decode(&out, &head().ids, file_len);
        assert_eq!(decode(11 * BLOCK).map(|footer| footer.directory), Ok(directory));
        assert_eq!(decode(12 * BLOCK), Err(RunFault::Length));
        assert_eq!(decode(11 * BLOCK + 1), Err(RunFault::Length));
        assert_eq!(Footer::extent(2 * BLOCK), None);
        let cases = [(0, 10 * BLOCK), (10 * BLOCK, 0), (8 * BLOCK + 1, 2 * BLOCK - 1)];
        for (position, len) in cases {
            let mut out = Vec::new();
            Footer::encode(&mut out, &head(), Extent { position, len });
            let found = Footer::decode(&out, &head().ids, 11 * BLOCK);
            assert_eq!(found, Err(RunFault::Field), "{position} {len}");
        }
        let mut out = Vec::new();
        Footer::encode(&mut out, &head(), Extent { position: u64::MAX - 4095, len: 12 * BLOCK });
        assert_eq!(Footer::decode(&out, &head().ids, 11 * BLOCK), Err(RunFault::Length));
    }
}
