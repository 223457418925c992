//! The Ack stream: verdicts in, one answer each, in order.
//!
//! What has come while the last verdicts were under way goes to the shards as one request, so a
//! client that does not wait for its answers gets as many acks per commit as it sends. A verdict
//! that can't be taken is an answer, never the end of the stream.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_lite::future::poll_once;
use tonic::{Code, Status, Streaming};

use super::shutting_down;
use crate::base::api::{AckOutcome, AckSpec, Reply, Request};
use crate::base::ids::Offset;
use crate::base::limits;
use crate::control::Bridge;
use crate::control::door::Door;
use crate::wire::events::AckRequest;
use crate::wire::{reply, request};

/// One stream of verdicts and its answers.
pub(super) struct Acks<D: Door> {
    bridge: Bridge<D>,
    requests: Streaming<AckRequest>,
    /// Encoded and not yet taken, in order.
    ready: VecDeque<Bytes>,
    /// How the stream ends once all is answered.
    end: Option<Status>,
    ended: bool,
}

impl<D: Door> Acks<D> {
    pub(super) fn new(bridge: Bridge<D>, requests: Streaming<AckRequest>) -> Self {
        Self { bridge, requests, ready: VecDeque::new(), end: None, ended: false }
    }

    /// The next answer, or the status that ends the stream; `None` behind the last.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Some(Ok(answer));
            }
            if self.ended {
                return None;
            }
            if let Some(end) = self.end.take() {
                self.finish(end.code());
                return (end.code() != Code::Ok).then_some(Err(end));
            }
            let verdicts = self.read().await;
            if !verdicts.is_empty() {
                let outcomes = self.judge(verdicts).await;
                let mut out = BytesMut::new();
                for outcome in &outcomes {
                    reply::encode_acked(&mut out, outcome);
                    self.ready.push_back(out.split().freeze());
                }
            }
        }
    }

    /// Waits for a verdict (for hours, if need be) and takes all that have come with it. None: the
    /// stream ends.
    async fn read(&mut self) -> Vec<AckSpec> {
        let mut verdicts = Vec::new();
        let bridge = self.bridge.clone();
        let mut came = tokio::select! {
            biased;
            came = self.requests.message() => came,
            () = bridge.stopped() => Err(shutting_down()),
        };
        loop {
            match came {
                Ok(Some(verdict)) => verdicts.push(request::ack(&verdict)),
                Ok(None) => {
                    self.end = Some(Status::ok(""));
                    break;
                }
                Err(status) => {
                    self.end = Some(status);
                    break;
                }
            }
            if verdicts.len() == limits::ACK_BATCH {
                break;
            }
            match poll_once(self.requests.message()).await {
                Some(next) => came = next,
                None => break,
            }
        }
        verdicts
    }

    /// One outcome per verdict, in order.
    async fn judge(&self, verdicts: Vec<AckSpec>) -> Vec<AckOutcome> {
        let doors = &self.bridge.doors;
        let count = verdicts.len();
        let partition = verdicts.iter().find_map(|verdict| Some(verdict.id.as_ref()?.partition));
        let door = partition.map_or_else(|| doors.any(), |partition| doors.of(partition));
        match door.call(Request::Ack(verdicts)).await {
            Ok(Reply::Acked(outcomes)) => {
                assert_eq!(outcomes.len(), count, "each verdict has one outcome");
                outcomes
            }
            Ok(reply) => unreachable!("asked for verdicts, answered {reply:?}"),
            Err(error) => {
                let failed = AckOutcome { result: Err(error), committed_offset: Offset(0) };
                vec![failed; count]
            }
        }
    }

    fn finish(&mut self, code: Code) {
        self.ended = true;
        self.bridge.metrics.request("Ack", code, None);
    }
}

impl<D: Door> Drop for Acks<D> {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(Code::Cancelled);
        }
    }
}
