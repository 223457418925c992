//! The front of a shard: requests of its sessions that wait for answers, and their streams.
//!
//! Promises: every request is answered exactly once; the tables are bounded, and a request is only
//! taken while both have room, so that an answer always has a place.
//!
//! The stories themselves are in `flow/`: each file there has a front half (`impl Front`) and an
//! owner half (`impl Partition`), which talk by [`MeshMessage`] even on one shard.

use std::collections::{BTreeMap, BTreeSet};

use super::flow::ack::OpenAck;
use super::flow::publish::OpenPublish;
use super::flow::query::OpenStatus;
use super::flow::replay::ReplayStream;
use super::flow::subscribe::Subscription;
use super::flow::topic::OpenTopic;
use super::mesh::MeshMessage;
use super::step::Step;
use crate::base::api::Request;
use crate::base::ids::{Caller, SessionId, ShardId, SubscriptionId};
use crate::base::limits;

/// A request with answers outstanding.
#[derive(Debug)]
pub enum Open {
    /// See `flow::publish`.
    Publish(OpenPublish),
    /// See `flow::ack`.
    Ack(OpenAck),
    /// See `flow::query`.
    Status(OpenStatus),
    /// See `flow::topic`.
    Topic(OpenTopic),
}

/// A stream of a session.
#[derive(Debug)]
pub enum Stream {
    /// See `flow::subscribe`.
    Subscription(Subscription),
    /// See `flow::replay`.
    Replay(ReplayStream),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Front {
    open: Vec<Option<Open>>,
    free: Vec<u32>,
    streams: BTreeMap<SubscriptionId, Stream>,
    by_caller: BTreeMap<Caller, SubscriptionId>,
    /// Streams that wait for time.
    timed: BTreeSet<SubscriptionId>,
    last_stream: u64,
    /// Shards whose jobs are far behind.
    pub(super) behind: BTreeSet<ShardId>,
}

impl Front {
    /// Whether one more request finds room in both tables.
    pub fn has_room(&self) -> bool {
        self.open_requests() < limits::OPEN_REQUESTS && self.streams.len() < limits::OPEN_STREAMS
    }

    /// Whether no shard's jobs are so far behind that publishes have to wait.
    pub fn takes_publishes(&self) -> bool {
        // Known bad: memory grows for as long as producers are faster than jobs.
        self.behind.is_empty() || cfg!(bug_never_hold_back)
    }

    /// Requests without an answer.
    pub fn open_requests(&self) -> usize {
        self.open.len() - self.free.len()
    }

    /// Open streams.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// A session asks.
    pub fn request(&mut self, step: &mut Step<'_>, from: Caller, request: Request) {
        match request {
            Request::Publish(message) => self.publish(step, from, message),
            Request::Ack(acks) => self.ack(step, from, acks),
            Request::Subscribe(spec) => self.subscribe(step, from, &spec),
            Request::Replay(spec) => self.replay(step, from, spec),
            Request::CloseStream { correlation } => {
                let caller = Caller { session: from.session, correlation };
                self.close_stream(step, caller);
            }
            Request::Partitions(partition) => self.status(step, from, partition),
            Request::Topic(spec) => self.topic(step, from, &spec),
        }
    }

    /// A partition answers, or offers.
    pub fn hear(&mut self, step: &mut Step<'_>, message: MeshMessage) {
        match message {
            MeshMessage::Published { request, partition, outcomes } => {
                self.published(step, request, partition, outcomes);
            }
            MeshMessage::Acked { request, outcomes } => self.acked(step, request, outcomes),
            MeshMessage::StatusIs { request, partitions } => {
                self.status_is(step, request, partitions);
            }
            MeshMessage::TopicIs { request, partition, result } => {
                self.topic_is(step, request, partition, result);
            }
            MeshMessage::Joined { subscription, partition, result } => {
                self.joined(step, subscription, partition, result);
            }
            MeshMessage::Offer { subscription, partition, offer } => {
                self.offered(step, subscription, partition, offer);
            }
            MeshMessage::Granted { subscription, partition, deliveries, offer } => {
                self.granted(step, subscription, partition, deliveries, offer);
            }
            MeshMessage::Credit { subscription, events } => {
                self.credit(step, subscription, events);
            }
            MeshMessage::Replayed { subscription, partition, events, next, error } => {
                self.replayed(step, subscription, partition, events, next, error);
            }
            other => unreachable!("a message for a partition reached the front: {other:?}"),
        }
    }

