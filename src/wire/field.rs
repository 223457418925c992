//! Reads the fields of a protobuf message in place: the parts that prost would allocate for.
//!
//! Accepts exactly what prost accepts: the same varints, keys, nested groups and recursion limit.
//! Never panics, reads nothing twice and allocates nothing. Positions are absolute in the message
//! that the first [`Reader`] was made for, so spans of nested messages need no translation.

use std::num::NonZeroU32;
use std::str::from_utf8;

use crate::base::api::Span;
use crate::base::error::{ApiError, ErrorCode};

/// How deep groups and messages may nest (prost's limit).
const RECURSION_LIMIT: u32 = 100;

// Wire types.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const LENGTH: u8 = 2;
const GROUP_START: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED_32: u8 = 5;

/// Why bytes are no protobuf message of the expected type. Small, so that results of reading a
/// field stay in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    Truncated,
    LongNumber,
    FieldNumber,
    WireType,
    NotUtf8,
    GroupEnd,
    GroupsTooDeep,
}

impl Malformed {
    fn text(self) -> &'static str {
        match self {
            Self::Truncated => "it ends inside a field",
            Self::LongNumber => "a number is too long",
            Self::FieldNumber => "a field's number is not valid",
            Self::WireType => "a field has the wrong wire type",
            Self::NotUtf8 => "a string is not UTF-8",
            Self::GroupEnd => "a group ends that did not begin",
            Self::GroupsTooDeep => "groups nest too deep",
        }
    }
}

impl From<Malformed> for ApiError {
    fn from(malformed: Malformed) -> Self {
        Self::new(ErrorCode::Malformed, format!("message can't be parsed: {}", malformed.text()))
    }
}

/// Number (from 1) and wire type of a field, as they are encoded: number * 8 + wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(NonZeroU32);

impl Key {
    /// The field's number.
    #[inline]
    pub fn number(self) -> u32 {
        self.0.get() >> 3
    }

    #[inline]
    fn wire(self) -> u8 {
        (self.0.get() & 7) as u8
    }
}

/// A message being read, from `at` to the end of `bytes`.
///
/// Small and copied freely: what is out of line takes it by value, so that a loop over fields keeps
/// it in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    /// The outermost message, cut off where this one ends.
    bytes: &'a [u8],
    at: usize,
    /// Levels that may still be entered.
    levels: u32,
}

impl<'a> Reader<'a> {
    /// Reads a whole message.
    ///
    /// # Panics
    /// If it is 4 GiB or longer; callers have compared it with a limit.
    pub fn new(bytes: &'a [u8]) -> Self {
        assert!(u32::try_from(bytes.len()).is_ok(), "a message's length is bounded by its caller");
        Self { bytes, at: 0, levels: RECURSION_LIMIT }
    }

