//! A member's stream of deliveries. It outlives its connection: when that is lost, or the server
//! shuts down, `next` connects again with backoff and goes on where the group is.
//!
//! Frames that have come and are not taken wait in memory; the credit bounds them, so ask for no
//! more than the memory for so many events. Deliveries in hand when the connection was lost can
//! still be acknowledged; some of them will come again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, sleep_until};

use super::ack::{AckSummary, AckTally};
use super::error::ClientError;
use super::link::Backoff;
use super::{Client, FrameStream};
use crate::base::api::Start;
use crate::base::ids::PartitionId;
use crate::base::limits;
use crate::wire::events::{self, Event, SubscribeRequest};
use crate::wire::frame::Frame;
use crate::wire::kind::FrameKind;
use crate::wire::native;

/// What to subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Only events of this topic.
    pub topic: String,
    /// The group whose members share them. Made by its first subscription.
    pub group: String,
    /// Name of this member, for people.
    pub member: String,
    /// Only these partitions; none means all.
    pub partitions: Vec<PartitionId>,
    /// Where the group starts if it does not exist yet.
    pub start: Start,
    /// Deliveries in flight, 1 to 50,000: how many may be worked on and wait in memory here.
    pub credit: u32,
}

impl SubscribeOptions {
    /// All partitions, from the beginning if the group is new, with the default credit.
    pub fn new(topic: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            group: group.into(),
            member: String::new(),
            partitions: Vec::new(),
            start: Start::Beginning,
            credit: limits::CREDIT_DEFAULT,
        }
    }

    /// As it goes over the wire, also for callers of [`super::Connection::open_stream`].
    #[must_use]
    pub fn request(&self) -> SubscribeRequest {
        SubscribeRequest {
            consumer_group: self.group.clone(),
            topic: self.topic.clone(),
            start_offset: match self.start {
                Start::Beginning => 0,
                Start::Offset(offset) => i64::try_from(offset.0).unwrap_or(i64::MAX),
                Start::Now => -1,
            },
            max_buffer_size: self.credit.clamp(1, limits::CREDIT_MAX) as i32,
            subscription_id: self.member.clone(),
            partitions: self.partitions.iter().map(|partition| i32::from(partition.0)).collect(),
            ..SubscribeRequest::default()
        }
    }
}

/// One hand-over of an event to this member.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The event, with its partition and offset.
    pub event: Event,
    /// Names the delivery in a verdict.
    pub delivery_id: String,
    /// From 1.
    pub attempt: u32,
    /// Time for the verdict, from when the server sent it.
    pub ack_timeout: Duration,
}

impl Delivery {
    /// The event's partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        PartitionId(u16::try_from(self.event.partition_id).unwrap_or(u16::MAX))
    }

    fn from_wire(delivery: events::Delivery) -> Result<Self, ClientError> {
        let event = delivery.event.ok_or_else(|| ClientError::answer("a delivery of no event"))?;
        Ok(Self {
            event,
            delivery_id: delivery.delivery_id,
            attempt: u32::try_from(delivery.attempt).unwrap_or(1),
            ack_timeout: Duration::from_millis(u64::try_from(delivery.ack_timeout_ms).unwrap_or(0)),
        })
    }
}

/// A member's open stream. Dropped, it ends, and what it had in hand goes to other members.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    options: SubscribeOptions,
    stream: Option<FrameStream>,
    ready: VecDeque<Delivery>,
    tally: Arc<AckTally>,
    backoff: Backoff,
    /// No attempt to subscribe again before this.
    retry_at: Option<Instant>,
    reconnects: u64,
    ended: bool,
}

impl Client {
    /// Opens a subscription. Fails if the server refuses it or can't be reached now; once it has
    /// been open, it goes on by itself.
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, ClientError> {
        let mut subscription = Subscription {
            client: self.clone(),
            options,
            stream: None,
            ready: VecDeque::new(),
            tally: Arc::default(),
            backoff: Backoff::default(),
            retry_at: None,
            reconnects: 0,
            ended: false,
        };
        let mut stream = subscription.open().await?;
        // Deliveries may come before `Subscribed`; either way it is open then.
        match stream.next().await {
            Some(Ok(frame)) => subscription.take(frame)?,
            Some(Err(error)) => return Err(error),
            None => return Err(ClientError::answer("the subscription ended as it began")),
        }
        subscription.stream = Some(stream);
        Ok(subscription)
    }
}

