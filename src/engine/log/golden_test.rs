//! A whole segment file of format v1, `tests/golden/segment.v1.bin`: written today it has the same
//! bytes, and today's recovery reads it. Later versions must read it too.
//!
//! ```text
//!      0 | state, no-op of term 1                  | a gap up to the next block
//!   4096 | publish, groups                         | another: three writes were in flight
//!   8192 | settle                                  | no gap: all before it was durable
//!   8504 | no-op of term 2, publish of 5000 bytes  | zeros up to 24576
//! ```

use bytes::Bytes;

use super::batch::PublishBuilder;
use super::body::{Body, Content};
use super::entry::{EntryHeader, EntryKind};
use super::model::{Disk, IDS, Loose, filled};
use super::scan::{Known, Scanned};
use super::segment::Place;
use super::settle::{DeadReason, GroupsBuilder, NewGroup, SettleBuilder, SettleKind, Settlement};
use super::state::{StateBuilder, StateHead};
use super::tail::Tail;
use crate::base::ids::{GroupNo, Index, Offset, Position, Term, TopicNo};
use crate::base::size::BLOCK;

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/segment.v1.bin");
const FILE_BYTES: u64 = 6 * BLOCK;
const APPEND_TS: u64 = 1_767_225_600_000;

/// The bodies, in order, with the terms of their entries.
fn bodies() -> Vec<(Term, Body)> {
    let head = StateHead { dedup_ttl_ms: 604_800_000, ..StateHead::default() };
    let state = StateBuilder::new(head).finish().remove(0);
    let later = Loose { topic: TopicNo(0), ..record(b"late-1", &[7; 5_000]) };
    let mut large = PublishBuilder::new();
    later.push_to(&mut large);
    vec![
        (Term(1), state),
        (Term(1), Body::no_op()),
        (Term(1), publish()),
        (Term(1), groups()),
        (Term(1), settle()),
        (Term(2), Body::no_op()),
        (Term(2), large.finish()),
    ]
}

fn record<'a>(message_id: &'a [u8], payload: &'a [u8]) -> Loose<'a> {
    Loose {
        message_id,
        meta: b"\x2a\x06\x0a\x01k\x12\x01v",
        payload,
        topic: TopicNo(0),
        schedule_ts: APPEND_TS + 60_000,
        checksum: crc32fast::hash(payload),
        allow_duplicate: false,
    }
}

fn publish() -> Body {
    let mut builder = PublishBuilder::new();
    builder.define_topic(TopicNo(0), "orders");
    builder.define_topic(TopicNo(1), "mail");
    record(b"order-1", b"first").push_to(&mut builder);
    let mail = Loose { topic: TopicNo(1), meta: b"", ..record(b"mail-1", b"second") };
    mail.push_to(&mut builder);
    let again = Loose { allow_duplicate: true, ..record(b"order-1", b"third") };
    again.push_to(&mut builder);
    builder.finish()
}

fn groups() -> Body {
    let mut builder = GroupsBuilder::new();
    builder.push(&NewGroup {
        no: GroupNo(0),
        name: "billing",
        topic: TopicNo(0),
        min_offset: Offset(0),
        min_due: 5,
        ordered: false,
    });
    builder.finish()
}

fn settle() -> Body {
    let mut builder = SettleBuilder::new();
    let dead = SettleKind::Dead { reason: DeadReason::Nacked, text: "no such customer" };
    let retry = SettleKind::Retry { not_before_ms: APPEND_TS + 61_000 };
    for (offset, kind) in [(0, SettleKind::Acked), (2, retry), (2, dead)] {
        builder.push(&Settlement {
            group: GroupNo(0),
            position: Position::new(APPEND_TS + 60_000, Offset(offset)),
            attempts: 1,
            releases: 0,
            kind,
        });
    }
    builder.finish()
}

