//! Bodies: what goes in comes out, the bytes of format v1 never change, foreign bytes never panic.

use proptest::prelude::*;

use super::super::batch::{PublishBuilder, Record};
use super::super::model::Loose;
use super::super::settle::{
    DeadReason, GroupsBuilder, NewGroup, SettleBuilder, SettleKind, Settlement,
};
use super::super::state::{DeadLetter, GroupState, StateBuilder, StateHead, Unsettled};
use super::super::topics::TopicsBuilder;
use super::*;
use crate::base::ids::{GroupNo, Index, Offset, Position, Term};
use crate::base::topic_retention::TopicRetention;

fn publish() -> Body {
    let mut builder = PublishBuilder::new();
    builder.define_topic(TopicNo(4), "orders");
    Loose {
        message_id: b"id-1",
        meta: b"\x2a\x00",
        payload: b"first",
        topic: TopicNo(4),
        schedule_ts: 1_000,
        checksum: crc32fast::hash(b"first"),
        allow_duplicate: false,
    }
    .push_to(&mut builder);
    Loose {
        message_id: b"id-2",
        meta: b"",
        payload: b"second payload",
        topic: TopicNo(0),
        schedule_ts: u64::MAX,
        checksum: crc32fast::hash(b"second payload"),
        allow_duplicate: true,
    }
    .push_to(&mut builder);
    assert_eq!(builder.len(), 2);
    let body = builder.finish();
    assert!(builder.is_empty(), "the builder starts anew");
    body
}

const SETTLEMENTS: [SettleKind<'static>; 4] = [
    SettleKind::Acked,
    SettleKind::Retry { not_before_ms: 9_999 },
    SettleKind::Released,
    SettleKind::Dead { reason: DeadReason::Nacked, text: "no such account ☹" },
];

fn settlement(i: u32, kind: SettleKind<'_>) -> Settlement<'_> {
    Settlement {
        group: GroupNo(i),
        position: Position::new(1_000 + u64::from(i), Offset(u64::from(i))),
        attempts: i + 1,
        releases: 2 * i,
        kind,
    }
}

fn settle() -> Body {
    let mut builder = SettleBuilder::new();
    for (i, kind) in (0..).zip(SETTLEMENTS) {
        builder.push(&settlement(i, kind));
    }
    builder.finish()
}

const GROUP: NewGroup<'static> = NewGroup {
    no: GroupNo(7),
    name: "billing",
    topic: TopicNo(4),
    min_offset: Offset(10),
    min_due: 20,
    ordered: true,
};

fn groups() -> Body {
    let mut builder = GroupsBuilder::new();
    builder.define_topic(TopicNo(5), "späte Post");
    builder.push(&GROUP);
    builder.push(&NewGroup { no: GroupNo(8), ordered: false, ..GROUP });
    builder.finish()
}

const HEAD: StateHead = StateHead {
    next_offset: Offset(99),
    dedup_ttl_ms: 5,
    truncated_index: Index(12),
    truncated_term: Term(3),
};
const GROUP_STATE: GroupState<'static> = GroupState {
    no: GroupNo(7),
    name: "billing",
    topic: TopicNo(4),
    min_offset: Offset(10),
    min_due: 20,
    ordered: true,
    frontier: Position { due: 33, offset: Offset(44) },
};
const UNSETTLED: Unsettled = Unsettled {
    group: GroupNo(7),
    position: Position { due: 3, offset: Offset(4) },
    attempts: 5,
    releases: 6,
    not_before_ms: 7,
};
const DEAD: DeadLetter<'static> = DeadLetter {
    group: GroupNo(7),
    position: Position { due: 8, offset: Offset(9) },
    attempts: 6,
    reason: DeadReason::Expired,
    text: "too late",
};

fn state() -> Body {
    let mut builder = StateBuilder::new(HEAD);
    builder.topic(TopicNo(4), "orders", TopicRetention::Node);
    builder.group(&GROUP_STATE);
    builder.settled(GroupNo(7), Position::new(50, Offset(60)));
    builder.unsettled(&UNSETTLED);
    builder.dead(&DEAD);
    let mut parts = builder.finish();
    assert_eq!(parts.len(), 1);
    parts.remove(0)
}

/// A state as it is where a topic has a retention of its own.
fn state_with_settings() -> Body {
    let mut builder = StateBuilder::new(HEAD);
    builder.topic(TopicNo(4), "orders", TopicRetention::For(86_400_000));
    builder.topic(TopicNo(5), "späte Post", TopicRetention::Node);
    builder.topic(TopicNo(6), "audit", TopicRetention::Forever);
    let mut parts = builder.finish();
    assert_eq!(parts.len(), 1);
    parts.remove(0)
}

fn topics() -> Body {
    let mut builder = TopicsBuilder::new();
    builder.retain(TopicNo(4), TopicRetention::For(86_400_000));
    builder.retain(TopicNo(5), TopicRetention::Forever);
    builder.retain(TopicNo(6), TopicRetention::Node);
    builder.define_topic(TopicNo(5), "späte Post");
    builder.finish()
}