impl Subscription {
    /// The next delivery. Waits as long as it takes, over lost connections too. `None` if the
    /// server has ended the subscription; an error (it refuses to open it again) is the last item.
    /// Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, ClientError>> {
        match self.fill().await? {
            Ok(()) => self.ready.pop_front().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// All deliveries that are here, at least one: as `next`, for consumers that work in batches.
    pub async fn next_batch(&mut self) -> Option<Result<Vec<Delivery>, ClientError>> {
        match self.fill().await? {
            Ok(()) => Some(Ok(std::mem::take(&mut self.ready).into())),
            Err(error) => Some(Err(error)),
        }
    }

    /// Settles a delivery, see [`Client::ack`]. Concurrent acks share frames and commits: ack many
    /// at once (from tasks with a clone of the client, or with [`Subscription::ack_later`]).
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), ClientError> {
        self.client.ack(delivery).await
    }

    /// Gives a delivery back, see [`Client::nack`].
    pub async fn nack(
        &self,
        delivery: &Delivery,
        delay: Option<Duration>,
        reason: &str,
    ) -> Result<(), ClientError> {
        self.client.nack(delivery, delay, reason).await
    }

    /// Asks for more time, see [`Client::extend`].
    pub async fn extend(&self, delivery: &Delivery, by: Duration) -> Result<(), ClientError> {
        self.client.extend(delivery, by).await
    }

    /// Acks without waiting for the confirmation, which [`Subscription::settled`] collects. Waits
    /// only while very many acks are queued.
    pub async fn ack_later(&self, delivery: &Delivery) -> Result<(), ClientError> {
        self.client.ack_later(delivery, &self.tally).await
    }

    /// Waits until every [`Subscription::ack_later`] is answered; tells what became of those since
    /// the last call.
    pub async fn settled(&self) -> AckSummary {
        self.tally.settled().await
    }

    /// How often the stream was opened again after it was lost.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// Makes sure that a delivery is here.
    async fn fill(&mut self) -> Option<Result<(), ClientError>> {
        while self.ready.is_empty() {
            if self.ended {
                return None;
            }
            if let Err(error) = self.advance().await {
                if !error.is_retryable() {
                    self.ended = true;
                    return Some(Err(error));
                }
                self.stream = None;
                self.retry_at = Some(Instant::now() + self.backoff.next());
            }
        }
        Some(Ok(()))
    }

    /// One frame more, or the stream open again.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let Some(stream) = &mut self.stream else {
            if let Some(at) = self.retry_at {
                sleep_until(at).await;
            }
            self.stream = Some(self.open().await?);
            self.reconnects += 1;
            return Ok(());
        };
        if let Some(frame) = stream.next().await {
            return self.take(frame?);
        }
        self.ended = true;
        Ok(())
    }

    async fn open(&self) -> Result<FrameStream, ClientError> {
        let link = self.client.link(self.client.shard_for(&self.options.partitions));
        let connection = link.connection().await?;
        connection.open_stream(FrameKind::Subscribe, &self.options.request())
    }

    fn take(&mut self, frame: Frame) -> Result<(), ClientError> {
        self.backoff.reset();
        match frame.kind {
            FrameKind::Subscribed => Ok(()),
            FrameKind::Deliveries => {
                let message =
                    native::Deliveries::decode(frame.body).map_err(ClientError::answer)?;
                for delivery in message.deliveries {
                    self.ready.push_back(Delivery::from_wire(delivery)?);
                }
                Ok(())
            }
            other => Err(ClientError::answer(format_args!("{other:?} on a subscription"))),
        }
    }
}

#[cfg(test)]
impl Subscription {
    pub(super) fn client_for_tests(&self) -> &Client {
        &self.client
    }

    pub(super) fn lose_stream_for_tests(&mut self) {
        self.stream = None;
    }
}