/// Writes them: entries 1 and 2, 3 and 4, and 5 in writes that are in flight together; the rest
/// when these are durable.
fn written() -> Vec<u8> {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), vec![0; FILE_BYTES as usize]);
    let mut tail = Tail::new(IDS, FILE_BYTES, Place::new(Index(1), 0), &[], FILE_BYTES);
    let mut last: Option<(EntryHeader, u32)> = None;
    let mut synced = Index(0);
    let mut in_flight = Vec::new();
    for (index, (term, body)) in (1..).zip(bodies()) {
        let header = EntryHeader {
            kind: if body.bytes().is_empty() { EntryKind::NoOp } else { EntryKind::Normal },
            term,
            index: Index(index),
            chain: last.map_or(0, |(last, crc)| last.next_chain(crc)),
            base_offset: last.map_or(Offset(0), |(last, _)| last.end_offset()),
            count: body.records(),
            append_ts: APPEND_TS + index,
        };
        last = Some((header, body.crc()));
        tail.push(header, body);
        if [2, 4, 5, 7].contains(&index) {
            let planned = tail.plan(synced).expect("a write");
            let bytes = filled(&mut tail, &planned);
            disk.put(Index(1), planned.position, &bytes);
            in_flight.push(planned.write);
        }
        if index >= 5 {
            for write in in_flight.drain(..) {
                synced = tail.done(write).expect("in order");
            }
        }
    }
    disk.files.remove(&Index(1)).expect("the file")
}

#[test]
fn a_segment_of_version_1_is_written_as_ever() {
    let bytes = written();
    assert!(bytes == GOLDEN, "format v1 never changes");
}

fn read() -> Vec<Scanned> {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), GOLDEN.to_vec());
    let (outcome, found) = disk.recover(Known::default());
    assert_eq!((outcome.rot, outcome.torn_bytes), (None, 0));
    found
}

#[test]
fn a_segment_of_version_1_is_read() {
    let found = read();
    let heads: Vec<_> = found
        .iter()
        .map(|entry| {
            let header = &entry.header;
            assert_eq!(header.append_ts, APPEND_TS + header.index.0);
            (header.index.0, header.term.0, header.base_offset.0, header.count)
        })
        .collect();
    let expected = [
        (1, 1, 0, 0),
        (2, 1, 0, 0),
        (3, 1, 0, 3),
        (4, 1, 3, 0),
        (5, 1, 3, 0),
        (6, 2, 3, 0),
        (7, 2, 3, 1),
    ];
    assert_eq!(heads, expected);
    let places: Vec<_> = found.iter().map(|entry| entry.place.position).collect();
    assert_eq!(places, [0, 240, 4096, 4440, 8192, 8504, 8600]);
}

#[test]
fn bodies_of_version_1_say_what_they_said() {
    let found = read();
    let bytes = |i: usize| -> &Bytes { found[i].body.bytes() };
    let Content::State(state) = found[0].body.content() else { panic!("state") };
    assert_eq!((state.part(), state.parts(), state.head().dedup_ttl_ms), (0, 1, 604_800_000));
    let Content::Publish(publish) = found[2].body.content() else { panic!("publish") };
    let topics: Vec<_> = publish.topics().collect();
    assert_eq!(topics, [(TopicNo(0), "orders"), (TopicNo(1), "mail")]);
    let third = publish.record(2);
    assert_eq!(third.message_id.of(bytes(2)), b"order-1");
    assert_eq!(third.meta.of(bytes(2)), b"\x2a\x06\x0a\x01k\x12\x01v");
    assert_eq!(third.payload.of(bytes(2)), b"third");
    assert!(third.allow_duplicate && third.schedule_ts == APPEND_TS + 60_000);
    let Content::Groups(groups) = found[3].body.content() else { panic!("groups") };
    assert!(groups.groups().all(|group| (group.name, group.min_due) == ("billing", 5)));
    let Content::Settle(settle) = found[4].body.content() else { panic!("settle") };
    let dead = SettleKind::Dead { reason: DeadReason::Nacked, text: "no such customer" };
    assert_eq!((settle.len(), settle.settlement(2).kind), (3, dead));
    let Content::Publish(large) = found[6].body.content() else { panic!("publish") };
    assert_eq!(large.record(0).payload.of(bytes(6)), [7; 5_000]);
}
