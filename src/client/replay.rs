//! Replay: history as a stream. Moves no group and returns nothing that is not due yet.
//!
//! Each replay has a connection of its own, so that the server reads as fast as the caller takes
//! the events, and a slow caller holds up nothing else. A caller that takes none for 30 s is cut
//! off by the server and gets `Unknown`; it may begin again behind the last event it got.

use std::collections::VecDeque;

use prost::Message;

use super::error::ClientError;
use super::{Client, FrameStream};
use crate::base::api::ReplayRange;
use crate::base::ids::PartitionId;
use crate::wire::events::{Event, ReplayRequest};
use crate::wire::frame::Frame;
use crate::wire::kind::FrameKind;
use crate::wire::native;

/// What to replay.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayOptions {
    /// Only this topic.
    pub topic: String,
    /// Only these partitions; none means all.
    pub partitions: Vec<PartitionId>,
    /// Which events. An offset range with count 0 means 1,000.
    pub range: ReplayRange,
    /// 0: as fast as the caller takes them; k: k times the original spacing.
    pub speed: f64,
}

impl ReplayOptions {
    /// All of a topic's past, from all partitions in order of `schedule_ts`, as fast as it goes.
    pub fn new(topic: impl Into<String>) -> Self {
        let range = ReplayRange::Time { start: 1, end: None };
        Self { topic: topic.into(), partitions: Vec::new(), range, speed: 0.0 }
    }

    fn request(&self) -> ReplayRequest {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let request = ReplayRequest {
            topic: self.topic.clone(),
            partitions: self.partitions.iter().map(|partition| i32::from(partition.0)).collect(),
            speed: self.speed,
            ..ReplayRequest::default()
        };
        match self.range {
            // A start of 0 would ask for offset mode; nothing is scheduled before 1.
            ReplayRange::Time { start, end } => ReplayRequest {
                start_ts: number(start.max(1)),
                end_ts: end.map_or(0, |end| number(end.max(1))),
                ..request
            },
            ReplayRange::Offsets { start, count } => {
                ReplayRequest { start_offset: number(start.0), count: number(count), ..request }
            }
        }
    }
}

/// An event of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The event, with its partition and offset.
    pub event: Event,
    /// Its number in this stream, from 0.
    pub index: u64,
}

/// A replay under way. Dropped, it ends.
#[derive(Debug)]
pub struct ReplayStream {
    frames: FrameStream,
    ready: VecDeque<Replayed>,
}

impl Client {
    /// Opens a replay.
    pub async fn replay(&self, options: ReplayOptions) -> Result<ReplayStream, ClientError> {
        let shard = self.shard_for(&options.partitions);
        let topology = self.topology();
        let addr = topology.address(shard).unwrap_or(&self.inner.addr);
        let connection = self.new_link(addr).connection().await?;
        let frames = connection.open_stream(FrameKind::Replay, &options.request())?;
        Ok(ReplayStream { frames, ready: VecDeque::new() })
    }
}

impl ReplayStream {
    /// The next event; `None` after the last. An error is the last item. Cancelling the future
    /// loses nothing.
    pub async fn next(&mut self) -> Option<Result<Replayed, ClientError>> {
        while self.ready.is_empty() {
            let events = match self.frames.next().await? {
                Ok(frame) => decode(frame),
                Err(error) => Err(error),
            };
            match events {
                Ok(events) => self.ready.extend(events),
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

fn decode(frame: Frame) -> Result<Vec<Replayed>, ClientError> {
    // Says that the stream is open; the protocol asks for it after Subscribe only.
    if frame.kind == FrameKind::Subscribed {
        return Ok(Vec::new());
    }
    let body = super::expect(frame, FrameKind::ReplayEvents)?;
    let events = native::ReplayEvents::decode(body).map_err(ClientError::answer)?.events;
    let replayed = events.into_iter().map(|replayed| {
        let event = replayed.event.ok_or_else(|| ClientError::answer("a replay without an event"));
        Ok(Replayed { event: event?, index: u64::try_from(replayed.replay_offset).unwrap_or(0) })
    });
    replayed.collect()
}