/// Touches all that a body gives access to.
fn read_all(body: &Body) -> usize {
    match body.content() {
        Content::NoOp => 0,
        Content::Publish(view) => {
            let spans = |r: Record| [r.message_id, r.meta, r.payload];
            let bytes: usize =
                view.records().flat_map(spans).map(|span| span.of(body.bytes()).len()).sum();
            bytes + view.topics().map(|(_, name)| name.len()).sum::<usize>()
        }
        Content::Settle(view) => view.settlements().map(|s| s.attempts as usize & 1).sum(),
        Content::Groups(view) => {
            view.groups().map(|g| g.name.len()).sum::<usize>()
                + view.topics().map(|(_, name)| name.len()).sum::<usize>()
        }
        Content::Topics(view) => {
            view.topics().map(|(_, name)| name.len()).sum::<usize>() + view.retention().len()
        }
        Content::State(view) => {
            view.topics().map(|(_, name)| name.len()).sum::<usize>()
                + view.retention().len()
                + view.groups().map(|g| g.name.len()).sum::<usize>()
                + view.settled().len()
                + view.unsettled().len()
                + view.dead().map(|d| d.text.len()).sum::<usize>()
        }
    }
}

#[test]
fn golden_bodies_of_version_1() {
    let cases: [(Body, &[u8]); 6] = [
        (publish(), include_bytes!("../../../tests/golden/publish.v1.bin")),
        (settle(), include_bytes!("../../../tests/golden/settle.v1.bin")),
        (groups(), include_bytes!("../../../tests/golden/groups.v1.bin")),
        (state(), include_bytes!("../../../tests/golden/state.v1.bin")),
        (topics(), include_bytes!("../../../tests/golden/topics.v1.bin")),
        (state_with_settings(), include_bytes!("../../../tests/golden/state-topics.v1.bin")),
    ];
    for (body, golden) in cases {
        assert_eq!(body.bytes(), golden, "format v1 never changes");
        let again = Body::verify(Bytes::from_static(golden)).expect("verifies");
        assert_eq!(again.crc(), body.crc());
        assert_eq!(read_all(&again), read_all(&body));
    }
}

#[test]
fn an_event_comes_back_as_it_went_in() {
    let body = publish();
    assert_eq!(body.records(), 2);
    assert!(body.bytes().len() <= ENTRY_BODY_BYTES);
    let Content::Publish(view) = body.content() else { panic!("a publish body") };
    assert_eq!(view.topics().collect::<Vec<_>>(), [(TopicNo(4), "orders")]);
    let first = view.record(0);
    assert_eq!(first.message_id.of(body.bytes()), b"id-1");
    assert_eq!(first.meta.of(body.bytes()), b"\x2a\x00");
    assert_eq!(first.payload.of(body.bytes()), b"first");
    assert_eq!((first.topic, first.schedule_ts), (TopicNo(4), 1_000));
    assert!(!first.allow_duplicate);
    let header = super::super::entry::EntryHeader {
        kind: super::super::entry::EntryKind::Normal,
        term: Term(2),
        index: Index(5),
        chain: 0,
        base_offset: Offset(70),
        count: 2,
        append_ts: 500,
    };
    let event = view.stored_event(1, &header, crate::base::ids::PartitionId(3), "orders".into());
    assert_eq!(event.payload.of(&event.body), b"second payload");
    assert_eq!((event.offset, event.append_ts, event.term), (Offset(71), 500, Term(2)));
    assert_eq!(event.checksum, crc32fast::hash(b"second payload"));
    assert!(view.record(1).allow_duplicate);
}

#[test]
fn settlements_and_groups_come_back_as_they_went_in() {
    let body = settle();
    let Content::Settle(view) = body.content() else { panic!("a settle body") };
    for (i, kind) in (0..).zip(SETTLEMENTS) {
        assert_eq!(view.settlement(i), settlement(i, kind));
    }
    assert_eq!(view.settlements().len(), SETTLEMENTS.len());

    let body = groups();
    let Content::Groups(view) = body.content() else { panic!("a groups body") };
    let back: Vec<_> = view.groups().collect();
    assert_eq!(back, [GROUP, NewGroup { no: GroupNo(8), ordered: false, ..GROUP }]);
    assert_eq!(view.topics().collect::<Vec<_>>(), [(TopicNo(5), "späte Post")]);
}

#[test]
fn a_state_comes_back_as_it_went_in() {
    let body = state();
    let Content::State(view) = body.content() else { panic!("a state body") };
    assert_eq!((view.head(), view.part(), view.parts()), (HEAD, 0, 1));
    assert_eq!(view.topics().collect::<Vec<_>>(), [(TopicNo(4), "orders")]);
    assert_eq!(view.groups().collect::<Vec<_>>(), [GROUP_STATE]);
    assert_eq!(view.settled().collect::<Vec<_>>(), [(GroupNo(7), Position::new(50, Offset(60)))]);
    assert_eq!(view.unsettled().collect::<Vec<_>>(), [UNSETTLED]);
    assert_eq!(view.dead().collect::<Vec<_>>(), [DEAD]);
}

