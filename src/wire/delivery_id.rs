//! The delivery id: `group:partition:term-due-offset-attempt-number-seal`, all numbers decimal.
//!
//! It alone tells what is needed to judge an ack, on any connection and core and after a restart,
//! so no table of deliveries is kept for the sake of acks. In the group `%`, `:` and control
//! characters are percent-encoded; `number` is the group's number in its partition, and `seal` a
//! keyed hash that lets the owner believe the rest without looking it up. Clients take the id as
//! opaque, but for the partition, which some read from behind the first `:`.

use crate::base::api::{Delivery, DeliveryId};
use crate::base::ids::{GroupNo, NameHash, Offset, PartitionId, Position, Term};
use crate::base::limits::{DELIVERY_ID_BYTES, NAME_BYTES};

/// A `u64` in decimal, and the separator before it.
const NUMBER_BYTES: usize = 21;
const _: () = assert!(3 * NAME_BYTES + 7 * NUMBER_BYTES <= DELIVERY_ID_BYTES);

/// Formats the ids of one group without allocating: the group is encoded once.
#[derive(Debug)]
pub struct DeliveryIds {
    bytes: [u8; DELIVERY_ID_BYTES],
    /// Length of the encoded group and its `:`.
    group_bytes: usize,
}

impl DeliveryIds {
    /// For the deliveries of this group.
    ///
    /// # Panics
    /// If the name is longer than `NAME_BYTES`; it was checked when the group was made.
    #[must_use]
    pub fn of_group(group: &str) -> Self {
        assert!(group.len() <= NAME_BYTES, "a group's name is bounded");
        let mut ids = Self { bytes: [0; DELIVERY_ID_BYTES], group_bytes: 0 };
        let mut end = 0;
        for byte in group.bytes() {
            if byte.is_ascii_control() || byte == b':' || byte == b'%' {
                let hex = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
                ids.bytes[end..end + 3].copy_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]);
                end += 3;
            } else {
                ids.bytes[end] = byte;
                end += 1;
            }
        }
        ids.bytes[end] = b':';
        ids.group_bytes = end + 1;
        ids
    }

    /// The id of a delivery of this group, valid until the next one is formatted.
    pub fn format(&mut self, delivery: &Delivery) -> &[u8] {
        let position = delivery.event.position();
        let numbers = [
            (u64::from(delivery.event.partition.0), b':'),
            (delivery.term.0, b'-'),
            (position.due, b'-'),
            (position.offset.0, b'-'),
            (u64::from(delivery.attempt), b'-'),
        ];
        let mut end = self.group_bytes;
        for (number, separator) in numbers {
            end = self.put_number(end, number);
            self.bytes[end] = separator;
            end += 1;
        }
        end = self.put_number(end, u64::from(delivery.group.0));
        self.bytes[end] = b'-';
        end = self.put_number(end + 1, u64::from(delivery.seal));
        &self.bytes[..end]
    }

    /// Writes a number at `at` and returns where it ends.
    fn put_number(&mut self, at: usize, mut number: u64) -> usize {
        let end = at + number.checked_ilog10().map_or(1, |log| log as usize + 1);
        let mut first = end;
        while number >= 10 {
            // Two digits a division, which is what takes the time.
            first -= 2;
            self.bytes[first..first + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
            number /= 100;
        }
        if first > at {
            self.bytes[at] = b'0' + number as u8;
        }
        end
    }
}

/// The numbers below 100, in two digits.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + n as u8 / 10, b'0' + n as u8 % 10];
        n += 1;
    }
    pairs
};

/// Takes an id apart; `None` if it is none of ours.
#[must_use]
pub fn parse(id: &str) -> Option<DeliveryId> {
    if id.len() > DELIVERY_ID_BYTES {
        return None;
    }
    let (group, rest) = id.split_once(':')?;
    let mut rest = rest.as_bytes();
    let partition = take_number(&mut rest, Some(b':'))?;
    let term = take_number(&mut rest, Some(b'-'))?;
    let due = take_number(&mut rest, Some(b'-'))?;
    let offset = take_number(&mut rest, Some(b'-'))?;
    let attempt = take_number(&mut rest, Some(b'-'))?;
    let group_no = take_number(&mut rest, Some(b'-'))?;
    let seal = take_number(&mut rest, None)?;
    if attempt == 0 {
        return None;
    }
    Some(DeliveryId {
        group: name(group)?,
        partition: PartitionId(u16::try_from(partition).ok()?),
        group_no: GroupNo(u32::try_from(group_no).ok()?),
        term: Term(term),
        position: Position::new(due, Offset(offset)),
        attempt: u32::try_from(attempt).ok()?,
        seal: u32::try_from(seal).ok()?,
    })
}

