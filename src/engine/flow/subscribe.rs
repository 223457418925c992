//! The story of a subscription: joining partitions, offers in, grants out, deliveries to the
//! socket.
//!
//! The member's credit lives here, in the session's shard, and nowhere else:
//! `free = credit - in flight - granted`. Partitions offer what they have ready; the earliest due
//! is granted first; what a grant does not use returns with its answer. So credit 1 means one event
//! in flight over all partitions, and an offer of older events never waits behind a newer one.
//!
//! A partition with nothing to offer is granted a little that stays until it has something: half of
//! the credit at most for all of them, and only while no offer waits. Its next event then comes
//! with one message instead of three. An offer that finds no credit calls it all back.
//!
//! Must hold: `in_flight + granted <= credit`; at most one grant is out per partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::api::{Delivery, PartitionSet, Reply, SubscribeSpec};
use crate::base::error::ApiError;
use crate::base::ids::{Caller, PartitionId, SubscriptionId};
use crate::base::limits;
use crate::engine::effect::Effect;
use crate::engine::front::{Front, Stream};
use crate::engine::mesh::{MeshMessage, Offer, StartFilter};
use crate::engine::step::Step;

/// Bytes of one grant at most.
const GRANT_BYTES: u64 = limits::SUBSCRIPTION_OUT_BYTES / 4;
/// Bytes of all grants that stay, together.
const STAYING_BYTES: u64 = limits::SUBSCRIPTION_OUT_BYTES / 4;
/// Bytes of one of them at least: with less it would be too small for too much.
const STAYING_BYTES_MIN: u64 = 4 << 10;

/// A member's open stream.
#[derive(Debug)]
pub struct Subscription {
    id: SubscriptionId,
    caller: Caller,
    group: Arc<str>,
    credit: u32,
    in_flight: u32,
    granted: u32,
    granted_bytes: u64,
    out_bytes: u64,
    out_batches: u32,
    joins_left: usize,
    sources: BTreeMap<PartitionId, Source>,
    /// What each partition is granted before it has something: events and bytes.
    staying: Option<(u32, u64)>,
    /// Joined partitions with neither an offer nor a grant.
    idle: BTreeSet<PartitionId>,
    /// Partitions with a grant that stays and was not called back.
    waiting: BTreeSet<PartitionId>,
}

/// One partition, as the subscription sees it.
#[derive(Debug, Default)]
struct Source {
    offer: Option<Offer>,
    granted: u32,
    granted_bytes: u64,
}

impl Front {
    /// A session opens a member's stream.
    pub(in crate::engine) fn subscribe(
        &mut self,
        step: &mut Step<'_>,
        from: Caller,
        spec: &SubscribeSpec,
    ) {
        if self.has_stream(from) {
            let text = "correlation id: a stream with this id is open already";
            return step.reply(from, Reply::StreamEnd(Err(ApiError::invalid(text))));
        }
        let partitions = match partitions_of(&spec.partitions, step.config.partitions) {
            Ok(partitions) => partitions,
            Err(error) => return step.reply(from, Reply::StreamEnd(Err(error))),
        };
        let credit = spec.credit.clamp(1, step.config.max_credit);
        let filter = StartFilter::new(spec.start, step.now.wall_ms());
        let group = spec.group.clone();
        let sources = partitions.iter().map(|p| (*p, Source::default())).collect();
        let joins_left = partitions.len();
        let staying = staying_share(credit, partitions.len());
        let id = self.open_stream(from, |id| {
            Stream::Subscription(Subscription {
                id,
                caller: from,
                group,
                credit,
                in_flight: 0,
                granted: 0,
                granted_bytes: 0,
                out_bytes: 0,
                out_batches: 0,
                joins_left,
                sources,
                staying,
                idle: BTreeSet::new(),
                waiting: BTreeSet::new(),
            })
        });
        for partition in partitions {
            let (group, topic) = (spec.group.clone(), spec.topic.clone());
            let member = spec.member.clone();
            let join =
                MeshMessage::Join { subscription: id, partition, group, topic, member, filter };
            step.send(step.owner(partition), join);
        }
    }

    /// A partition has answered a join.
    pub(in crate::engine) fn joined(
        &mut self,
        step: &mut Step<'_>,
        id: SubscriptionId,
        partition: PartitionId,
        result: Result<(), ApiError>,
    ) {
        let Some(Stream::Subscription(subscription)) = self.stream(id) else { return };
        let caller = subscription.caller;
        match result {
            Ok(()) => {
                subscription.joins_left -= 1;
                if subscription.joins_left == 0 {
                    step.reply(caller, Reply::Subscribed);
                }
                subscription.idle.insert(partition);
                subscription.grant(step);
            }
            Err(error) => {
                let text = format!("partition {partition}: {error}");
                self.drop_stream(step, caller);
                step.reply(caller, Reply::StreamEnd(Err(ApiError::new(error.code, text))));
            }
        }
    }