#[test]
fn settings_of_topics_come_back_as_they_went_in() {
    let day = TopicRetention::For(86_400_000);
    let body = topics();
    let Content::Topics(view) = body.content() else { panic!("a topics body") };
    let rows = [(4, day), (5, TopicRetention::Forever), (6, TopicRetention::Node)];
    let rows = rows.map(|(no, retention)| (TopicNo(no), retention));
    assert_eq!(view.retention().collect::<Vec<_>>(), rows);
    assert_eq!(view.topics().collect::<Vec<_>>(), [(TopicNo(5), "späte Post")]);

    let body = state_with_settings();
    let Content::State(view) = body.content() else { panic!("a state body") };
    let rows = [(TopicNo(4), day), (TopicNo(6), TopicRetention::Forever)];
    assert_eq!(view.retention().collect::<Vec<_>>(), rows);
    assert_eq!(view.topics().len(), 3);
}

#[test]
fn a_large_state_is_cut_into_bounded_parts() {
    let mut builder = StateBuilder::new(HEAD);
    let total = 100_000_u32;
    for i in 0..total {
        builder.unsettled(&Unsettled { group: GroupNo(i), ..UNSETTLED });
    }
    let parts = builder.finish();
    assert!(parts.len() > 1);
    let mut next = 0;
    for (no, part) in (0..).zip(&parts) {
        assert!(part.bytes().len() <= 2 * super::super::state::STATE_PART_BYTES);
        let Content::State(view) = part.content() else { panic!("a state body") };
        assert_eq!((view.part(), view.parts() as usize), (no, parts.len()));
        for event in view.unsettled() {
            assert_eq!(event.group, GroupNo(next));
            next += 1;
        }
    }
    assert_eq!(next, total);
}

#[test]
fn a_no_op_has_no_bytes() {
    let body = Body::no_op();
    assert!(body.bytes().is_empty());
    assert_eq!(Body::verify(Bytes::new()), Ok(body.clone()));
    assert!(matches!(body.content(), Content::NoOp));
    assert_eq!((body.records(), body.crc()), (0, 0));
}

#[test]
fn a_body_over_its_limit_is_refused() {
    let bytes = Bytes::from(vec![0; ENTRY_BODY_BYTES + 1]);
    assert_eq!(Body::verify(bytes), Err(BodyError::TooLarge));
}

#[test]
fn a_detached_body_is_the_same_elsewhere() {
    let body = publish();
    let copy = body.detached();
    assert_eq!(copy, body);
    assert_ne!(copy.bytes().as_ptr(), body.bytes().as_ptr());
    assert_eq!(read_all(&copy), read_all(&body));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(body) = Body::verify(Bytes::from(bytes)) {
            read_all(&body);
        }
    }

    #[test]
    fn damaged_bodies_never_panic(
        which in 0..4_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let body = [publish, settle, groups, state][which]();
        let mut bytes = body.bytes().to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let cut = cut.index(2 * bytes.len());
        bytes.truncate(cut.max(1));
        if let Ok(body) = Body::verify(Bytes::from(bytes)) {
            read_all(&body);
        }
    }

    #[test]
    fn events_round_trip(events in proptest::collection::vec((
        proptest::collection::vec(any::<u8>(), 1..128),
        proptest::collection::vec(any::<u8>(), 0..200),
        proptest::collection::vec(any::<u8>(), 1..400),
        any::<(u32, u64, u32, bool)>(),
    ), 1..40)) {
        let mut builder = PublishBuilder::new();
        for (id, meta, payload, (topic, schedule_ts, checksum, allow_duplicate)) in &events {
            Loose {
                message_id: id, meta, payload, topic: TopicNo(*topic),
                schedule_ts: *schedule_ts, checksum: *checksum,
                allow_duplicate: *allow_duplicate,
            }.push_to(&mut builder);
        }
        let bound = builder.body_bytes();
        let body = builder.finish();
        prop_assert!(body.bytes().len() <= bound);
        let Content::Publish(view) = body.content() else { panic!("a publish body") };
        prop_assert_eq!(view.len() as usize, events.len());
        for (record, (id, meta, payload, rest)) in view.records().zip(&events) {
            prop_assert_eq!(record.message_id.of(body.bytes()), &id[..]);
            prop_assert_eq!(record.meta.of(body.bytes()), &meta[..]);
            prop_assert_eq!(record.payload.of(body.bytes()), &payload[..]);
            let got =
                (record.topic.0, record.schedule_ts, record.checksum, record.allow_duplicate);
            prop_assert_eq!(got, *rest);
        }
    }
}
