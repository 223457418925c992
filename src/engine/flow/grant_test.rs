//! Grants that are there before their events: the partition's half with members on another shard,
//! and the session's with a partition there.

use std::sync::Arc;

use super::one_shard::{NOW, PARTITION, Shard};
use crate::base::ids::{Offset, PartitionId, Position, ShardId, SubscriptionId};
use crate::base::limits;
use crate::base::time::Now;
use crate::engine::Input;
use crate::engine::mesh::{MeshMessage, Offer, StartFilter};

/// Where the members are.
const ELSEWHERE: ShardId = ShardId(1);

/// What a member of the group has been told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Joined,
    Offered(u32),
    /// Offsets, and how many are offered with them.
    Granted(Vec<u64>, Option<u32>),
}

impl Shard {
    fn hear(&mut self, message: MeshMessage) {
        self.give(Input::Mesh { from: ELSEWHERE, message });
    }

    fn join(&mut self, member: u64) {
        self.join_group(member, "g");
    }

    fn join_group(&mut self, member: u64, group: &str) {
        let (subscription, partition) = (SubscriptionId(member), PARTITION);
        let (group, topic, name) = (Arc::from(group), Arc::from("t"), Arc::from("m"));
        let filter = StartFilter::default();
        self.hear(MeshMessage::Join {
            subscription,
            partition,
            group,
            topic,
            member: name,
            filter,
        });
        assert_eq!(self.news(), [(member, Told::Joined)]);
    }

    fn grant(&mut self, member: u64, events: u32, bytes: u64, stays: bool) {
        let (subscription, partition) = (SubscriptionId(member), PARTITION);
        self.hear(MeshMessage::Grant { subscription, partition, events, bytes, stays });
    }

    /// So many events, due at once.
    fn publish_now(&mut self, count: usize, len: usize) {
        self.publish("t", count, len, NOW.wall_ms());
    }

    fn news(&mut self) -> Vec<(u64, Told)> {
        let count = |offer: Offer| offer.ready;
        let told = |message| match message {
            MeshMessage::Joined { subscription, result: Ok(()), .. } => {
                (subscription.0, Told::Joined)
            }
            MeshMessage::Offer { subscription, offer, .. } => {
                (subscription.0, Told::Offered(count(offer)))
            }
            MeshMessage::Granted { subscription, deliveries, offer, .. } => {
                let offsets = deliveries.iter().map(|d| d.event.offset.0).collect();
                (subscription.0, Told::Granted(offsets, offer.map(count)))
            }
            other => panic!("nobody asked for {other:?}"),
        };
        self.told.drain(..).map(told).collect()
    }
}

#[test]
fn an_event_is_handed_to_who_has_granted_before_it_was_there() {
    let mut shard = Shard::of(2);
    shard.join(1);
    shard.grant(1, 2, 1_000, true);
    assert_eq!(shard.news(), [], "there is nothing, and the grant stays");
    shard.publish("t", 1, 1, NOW.wall_ms() + 5);
    assert_eq!(shard.news(), [], "nor is it due");
    shard.now = Now { wall_us: NOW.wall_us + 5_000, boot_us: NOW.boot_us + 5_000 };
    shard.give(Input::Tick);
    assert_eq!(shard.news(), [(1, Told::Granted(vec![0], None))], "no offer came before");
    shard.publish("t", 1, 1, NOW.wall_ms());
    assert_eq!(shard.news(), [(1, Told::Offered(1))], "a grant is answered once");
}

#[test]
fn what_a_grant_that_stays_leaves_is_offered() {
    let mut shard = Shard::of(2);
    shard.join(1);
    shard.grant(1, 2, 1_000, true);
    shard.publish_now(3, 1);
    assert_eq!(shard.news(), [(1, Told::Granted(vec![0, 1], Some(1)))]);
    shard.grant(1, 1, 1_000, false);
    assert_eq!(shard.news(), [(1, Told::Granted(vec![2], None))]);
    shard.grant(1, 1, 1_000, false);
    assert_eq!(shard.news(), [(1, Told::Granted(vec![], None))], "another says what it found");
}

#[test]
fn what_is_too_large_for_a_grant_that_stays_is_offered() {
    let mut shard = Shard::of(2);
    shard.join(1);
    shard.grant(1, 8, 1_000, true);
    shard.publish_now(1, 2_000);
    assert_eq!(shard.news(), [(1, Told::Granted(vec![], Some(1)))]);
    shard.grant(1, 1, 1_000, false);
    assert_eq!(shard.news(), [(1, Told::Granted(vec![0], None))], "the first may exceed it");
}

#[test]
fn an_offer_that_crosses_a_grant_is_answered_with_it() {
    let mut shard = Shard::of(2);
    shard.join(1);
    shard.publish_now(3, 1);
    assert_eq!(shard.news(), [(1, Told::Offered(3))]);
    shard.grant(1, 2, 1_000, true);
    assert_eq!(shard.news(), [(1, Told::Granted(vec![0, 1], Some(1)))]);
    shard.publish_now(1, 1);
    assert_eq!(shard.news(), [], "it knows that there is something");
}