    /// Where the next field begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The key of the next field, `None` at the end. Its value must be read or skipped then.
    #[inline]
    pub fn key(&mut self) -> Result<Option<Key>, Malformed> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint_value()?;
        match u32::try_from(key).ok().and_then(NonZeroU32::new) {
            Some(key) if key.get() >= 8 => Ok(Some(Key(key))),
            _ => Err(Malformed::FieldNumber),
        }
    }

    /// A field of type int32, int64, uint32, uint64 or bool.
    #[inline]
    pub fn varint(&mut self, key: Key) -> Result<u64, Malformed> {
        if key.wire() != VARINT {
            return Err(Malformed::WireType);
        }
        self.varint_value()
    }

    /// A field of type bytes, or a message's extent.
    #[inline]
    pub fn span(&mut self, key: Key) -> Result<Span, Malformed> {
        if key.wire() != LENGTH {
            return Err(Malformed::WireType);
        }
        let len = self.varint_value()?;
        if len > self.rest() as u64 {
            return Err(Malformed::Truncated);
        }
        let span = Span { start: self.at as u32, len: len as u32 };
        self.at += len as usize;
        Ok(span)
    }

    /// A field of type string, as its extent.
    #[inline]
    pub fn text(&mut self, key: Key) -> Result<Span, Malformed> {
        let span = self.span(key)?;
        if is_utf8(span.of(self.bytes)) { Ok(span) } else { Err(Malformed::NotUtf8) }
    }

    /// A field of type string.
    pub fn str(&mut self, key: Key) -> Result<&'a str, Malformed> {
        let span = self.span(key)?;
        from_utf8(span.of(self.bytes)).map_err(|_| Malformed::NotUtf8)
    }

    /// The fields of the message at `span`, which this reader has just returned.
    #[inline]
    pub fn nested(&self, span: Span) -> Self {
        // Messages of this API nest three deep; only groups can be deeper, and `skip` counts those.
        let levels = self.levels - 1;
        let end = (span.start + span.len) as usize;
        Self { bytes: &self.bytes[..end], at: span.start as usize, levels }
    }

    /// Skips the value of an unknown field.
    #[inline]
    pub fn skip(&mut self, key: Key) -> Result<(), Malformed> {
        self.at = self.skipped(key, self.levels)?;
        Ok(())
    }

    /// Where the value ends.
    #[inline(never)]
    fn skipped(mut self, key: Key, levels: u32) -> Result<usize, Malformed> {
        if levels == 0 {
            return Err(Malformed::GroupsTooDeep);
        }
        let len = match key.wire() {
            VARINT => {
                self.varint_value()?;
                0
            }
            FIXED_64 => 8,
            LENGTH => self.varint_value()?,
            GROUP_START => loop {
                let inner = self.key()?.ok_or(Malformed::Truncated)?;
                if inner.wire() != GROUP_END {
                    self.at = self.skipped(inner, levels - 1)?;
                } else if inner.number() == key.number() {
                    break 0;
                } else {
                    return Err(Malformed::GroupEnd);
                }
            },
            FIXED_32 => 4,
            GROUP_END => return Err(Malformed::GroupEnd),
            _ => return Err(Malformed::WireType),
        };
        if len > self.rest() as u64 {
            return Err(Malformed::Truncated);
        }
        Ok(self.at + len as usize)
    }

    #[inline]
    fn varint_value(&mut self) -> Result<u64, Malformed> {
        let rest = &self.bytes[self.at..];
        let (value, len) = match rest {
            [a, ..] if *a < 0x80 => (u64::from(*a), 1),
            // Lengths are mostly of one or two bytes.
            [a, b, ..] if *b < 0x80 => (u64::from(*a & 0x7f) | u64::from(*b) << 7, 2),
            _ => long_varint(rest),
        };
        self.at += len;
        if len > 0 { Ok(value) } else { Err(no_varint(rest)) }
    }
}

/// The number at the front of `bytes` and its length, which is 0 if there is none.
#[inline(never)]
fn long_varint(bytes: &[u8]) -> (u64, usize) {
    // Eight bytes at once, where there are so many: all but odd numbers end within them.
    if let Some(chunk) = bytes.first_chunk() {
        let chunk = u64::from_le_bytes(*chunk);
        let last = !chunk & HIGH_BITS;
        if last != 0 {
            // The lowest clear high bit is the last byte's; what is behind it is cut off.
            let value = chunk & (last ^ (last - 1)) & !HIGH_BITS;
            let value = (value & 0x007f_007f_007f_007f) | (value & 0x7f00_7f00_7f00_7f00) >> 1;
            let value = (value & 0x0000_3fff_0000_3fff) | (value & 0x3fff_0000_3fff_0000) >> 2;
            let value = (value & 0x0fff_ffff) | (value & 0x0fff_ffff_0000_0000) >> 4;
            return (value, last.trailing_zeros() as usize / 8 + 1);
        }
    }
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            // The tenth byte holds the 64th bit and nothing else.
            let fits = index < 9 || *byte <= 1;
            return (value, if fits { index + 1 } else { 0 });
        }
    }
    (0, 0)
}

#[cold]
fn no_varint(bytes: &[u8]) -> Malformed {
    if bytes.len() < 10 { Malformed::Truncated } else { Malformed::LongNumber }
}

/// The highest bit of each byte of a word.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
/// The lowest bit of each byte of a word.
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

fn is_utf8(text: &[u8]) -> bool {
    is_plain(text) || from_utf8(text).is_ok()
}

/// Whether text is ASCII without control characters, as most names and ids are: then it is UTF-8
/// and breaks no rule. Looks at eight bytes at a time, which may overlap those looked at before;
/// short texts take no loop, which would cost more than it does.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let ends = odd_bits(*first) | odd_bits(*last);
        return ends == 0 && (text.len() <= 16 || is_plain_inside(text));
    }
    if let (Some([a, b, c, d]), Some([w, x, y, z])) = (text.first_chunk(), text.last_chunk()) {
        return odd_bits([*a, *b, *c, *d, *w, *x, *y, *z]) == 0;
    }
    text.iter().all(|byte| matches!(byte, 0x20..=0x7e))
}

