//! Reads the fields of a protobuf message in place: the parts that prost would allocate for.
//!
//! Accepts exactly what prost accepts: the same varints, keys, nested groups and recursion limit.
//! Never panics, reads nothing twice and allocates nothing. Positions are absolute in the message
//! that the first [`Reader`] was made for, so spans of nested messages need no translation.

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

/// The bytes are no protobuf message of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(&'static str);

impl From<Malformed> for ApiError {
    fn from(malformed: Malformed) -> Self {
        let text = format!("message can't be parsed: {}", malformed.0);
        Self::new(ErrorCode::Malformed, text)
    }
}

const TRUNCATED: Malformed = Malformed("it ends inside a field");
const NOT_UTF8: Malformed = Malformed("a string is not UTF-8");
const WRONG_TYPE: Malformed = Malformed("a field has the wrong wire type");

/// Number and wire type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// From 1.
    pub number: u32,
    /// 0 to 5.
    pub wire: u8,
}

/// A message being read, from `at` to the end of `bytes`.
#[derive(Clone, Debug)]
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
        let key = u32::try_from(key).map_err(|_| Malformed("a field number is too large"))?;
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed("a field has the number 0"));
        }
        Ok(Some(Key { number, wire: (key & 7) as u8 }))
    }

    /// A field of type int32, int64, uint32, uint64 or bool.
    #[inline]
    pub fn varint(&mut self, key: Key) -> Result<u64, Malformed> {
        if key.wire != VARINT {
            return Err(WRONG_TYPE);
        }
        self.varint_value()
    }

    /// A field of type bytes, or a message's extent.
    #[inline]
    pub fn span(&mut self, key: Key) -> Result<Span, Malformed> {
        if key.wire != LENGTH {
            return Err(WRONG_TYPE);
        }
        let len = self.varint_value()?;
        if len > self.rest() as u64 {
            return Err(TRUNCATED);
        }
        let span = Span { start: self.at as u32, len: len as u32 };
        self.at += len as usize;
        Ok(span)
    }

    /// A field of type string, as its extent.
    #[inline]
    pub fn text(&mut self, key: Key) -> Result<Span, Malformed> {
        let span = self.span(key)?;
        from_utf8(span.of(self.bytes)).map_err(|_| NOT_UTF8)?;
        Ok(span)
    }

    /// A field of type string.
    pub fn str(&mut self, key: Key) -> Result<&'a str, Malformed> {
        let span = self.span(key)?;
        from_utf8(span.of(self.bytes)).map_err(|_| NOT_UTF8)
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
    pub fn skip(&mut self, key: Key) -> Result<(), Malformed> {
        self.skip_level(key, self.levels)
    }

    fn skip_level(&mut self, key: Key, levels: u32) -> Result<(), Malformed> {
        if levels == 0 {
            return Err(Malformed("groups nest too deep"));
        }
        let len = match key.wire {
            VARINT => {
                self.varint_value()?;
                0
            }
            FIXED_64 => 8,
            LENGTH => self.varint_value()?,
            GROUP_START => loop {
                let inner = self.key()?.ok_or(TRUNCATED)?;
                if inner.wire != GROUP_END {
                    self.skip_level(inner, levels - 1)?;
                } else if inner.number == key.number {
                    break 0;
                } else {
                    return Err(Malformed("a group ends that did not begin"));
                }
            },
            FIXED_32 => 4,
            GROUP_END => return Err(Malformed("a group ends that did not begin")),
            _ => return Err(Malformed("a wire type is not known")),
        };
        if len > self.rest() as u64 {
            return Err(TRUNCATED);
        }
        self.at += len as usize;
        Ok(())
    }

    #[inline]
    fn varint_value(&mut self) -> Result<u64, Malformed> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                // The tenth byte holds the 64th bit and nothing else.
                if index == 9 && *byte > 1 {
                    break;
                }
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(if self.rest() < 10 { TRUNCATED } else { Malformed("a number is too long") })
    }
}

/// Whether text (valid UTF-8) has control characters: C0, DEL or C1. They would forge log lines.
pub(super) fn has_control(text: &[u8]) -> bool {
    let mut odd = false;
    for byte in text {
        odd |= byte.is_ascii_control() || *byte == 0xc2;
    }
    // C1 is U+0080 to U+009F: 0xC2 and a byte below 0xA0.
    odd && (text.iter().any(u8::is_ascii_control)
        || text.windows(2).any(|pair| pair[0] == 0xc2 && pair[1] < 0xa0))
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

    proptest! {
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
