//! Leases that share a deadline: each ends by its own verdict, and the rest with the deadline.

use std::sync::Arc;

use super::one_shard::{NOW, PARTITION, Shard};
use crate::base::api::{AckSpec, Delivery, DeliveryId, Verdict};
use crate::base::config::EngineConfig;
use crate::base::ids::{NameHash, ShardId, SubscriptionId};
use crate::engine::Input;
use crate::engine::mesh::{MeshMessage, StartFilter};

/// Where the member is.
const ELSEWHERE: ShardId = ShardId(1);
/// More than one deadline has.
const EVENTS: u32 = 150;

impl Shard {
    fn tell(&mut self, message: MeshMessage) -> Vec<MeshMessage> {
        self.give(Input::Mesh { from: ELSEWHERE, message });
        std::mem::take(&mut self.told)
    }

    fn joined(&mut self) -> Vec<MeshMessage> {
        let (group, topic, member) = (Arc::from("g"), Arc::from("t"), Arc::from("m"));
        let (subscription, partition) = (SubscriptionId(1), PARTITION);
        let filter = StartFilter::default();
        self.tell(MeshMessage::Join { subscription, partition, group, topic, member, filter })
    }

    /// What is handed out for a grant of everything, and its attempts.
    fn handed(&mut self) -> Vec<Delivery> {
        let (subscription, partition) = (SubscriptionId(1), PARTITION);
        let (events, bytes, stays) = (EVENTS, 1 << 20, false);
        let told = self.tell(MeshMessage::Grant { subscription, partition, events, bytes, stays });
        let deliveries = told.into_iter().filter_map(|message| match message {
            MeshMessage::Granted { deliveries, .. } => Some(deliveries),
            _ => None,
        });
        deliveries.flatten().collect()
    }

    fn judge(&mut self, deliveries: &[Delivery], verdict: &Verdict) {
        let acks = (0..).zip(deliveries).map(|(place, delivery)| {
            let id = Some(DeliveryId {
                group: NameHash::of("g"),
                partition: PARTITION,
                group_no: delivery.group,
                term: delivery.term,
                position: delivery.event.position(),
                attempt: delivery.attempt,
                seal: delivery.seal,
            });
            (place, AckSpec { id, verdict: verdict.clone() })
        });
        let (request, acks) = (1, acks.collect());
        let told = self.tell(MeshMessage::Ack { request, partition: PARTITION, acks });
        let outcomes = told.into_iter().filter_map(|message| match message {
            MeshMessage::Acked { outcomes, .. } => Some(outcomes),
            _ => None,
        });
        let mut good = outcomes.flatten().filter(|(_, outcome)| outcome.result.is_ok());
        assert_eq!(good.by_ref().count(), deliveries.len());
    }

    fn wait(&mut self, ms: u64) {
        self.now.wall_us += ms * 1_000;
        self.now.boot_us += ms * 1_000;
        self.give(Input::Tick);
    }
}

fn offsets(deliveries: &[Delivery]) -> Vec<(u64, u32)> {
    deliveries.iter().map(|delivery| (delivery.event.offset.0, delivery.attempt)).collect()
}

fn all_are_handed_out(shard: &mut Shard) -> Vec<Delivery> {
    shard.joined();
    shard.publish("t", EVENTS as usize, 1, NOW.wall_ms());
    let deliveries = shard.handed();
    assert_eq!(offsets(&deliveries), (0..u64::from(EVENTS)).map(|n| (n, 1)).collect::<Vec<_>>());
    deliveries
}

#[test]
fn what_is_not_acked_is_tried_again_and_nothing_else() {
    let (mut shard, config) = (Shard::of(2), EngineConfig::default());
    let deliveries = all_are_handed_out(&mut shard);
    let (kept, acked): (Vec<_>, Vec<_>) =
        deliveries.into_iter().partition(|d| [0, 63, 64, 149].contains(&d.event.offset.0));
    shard.judge(&acked, &Verdict::Ack);
    shard.judge(&kept[..1], &Verdict::Extend { by_ms: 2 * config.ack_timeout_ms });
    shard.wait(config.ack_timeout_ms);
    assert_eq!(shard.engine.stats().expired, 0, "a deadline is no earlier than it says");
    shard.wait(1);
    assert_eq!(shard.engine.stats().expired, 3, "one has more time");
    shard.wait(config.ack_timeout_ms - 2); // longer than the backoff
    assert_eq!(offsets(&shard.handed()), [(63, 2), (64, 2), (149, 2)]);
    shard.wait(config.ack_timeout_ms);
    assert_eq!(shard.engine.stats().expired, 4, "the extended one");
    shard.wait(1);
    assert_eq!(shard.engine.stats().expired, 7, "those that came again have a deadline, too");
}

#[test]
fn what_a_member_leaves_behind_is_free_after_the_grace() {
    let mut shard = Shard::of(2);
    let deliveries = all_are_handed_out(&mut shard);
    let (subscription, partition) = (SubscriptionId(1), PARTITION);
    shard.tell(MeshMessage::Leave { subscription, partition });
    shard.judge(&deliveries[11..], &Verdict::Ack);
    shard.judge(&deliveries[10..11], &Verdict::Extend { by_ms: 5_000 });
    shard.joined();
    assert_eq!(offsets(&shard.handed()), [], "late acks are awaited");
    shard.wait(crate::base::limits::DISCONNECT_GRACE_MS + 1);
    let again = (0..10).map(|offset| (offset, 2)).collect::<Vec<_>>();
    assert_eq!(offsets(&shard.handed()), again);
    assert_eq!(shard.engine.stats().expired, 0, "no attempt has failed");
    shard.wait(5_000);
    assert_eq!(shard.engine.stats().expired, 1, "but for one that had asked for more time");
}