#[inline(never)]
fn is_plain_inside(text: &[u8]) -> bool {
    text.as_chunks().0.iter().fold(0, |odd, chunk| odd | odd_bits(*chunk)) == 0
}

/// Not 0 if one of the bytes is above 0x7E or below 0x20.
#[inline]
fn odd_bits(chunk: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(chunk);
    // Adding 1 turns 0x7F into 0x80; taking 0x20 from less than that borrows into the high bit.
    // A carry or borrow from a neighbour needs an odd neighbour, so it can't mislead.
    (word | word.wrapping_add(LOW_BITS) | word.wrapping_sub(0x20 * LOW_BITS)) & HIGH_BITS
}

/// Whether text (valid UTF-8) has control characters: C0, DEL or C1. They would forge log lines.
pub(super) fn has_control(text: &[u8]) -> bool {
    !is_plain(text) && finds_control(text)
}

#[cold]
fn finds_control(text: &[u8]) -> bool {
    // C1 is U+0080 to U+009F: 0xC2 and a byte below 0xA0.
    text.iter().any(u8::is_ascii_control)
        || text.windows(2).any(|pair| pair[0] == 0xc2 && pair[1] < 0xa0)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use prost::encoding::{WireType, encode_key, encode_varint};

    use super::*;

    /// A message that prost parses by skipping all of it.
    fn prost_skips(bytes: &[u8]) -> bool {
        use prost::Message;
        crate::wire::events::BeginTransactionRequest::decode(bytes).is_ok()
    }

    fn ours_skips(bytes: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        while let Some(key) = reader.key()? {
            reader.skip(key)?;
        }
        Ok(())
    }

    #[test]
    fn groups_nest_as_deep_as_for_prost() {
        for depth in [1, 2, 99, 100, 101, 200] {
            let mut bytes = BytesMut::new();
            (0..depth).for_each(|_| encode_key(9, WireType::StartGroup, &mut bytes));
            (0..depth).for_each(|_| encode_key(9, WireType::EndGroup, &mut bytes));
            assert_eq!(ours_skips(&bytes).is_ok(), prost_skips(&bytes), "depth {depth}");
            assert_eq!(ours_skips(&bytes).is_ok(), depth <= 100, "depth {depth}");
        }
    }

    #[test]
    fn control_characters_are_those_of_unicode() {
        for c in '\0'..='\u{300}' {
            for text in [format!("{c}"), format!("a{c}"), format!("é{c}ü")] {
                assert_eq!(has_control(text.as_bytes()), c.is_control(), "{c:?}");
            }
        }
    }

    #[test]
    fn plain_text_is_ascii_without_control_characters() {
        for len in 0..20 {
            for place in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'~'; len];
                    text[place] = byte;
                    let plain = byte.is_ascii() && !byte.is_ascii_control();
                    assert_eq!(is_plain(&text), plain, "{text:?}");
                }
            }
        }
        assert!(is_plain(b"") && is_plain(&[b' '; 24]));
    }

    proptest! {
        #[test]
        fn varints_followed_by_anything_are_read_as_prost_reads_them(
            bytes in proptest::collection::vec(prop_oneof![0x7e..0x82_u8, any::<u8>()], 0..14),
        ) {
            let mut reader = Reader::new(&bytes);
            let mut rest = &bytes[..];
            let prost = prost::encoding::decode_varint(&mut rest).ok();
            prop_assert_eq!(reader.varint_value().ok(), prost);
            if prost.is_some() {
                prop_assert_eq!(reader.rest(), rest.len());
            }
        }

        #[test]
        fn varints_are_read_as_written(value in any::<u64>(), shift in 0..64_u32) {
            let mut bytes = BytesMut::new();
            encode_varint(value >> shift, &mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint_value(), Ok(value >> shift));
            prop_assert_eq!(reader.rest(), 0);
        }

        #[test]
        fn arbitrary_bytes_are_skipped_as_prost_does(
            // Small values, so that keys and lengths often make sense.
            bytes in proptest::collection::vec(prop_oneof![0..16_u8, any::<u8>()], 0..40),
        ) {
            prop_assert_eq!(ours_skips(&bytes).is_ok(), prost_skips(&bytes));
        }
    }
}