    /// A partition has something ready.
    pub(in crate::engine) fn offered(
        &mut self,
        step: &mut Step<'_>,
        id: SubscriptionId,
        partition: PartitionId,
        offer: Offer,
    ) {
        let Some(Stream::Subscription(subscription)) = self.stream(id) else { return };
        if cfg!(bug_drop_without_credit) && subscription.free() == 0 {
            return; // known bad: nobody offers it again
        }
        let source = subscription.source(partition);
        if source.granted > 0 {
            return; // it has crossed a grant that stays, whose answer says what there is
        }
        source.offer = Some(offer);
        subscription.idle.remove(&partition);
        subscription.grant(step);
    }

    /// A partition answers a grant.
    pub(in crate::engine) fn granted(
        &mut self,
        step: &mut Step<'_>,
        id: SubscriptionId,
        partition: PartitionId,
        deliveries: Vec<Delivery>,
        offer: Option<Offer>,
    ) {
        let Some(Stream::Subscription(subscription)) = self.stream(id) else { return };
        let source = subscription.source(partition);
        let granted = std::mem::take(&mut source.granted);
        let granted_bytes = std::mem::take(&mut source.granted_bytes);
        source.offer = offer;
        assert!(deliveries.len() <= granted as usize, "a partition keeps to its grant");
        subscription.granted -= granted;
        subscription.granted_bytes -= granted_bytes;
        subscription.waiting.remove(&partition);
        if offer.is_none() {
            subscription.idle.insert(partition);
        }
        subscription.deliver(step, partition, deliveries);
        subscription.grant(step);
    }

    /// Deliveries are done with: their credit returns.
    pub(in crate::engine) fn credit(
        &mut self,
        step: &mut Step<'_>,
        id: SubscriptionId,
        events: u32,
    ) {
        let Some(Stream::Subscription(subscription)) = self.stream(id) else { return };
        assert!(subscription.in_flight >= events, "credit returns once per delivery");
        subscription.in_flight -= events;
        subscription.grant(step);
    }
}

impl Subscription {
    /// Grants free credit to the partitions whose offers are due earliest, then to those that have
    /// nothing yet.
    pub(in crate::engine) fn grant(&mut self, step: &mut Step<'_>) {
        while let Some((partition, offer)) = self.earliest_offer() {
            let free = self.free();
            // A quarter of the window each, so that partitions of several shards work at once.
            let bytes = self.free_bytes().min(GRANT_BYTES);
            if free == 0 || bytes == 0 {
                return self.call_back(step);
            }
            if self.out_batches >= limits::SUBSCRIPTION_OUT_BATCHES {
                return;
            }
            let events = offer.ready.min(free).min(limits::GRANT_EVENTS);
            self.grant_to(step, partition, events, bytes, false);
        }
        let Some((events, bytes)) = self.staying else { return };
        while let Some(partition) = self.idle.first().copied() {
            let has_room = events <= self.free() && bytes <= self.free_bytes();
            if !has_room || self.out_batches >= limits::SUBSCRIPTION_OUT_BATCHES {
                return;
            }
            self.idle.remove(&partition);
            self.waiting.insert(partition);
            self.grant_to(step, partition, events, bytes, true);
        }
    }

    /// What is granted and has found nothing is wanted elsewhere.
    fn call_back(&mut self, step: &mut Step<'_>) {
        for partition in std::mem::take(&mut self.waiting) {
            let back = MeshMessage::CallBack { subscription: self.id, partition };
            step.send(step.owner(partition), back);
        }
    }

    fn grant_to(
        &mut self,
        step: &mut Step<'_>,
        partition: PartitionId,
        events: u32,
        bytes: u64,
        stays: bool,
    ) {
        let source = self.source(partition);
        assert_eq!(source.granted, 0, "one grant per partition");
        source.offer = None;
        source.granted = events;
        source.granted_bytes = bytes;
        self.granted += events;
        self.granted_bytes += bytes;
        assert!(self.in_flight + self.granted <= self.credit, "credit is never exceeded");
        let grant = MeshMessage::Grant { subscription: self.id, partition, events, bytes, stays };
        step.send(step.owner(partition), grant);
    }

    /// What a driver has sent makes room for more.
    pub(in crate::engine) fn sent(&mut self, bytes: u64, batches: u32) {
        self.out_bytes = self.out_bytes.checked_sub(bytes).expect("sent bytes were delivered");
        self.out_batches = self.out_batches.checked_sub(batches).expect("sent was delivered");
    }

    /// Tells every partition that the member is gone.
    pub(in crate::engine) fn leave(self, step: &mut Step<'_>) {
        for partition in self.sources.keys() {
            let leave = MeshMessage::Leave { subscription: self.id, partition: *partition };
            step.send(step.owner(*partition), leave);
        }
    }

