//! The answers of Subscribe and Replay: a shard's stream, encoded.
//!
//! One message of the shard is taken at a time, and the next only when the client's connection has
//! taken all of it: the engine sends no further than that. An event is never handed on while the
//! wall clock reads less than its `schedule_ts`. Dropping this (the client is gone) closes the
//! stream on the shard.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tonic::{Code, Status};

use super::{shutting_down, status};
use crate::base::api::Request;
use crate::base::time::wall_ms;
use crate::control::Bridge;
use crate::control::door::{Door, Messages, not_before};
use crate::shard::StreamMessage;
use crate::wire::delivery_id::DeliveryIds;
use crate::wire::reply;

/// Longest sleep between two looks at a clock that was set back.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Reads and checks the request that opens the stream.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Request, Status>> + Send>>;

/// One stream of answers.
pub(super) struct Outgoing<D: Door> {
    bridge: Bridge<D>,
    method: &'static str,
    state: State<D::Stream>,
    /// Encoded and not yet taken, in order.
    ready: VecDeque<Bytes>,
}

enum State<S> {
    Opening(Opening),
    Open(S),
    Ended,
}

impl<D: Door> Outgoing<D> {
    pub(super) fn new(bridge: Bridge<D>, method: &'static str, opening: Opening) -> Self {
        Self { bridge, method, state: State::Opening(opening), ready: VecDeque::new() }
    }

    /// The next encoded message, or the status that ends the stream; `None` behind the last.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(Ok(message));
            }
            if matches!(self.state, State::Ended) {
                return None;
            }
            let bridge = self.bridge.clone();
            let advanced = tokio::select! {
                biased;
                () = bridge.stopped() => Err(shutting_down()),
                advanced = self.advance() => advanced,
            };
            if let Err(end) = advanced {
                self.end(end.code());
                return (end.code() != Code::Ok).then_some(Err(end));
            }
        }
    }

    /// Opens the stream, or makes its next message ready. Its end is an error, a good one too.
    async fn advance(&mut self) -> Result<(), Status> {
        match &mut self.state {
            State::Opening(opening) => {
                let request = opening.await?;
                let opened = self.bridge.doors.any().open(request).await;
                self.state = State::Open(opened.map_err(|error| status(&error))?);
            }
            State::Open(stream) => {
                let message = stream.next().await.ok_or_else(shutting_down)?;
                if let Some(not_before) = not_before(&message) {
                    hold_until(not_before).await;
                }
                encode(&message, &mut self.ready)?;
            }
            State::Ended => {}
        }
        Ok(())
    }

    fn end(&mut self, code: Code) {
        self.state = State::Ended;
        self.bridge.metrics.request(self.method, code, None);
    }
}

impl<D: Door> Drop for Outgoing<D> {
    fn drop(&mut self) {
        if !matches!(self.state, State::Ended) {
            self.end(Code::Cancelled);
        }
    }
}

/// Returns once the wall clock reads `not_before`. It does so already, unless it was set back.
async fn hold_until(not_before: u64) {
    loop {
        let left = not_before.saturating_sub(wall_ms());
        if left == 0 {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN.min(Duration::from_millis(left))).await;
    }
}

fn encode(message: &StreamMessage, ready: &mut VecDeque<Bytes>) -> Result<(), Status> {
    let mut out = BytesMut::new();
    match message {
        StreamMessage::Opened => {}
        StreamMessage::Deliveries { group, deliveries, .. } => {
            let mut ids = DeliveryIds::of_group(group);
            for delivery in deliveries {
                reply::encode_delivery(&mut out, &mut ids, delivery);
                ready.push_back(out.split().freeze());
            }
        }
        StreamMessage::Replayed { events, .. } => {
            for replayed in events {
                reply::encode_replayed(&mut out, replayed);
                ready.push_back(out.split().freeze());
            }
        }
        StreamMessage::End(Ok(())) => return Err(Status::ok("")),
        StreamMessage::End(Err(error)) => return Err(status(error)),
    }
    Ok(())
}
