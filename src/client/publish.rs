//! Publishing: one event, or many, each to the shard that owns its partition.
//!
//! A batch is cut by owner (and by the server's limits), the parts travel at the same time, and the
//! results come back in the order of the events. Events of one partition stay in one part, unless
//! a limit cuts it, so they are stored together and in order.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, encoded_len_varint};
use tokio::task::JoinSet;

use super::error::ClientError;
use super::event::Published;
use super::link::Link;
use super::topology::Topology;
use super::{Client, Request, expect};
use crate::base::ids::ShardId;
use crate::wire::events::{Event, PublishBatchResponse, PublishRequest, PublishResponse};
use crate::wire::kind::FrameKind;

/// Field numbers of `PublishBatchRequest`.
const EVENTS: u32 = 1;
const ALLOW_DUPLICATE: u32 = 2;
/// Bytes kept free in a part for what is not an event.
const PART_SPARE: usize = 16;

/// How to publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Store the event even if its id was published before; the id keeps naming the first one.
    pub allow_duplicate: bool,
}

impl Client {
    /// Publishes one event: durable when this returns. Of an id that was published before, the
    /// answer is the place of the first, marked as a duplicate.
    pub async fn publish(&self, event: Event) -> Result<Published, ClientError> {
        self.publish_with(event, PublishOptions::default()).await
    }

    /// Publishes one event with options.
    pub async fn publish_with(
        &self,
        event: Event,
        options: PublishOptions,
    ) -> Result<Published, ClientError> {
        let topology = self.topology();
        let owner = topology.owner(topology.partition_of(event.routing_key()));
        let link = self.link(owner);
        let message =
            PublishRequest { event: Some(event), allow_duplicate: options.allow_duplicate };
        let request = self.request(&link, FrameKind::Publish, message.encoded_len());
        let answer = request.call(|out| message.encode_raw(out)).await?;
        let body = expect(answer, FrameKind::Published)?;
        Published::from_response(PublishResponse::decode(body).map_err(ClientError::answer)?)
    }

    /// Publishes events of any topics and partitions; returns one result per event, in order. Any
    /// number: what is more than the server takes at once is cut into several requests.
    pub async fn publish_batch(&self, events: Vec<Event>) -> Vec<Result<Published, ClientError>> {
        self.publish_batch_with(events, PublishOptions::default()).await
    }

    /// Publishes events with options.
    pub async fn publish_batch_with(
        &self,
        events: Vec<Event>,
        options: PublishOptions,
    ) -> Vec<Result<Published, ClientError>> {
        let (mut parts, refused) = cut(&self.topology(), &events, options);
        let mut results = vec![None; events.len()];
        for (index, error) in refused {
            results[index as usize] = Some(Err(error));
        }
        // The encoded parts are all that is needed from here on.
        drop(events);
        // The last part needs no task: a batch for one shard has no other.
        let last = parts.pop();
        let mut sending = JoinSet::new();
        for part in parts {
            let client = self.clone();
            sending.spawn(async move { part.send(&client).await });
        }
        if let Some(part) = last {
            part.send(self).await.spread(&mut results);
        }
        while let Some(sent) = sending.join_next().await {
            // A task that was aborted leaves its results open, and they fail below.
            if let Ok(sent) = sent {
                sent.spread(&mut results);
            }
        }
        let lost = || Err(ClientError::unknown("the request was given up"));
        results.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
    }
}

/// Events for one shard, encoded.
#[derive(Debug)]
struct Part {
    shard: ShardId,
    /// Places of its events in the caller's batch.
    indexes: Vec<u32>,
    body: BytesMut,
}

/// A part and what became of it.
struct SentPart {
    indexes: Vec<u32>,
    outcome: Result<PublishBatchResponse, ClientError>,
}

/// Encodes events into parts. Second: events that are too large for any message.
fn cut(
    topology: &Topology,
    events: &[Event],
    options: PublishOptions,
) -> (Vec<Part>, Vec<(u32, ClientError)>) {
    let (mut parts, mut refused): (Vec<Part>, _) = (Vec::new(), Vec::new());
    // The part that is being filled, for each shard.
    let mut filling = vec![None; usize::from(topology.shards())];
    for (index, event) in events.iter().enumerate() {
        let bytes = event.encoded_len();
        let bytes = 1 + encoded_len_varint(bytes as u64) + bytes;
        let limit = topology.message_bytes.saturating_sub(PART_SPARE);
        if bytes > limit {
            let what = format!("event of {bytes} bytes exceeds {limit} of a message");
            refused.push((index as u32, ClientError::invalid(what)));
            continue;
        }
        let shard = topology.owner(topology.partition_of(event.routing_key()));
        let open = &mut filling[usize::from(shard.0)];
        let full = |part: &Part| {
            part.indexes.len() >= topology.batch_events || part.body.len() + bytes > limit
        };
        let at = match *open {
            Some(at) if !full(&parts[at]) => at,
            _ => {
                parts.push(Part { shard, indexes: Vec::new(), body: BytesMut::new() });
                *open.insert(parts.len() - 1)
            }
        };
        encoding::message::encode(EVENTS, event, &mut parts[at].body);
        parts[at].indexes.push(index as u32);
    }
    if options.allow_duplicate {
        for part in &mut parts {
            encoding::bool::encode(ALLOW_DUPLICATE, &true, &mut part.body);
        }
    }
    (parts, refused)
}

impl Part {
    async fn send(self, client: &Client) -> SentPart {
        let link: Arc<Link> = client.link(self.shard);
        let request = client.request(&link, FrameKind::PublishBatch, self.body.len());
        let outcome = Self::call(request, self.body.freeze()).await;
        SentPart { indexes: self.indexes, outcome }
    }

    async fn call(request: Request<'_>, body: Bytes) -> Result<PublishBatchResponse, ClientError> {
        let answer = request.call(|out| out.extend_from_slice(&body)).await?;
        let body = expect(answer, FrameKind::PublishedBatch)?;
        PublishBatchResponse::decode(body).map_err(ClientError::answer)
    }
}

impl SentPart {
    /// Puts the results where their events were in the caller's batch.
    fn spread(self, results: &mut [Option<Result<Published, ClientError>>]) {
        let outcome = self.outcome.and_then(|response| {
            let (got, asked) = (response.results.len(), self.indexes.len());
            if got == asked {
                return Ok(response.results);
            }
            Err(ClientError::answer(format_args!("{got} results for {asked} events")))
        });
        match outcome {
            Ok(outcomes) => {
                for (index, outcome) in self.indexes.iter().zip(outcomes) {
                    results[*index as usize] = Some(Published::from_result(outcome));
                }
            }
            Err(error) => {
                for index in self.indexes {
                    results[index as usize] = Some(Err(error.clone()));
                }
            }
        }
    }
}