/// Takes a decimal number and the byte behind it (`None`: the end) off the front. A sign or leading
/// zeros are refused: each id has one spelling.
fn take_number(rest: &mut &[u8], separator: Option<u8>) -> Option<u64> {
    let (mut value, mut digits) = (0_u64, 0);
    // Sixteen digits are below 2^64.
    while digits <= 8
        && let Some(text) = rest[digits..].first_chunk()
    {
        let (count, number) = leading_number(*text);
        value = value * POWERS[count as usize] + number;
        digits += count as usize;
        if count < 8 {
            break;
        }
    }
    for byte in &rest[digits..] {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    let (number, behind) = rest.split_at(digits);
    let canonical = number.len() == 1 || number.first().is_some_and(|first| *first != b'0');
    if !canonical || behind.first().copied() != separator {
        return None;
    }
    *rest = behind.get(1..).unwrap_or_default();
    Some(value)
}

/// Powers of ten.
const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// How many digits eight bytes begin with, and their value: all at once, as in D. Lemire's "Quickly
/// parsing eight digits".
fn leading_number(text: [u8; 8]) -> (u32, u64) {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // A number in every second byte, or in every fourth.
    const PAIRS: u64 = 0x0000_00ff_0000_00ff;
    let word = u64::from_le_bytes(text);
    // The high bit of the first byte that is none is set; those behind it may be wrong.
    let others = (word.wrapping_add(0x4646_4646_4646_4646) | word.wrapping_sub(ZEROS)) & HIGH;
    let count = others.trailing_zeros() / 8;
    // Zeros before them, so that there are eight.
    let digits = (word ^ ZEROS).checked_shl(64 - 8 * count).unwrap_or(0);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let low = (pairs >> 16 & PAIRS).wrapping_mul(1 + (10_000 << 32));
    (count, high.wrapping_add(low) >> 32)
}

/// Of the name that is encoded so.
fn name(encoded: &str) -> Option<NameHash> {
    if !encoded.contains('%') {
        let is_bounded = !encoded.is_empty() && encoded.len() <= NAME_BYTES;
        return is_bounded.then(|| NameHash::of(encoded));
    }
    let mut name = [0; NAME_BYTES];
    let mut len = 0;
    let mut bytes = encoded.bytes();
    while let Some(mut byte) = bytes.next() {
        if byte == b'%' {
            let mut nibble = || char::from(bytes.next()?).to_digit(16);
            byte = (nibble()? * 16 + nibble()?) as u8;
        }
        *name.get_mut(len)? = byte;
        len += 1;
    }
    let name = str::from_utf8(&name[..len]).ok().filter(|name| !name.is_empty())?;
    Some(NameHash::of(name))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::base::api::{Span, StoredEvent};

    fn delivery(numbers: (u16, u32, u64, u64, u64, u32, u32)) -> Delivery {
        let (partition, group, term, due, offset, attempt, seal) = numbers;
        let event = StoredEvent {
            body: Bytes::new(),
            message_id: Span::default(),
            meta: Span::default(),
            payload: Span::default(),
            topic: "t".into(),
            schedule_ts: due,
            append_ts: 0,
            partition: PartitionId(partition),
            offset: Offset(offset),
            term: Term(1),
            checksum: 0,
        };
        let (group, term) = (GroupNo(group), Term(term));
        Delivery { event, group, term, attempt, ack_timeout_ms: 1, seal }
    }

    fn format(group: &str, delivery: &Delivery) -> String {
        let mut ids = DeliveryIds::of_group(group);
        String::from_utf8(ids.format(delivery).to_vec()).expect("an id is text")
    }

    fn read(id: &str) -> Option<DeliveryId> {
        parse(id)
    }

    #[test]
    fn the_form_is_fixed() {
        let delivery = delivery((3, 9, 2, 1_800_000_000_000, 41, 1, 77));
        assert_eq!(format("a:b%\n", &delivery), "a%3Ab%25%0A:3:2-1800000000000-41-1-9-77");
    }

    #[test]
    fn the_longest_id_can_be_read() {
        let delivery =
            delivery((u16::MAX, u32::MAX, u64::MAX, u64::MAX, u64::MAX, u32::MAX, u32::MAX));
        let id = format(&":".repeat(NAME_BYTES), &delivery);
        assert!(id.len() <= DELIVERY_ID_BYTES);
        assert_eq!(read(&id).expect("ours").group, NameHash::of(":".repeat(NAME_BYTES)));
        let too_long = format!("{}:1:1-1-1-1-1-1", "%3A".repeat(NAME_BYTES + 1));
        assert!(too_long.len() <= DELIVERY_ID_BYTES);
        assert_eq!(read(&too_long), None);
        assert_eq!(read(&"1".repeat(DELIVERY_ID_BYTES + 1)), None);
    }

    #[test]
    fn foreign_ids_are_none_of_ours() {
        assert!(read("g:1:1-1-1-1-1-1").is_some());
        for id in [
            "",
            ":",
            "g",
            "g:1",
            "g:1:",
            ":1:1-1-1-1-1-1",
            "g:1:1-1-1-1-1",
            "g:1:1-1-1-1-1-1-1",
            "g:65536:1-1-1-1-1-1",
            "g:+1:1-1-1-1-1",
            "g:1:1-1-1-0-1-1",
            "g:01:1-1-1-1-1-1",
            "g:1:1--1-1-1-1",
            "g:1:1-1-1-4294967296-1-1",
            "g:1:1-1-1-1-4294967296-1",
            "g:1:1-1-1-1-1-4294967296",
            "g%:1:1-1-1-1-1-1",
            "g%4:1:1-1-1-1-1-1",
            "g%zz:1:1-1-1-1-1-1",
            "%ff:1:1-1-1-1-1-1",
            "g:1:18446744073709551616-1-1-1-1-1",
        ] {
            assert_eq!(read(id), None, "{id}");
        }
    }

    #[test]
    fn digits_are_read_eight_at_once() {
        let read = |text: &[u8; 8]| leading_number(*text);
        assert_eq!(read(b"12345678"), (8, 12_345_678));
        assert_eq!(read(b"00000000"), (8, 0));
        assert_eq!(read(b"99999999"), (8, 99_999_999));
        assert_eq!(read(b"7-345678"), (1, 7));
        assert_eq!(read(b"1234567:"), (7, 1_234_567));
        for other in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
            for behind in [b'0', b'9', 0, u8::MAX] {
                assert_eq!(read(&[b'4', b'2', other, behind, behind, b'1', b'2', b'3']), (2, 42));
                assert_eq!(read(&[other, behind, behind, behind, behind, b'1', b'2', b'3']).0, 0);
            }
        }
    }

    #[test]
    fn a_name_is_not_taken_for_how_another_is_encoded() {
        let group = |id| read(id).expect("ours").group;
        assert_eq!(group("%2541:1:1-1-1-1-1-1"), NameHash::of("%41"));
        assert_eq!(group("%41:1:1-1-1-1-1-1"), NameHash::of("A"));
        assert_ne!(group("A:1:1-1-1-1-1-1"), group("a:1:1-1-1-1-1-1"));
    }

    proptest! {
        #[test]
        fn ids_are_read_as_formatted(
            group in "[a-z:%\\x00-\\x1fßü-]{1,60}",
            numbers in any::<(u16, u32, u64, u64, u64)>(),
            attempt in 1..=u32::MAX,
            seal in any::<u32>(),
        ) {
            let (partition, group_no, term, due, offset) = numbers;
            let delivery = delivery((partition, group_no, term, due, offset, attempt, seal));
            let id = format(&group, &delivery);
            prop_assert_eq!(id.split(':').count(), 3);
            prop_assert!(!id.chars().any(|c| c.is_ascii_control()));
            let read = read(&id).expect("ours");
            prop_assert_eq!(read.group, NameHash::of(&group));
            prop_assert_eq!(read.partition, delivery.event.partition);
            prop_assert_eq!(read.group_no, delivery.group);
            prop_assert_eq!(read.term, delivery.term);
            prop_assert_eq!(read.position, delivery.event.position());
            prop_assert_eq!((read.attempt, read.seal), (attempt, seal));
        }

        #[test]
        fn any_text_is_an_id_or_none(id in "\\PC{0,40}|[a-z%0-9:-]{0,30}") {
            let _ = read(&id);
        }
    }
}