#[test]
fn members_take_turns() {
    let mut shard = Shard::of(2);
    for member in 1..=3 {
        shard.join(member);
        shard.grant(member, 1, 1_000, true);
    }
    for offset in 0..6 {
        shard.publish_now(1, 1);
        let member = offset % 3 + 1;
        assert_eq!(shard.news(), [(member, Told::Granted(vec![offset], None))]);
        shard.grant(member, 1, 1_000, true);
    }
    shard.publish_now(3, 1);
    let each = (1..=3).map(|n| (n, Told::Granted(vec![5 + n], (n < 3).then_some(3 - n as u32))));
    assert_eq!(shard.news(), each.collect::<Vec<_>>());
}

#[test]
fn a_crowd_is_offered_though_a_grant_stays() {
    for (count, told) in [
        (limits::GRANT_SMALL, Told::Granted((0..u64::from(limits::GRANT_SMALL)).collect(), None)),
        (limits::GRANT_SMALL + 1, Told::Granted(vec![], Some(limits::GRANT_SMALL + 1))),
    ] {
        let mut shard = Shard::of(2);
        shard.join(1);
        shard.grant(1, limits::GRANT_SMALL, 1 << 20, true);
        shard.publish_now(count as usize, 1);
        assert_eq!(shard.news(), [(1, told)]);
    }
}

#[test]
fn a_crowd_of_groups_leaves_half_of_a_turn_to_those_who_wait() {
    let mut shard = Shard::of(2);
    let each = limits::GRANT_SMALL as usize;
    for group in 1..=(limits::TURN_DELIVERIES / each) as u64 {
        shard.join_group(group, &format!("g{group}"));
        shard.grant(group, limits::GRANT_SMALL, 1 << 20, true);
    }
    shard.publish("t", each, 1, NOW.wall_ms() + 1);
    shard.now = Now { wall_us: NOW.wall_us + 1_000, boot_us: NOW.boot_us + 1_000 };
    let mut turns = Vec::new();
    for _ in 0..3 {
        shard.turn(Input::Tick);
        let granted =
            |told| if let Told::Granted(offsets, None) = told { offsets.len() } else { 0 };
        turns.push(shard.news().into_iter().map(|(_, told)| granted(told)).sum::<usize>());
    }
    assert_eq!(turns, [limits::TURN_DELIVERIES / 2, limits::TURN_DELIVERIES / 2, 0]);
}

#[test]
fn a_grant_that_stays_is_called_back_once() {
    let mut shard = Shard::of(2);
    shard.join(1);
    shard.grant(1, 2, 1_000, true);
    let (subscription, partition) = (SubscriptionId(1), PARTITION);
    shard.hear(MeshMessage::CallBack { subscription, partition });
    assert_eq!(shard.news(), [(1, Told::Granted(vec![], None))]);
    shard.hear(MeshMessage::CallBack { subscription, partition });
    assert_eq!(shard.news(), [], "it has been answered");
    shard.publish_now(1, 1);
    assert_eq!(shard.news(), [(1, Told::Offered(1))]);
}

/// Grants told to the other shard: events, and whether they stay.
fn grants(shard: &mut Shard) -> Vec<(u32, bool)> {
    let grants = shard.told.drain(..).filter_map(|message| match message {
        MeshMessage::Grant { events, stays, .. } => Some((events, stays)),
        _ => None,
    });
    grants.collect()
}

#[test]
fn a_session_grants_to_who_has_nothing_unless_there_is_an_offer() {
    let mut shard = Shard::of(2);
    shard.subscribe(7, "t");
    assert_eq!(grants(&mut shard), [], "that partition has not let it in yet");
    let (subscription, partition) = (SubscriptionId(1), PartitionId(1));
    shard.hear(MeshMessage::Joined { subscription, partition, result: Ok(()) });
    assert_eq!(grants(&mut shard), [(limits::GRANT_SMALL, true)]);
    let offer = Offer { ready: 3, earliest: Position::new(1, Offset(0)) };
    shard.hear(MeshMessage::Offer { subscription, partition, offer });
    assert_eq!(grants(&mut shard), [], "its grant is on the way");
    let (deliveries, offer) = (Vec::new(), Some(offer));
    shard.hear(MeshMessage::Granted { subscription, partition, deliveries, offer });
    assert_eq!(grants(&mut shard), [(3, false)]);
    let (deliveries, offer) = (Vec::new(), None);
    shard.hear(MeshMessage::Granted { subscription, partition, deliveries, offer });
    assert_eq!(grants(&mut shard), [(limits::GRANT_SMALL, true)]);
}

#[test]
fn no_credit_lies_idle_while_an_offer_waits_for_it() {
    let mut shard = Shard::of(2);
    let most = limits::CREDIT_MAX as usize;
    shard.subscribe(7, "t");
    let (subscription, partition) = (SubscriptionId(1), PartitionId(1));
    shard.hear(MeshMessage::Joined { subscription, partition, result: Ok(()) });
    for _ in 0..=most / 1_000 {
        shard.publish("t", 1_000, 1, NOW.wall_ms());
    }
    let called = |message: &MeshMessage| matches!(message, MeshMessage::CallBack { .. });
    assert_eq!(shard.told.drain(..).filter(called).count(), 1);
    let staying = limits::GRANT_SMALL as usize;
    assert_eq!(shard.delivered(7), most - staying, "until it is back");
    let (deliveries, offer) = (Vec::new(), None);
    shard.hear(MeshMessage::Granted { subscription, partition, deliveries, offer });
    assert_eq!((shard.delivered(7), grants(&mut shard)), (most, Vec::new()));
}