    /// Sends what a partition has handed out. What the clock has gone back behind on the way here
    /// goes back to it: here it would outlive its lease.
    fn deliver(
        &mut self,
        step: &mut Step<'_>,
        partition: PartitionId,
        mut deliveries: Vec<Delivery>,
    ) {
        self.in_flight += deliveries.len() as u32;
        let wall = step.now.wall_ms();
        let early = |delivery: &mut Delivery| delivery.event.schedule_ts > wall;
        let events: Vec<_> = deliveries
            .extract_if(.., early)
            .map(|delivery| (delivery.event.position(), delivery.attempt))
            .collect();
        if !events.is_empty() {
            let subscription = self.id;
            let back = MeshMessage::GiveBack { subscription, partition, events };
            step.send(step.owner(partition), back);
        }
        self.send(step, deliveries);
    }

    fn send(&mut self, step: &mut Step<'_>, deliveries: Vec<Delivery>) {
        if deliveries.is_empty() {
            return;
        }
        let (mut bytes, mut not_before) = (0, 0);
        for delivery in &deliveries {
            bytes += delivery.event.size();
            not_before = not_before.max(delivery.event.schedule_ts);
            step.stats.delivered += 1;
            if delivery.attempt > 1 {
                step.stats.redelivered += 1;
            } else {
                let due_us = delivery.event.position().due * 1_000;
                let late = step.now.wall_us.saturating_sub(due_us);
                step.stats.lateness_us.saturating_record(late.max(1));
            }
        }
        self.out_bytes += bytes;
        self.out_batches += 1;
        let (to, subscription, group) = (self.caller, self.id, self.group.clone());
        step.effects.push(Effect::Deliver {
            to,
            subscription,
            group,
            deliveries,
            bytes,
            not_before,
        });
    }

    fn earliest_offer(&self) -> Option<(PartitionId, Offer)> {
        self.sources
            .iter()
            .filter_map(|(partition, source)| source.offer.map(|offer| (*partition, offer)))
            .min_by_key(|(_, offer)| offer.earliest)
    }

    fn free(&self) -> u32 {
        self.credit - self.in_flight - self.granted
    }

    fn free_bytes(&self) -> u64 {
        limits::SUBSCRIPTION_OUT_BYTES.saturating_sub(self.out_bytes + self.granted_bytes)
    }

    fn source(&mut self, partition: PartitionId) -> &mut Source {
        self.sources.get_mut(&partition).expect("a partition speaks to its own members only")
    }
}

/// What each of so many partitions is granted before it has something: of half the credit, so that
/// what is offered is never without. `None`: nothing, there are too many for that.
fn staying_share(credit: u32, partitions: usize) -> Option<(u32, u64)> {
    let events = (credit as usize / 2 / partitions) as u32;
    let bytes = STAYING_BYTES / partitions as u64;
    let is_worth_it = events > 0 && bytes >= STAYING_BYTES_MIN;
    is_worth_it.then_some((events.min(limits::GRANT_SMALL), bytes))
}

/// The partitions a stream reads, checked against the number there are.
pub(super) fn partitions_of(set: &PartitionSet, count: u16) -> Result<Vec<PartitionId>, ApiError> {
    match set {
        PartitionSet::All => Ok((0..count).map(PartitionId).collect()),
        PartitionSet::These(list) => {
            let mut list = list.clone();
            list.sort_unstable();
            list.dedup();
            match list.iter().find(|partition| partition.0 >= count) {
                Some(bad) => Err(unknown_partition(*bad, count)),
                None if list.is_empty() => Err(ApiError::invalid("partitions: name at least one")),
                None => Ok(list),
            }
        }
    }
}

/// The answer to a partition number that does not exist.
pub(super) fn unknown_partition(partition: PartitionId, count: u16) -> ApiError {
    let text = format!("partition_id {partition} does not exist: there are {count} partitions");
    ApiError::invalid(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_granted_leaves_half_of_the_credit_and_a_part_of_the_window() {
        assert_eq!(staying_share(1, 1), None, "credit 1 is one event, wherever it is");
        assert_eq!(staying_share(2, 1), Some((1, STAYING_BYTES)));
        assert_eq!((staying_share(31, 16), staying_share(32, 16).map(|s| s.0)), (None, Some(1)));
        let most = limits::GRANT_SMALL;
        assert_eq!(staying_share(32 * most - 1, 16).map(|s| s.0), Some(most - 1));
        assert_eq!(staying_share(limits::CREDIT_MAX, 16).map(|s| s.0), Some(most));
        let partitions = (STAYING_BYTES / STAYING_BYTES_MIN) as usize;
        let least = Some((most, STAYING_BYTES_MIN));
        assert_eq!(staying_share(limits::CREDIT_MAX, partitions), least);
        assert_eq!(staying_share(limits::CREDIT_MAX, partitions + 1), None);
    }
}