    /// The connection is gone: its streams end. Open requests stay until their answers are in.
    pub fn session_closed(&mut self, step: &mut Step<'_>, session: SessionId) {
        let first = Caller { session, correlation: 0 };
        let last = Caller { session, correlation: u64::MAX };
        let callers: Vec<Caller> = self.by_caller.range(first..=last).map(|(c, _)| *c).collect();
        for caller in callers {
            self.drop_stream(step, caller);
        }
    }

    /// Deliveries or replayed events have left for the socket.
    pub fn sent(&mut self, step: &mut Step<'_>, id: SubscriptionId, bytes: u64, batches: u32) {
        match self.streams.get_mut(&id) {
            Some(Stream::Subscription(subscription)) => {
                subscription.sent(bytes, batches);
                subscription.grant(step);
            }
            Some(Stream::Replay(replay)) => {
                replay.sent(bytes, batches);
                self.replay_on(step, id);
            }
            None => {} // closed while its last batch was on its way
        }
    }

    /// Takes a slot for a request.
    pub(super) fn open(&mut self, open: Open) -> u64 {
        if let Some(slot) = self.free.pop() {
            assert!(self.open[slot as usize].is_none(), "a free slot is empty");
            self.open[slot as usize] = Some(open);
            return u64::from(slot);
        }
        self.open.push(Some(open));
        (self.open.len() - 1) as u64
    }

    /// The request of a slot.
    pub(super) fn opened(&mut self, request: u64) -> &mut Open {
        self.open[request as usize].as_mut().expect("an answer belongs to an open request")
    }

    /// The last answer is in: the slot is free.
    pub(super) fn close(&mut self, request: u64) -> Open {
        let open = self.open[request as usize].take().expect("a request is closed once");
        self.free.push(request as u32);
        open
    }

    /// Registers a stream under a number that is never used again.
    pub(super) fn open_stream(
        &mut self,
        caller: Caller,
        make: impl FnOnce(SubscriptionId) -> Stream,
    ) -> SubscriptionId {
        self.last_stream += 1;
        let id = SubscriptionId(self.last_stream);
        self.streams.insert(id, make(id));
        let before = self.by_caller.insert(caller, id);
        assert!(before.is_none(), "a session's correlation id names one stream");
        id
    }

    /// Whether this caller has a stream already.
    pub(super) fn has_stream(&self, caller: Caller) -> bool {
        self.by_caller.contains_key(&caller)
    }

    /// The stream with this number, if it is still open.
    pub(super) fn stream(&mut self, id: SubscriptionId) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    /// Notes whether a stream waits for time.
    pub(super) fn note_time(&mut self, id: SubscriptionId, waits: bool) {
        if waits {
            self.timed.insert(id);
        } else {
            self.timed.remove(&id);
        }
    }

    /// Streams that wait for time, in order of their numbers.
    pub(super) fn timed(&self) -> impl Iterator<Item = (SubscriptionId, &Stream)> {
        self.timed.iter().map(|id| (*id, &self.streams[id]))
    }

    /// Ends a stream without a word to its session.
    pub(super) fn drop_stream(&mut self, step: &mut Step<'_>, caller: Caller) -> bool {
        let Some(id) = self.by_caller.remove(&caller) else { return false };
        let stream = self.streams.remove(&id).expect("the maps agree");
        self.timed.remove(&id);
        if let Stream::Subscription(subscription) = stream {
            subscription.leave(step);
        }
        true
    }

    fn close_stream(&mut self, step: &mut Step<'_>, caller: Caller) {
        if self.drop_stream(step, caller) {
            step.reply(caller, crate::base::api::Reply::StreamEnd(Ok(())));
        }
    }
}
