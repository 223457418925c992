//! EventService: publishes as bytes through the scanner, streams through [`Outgoing`] and [`Acks`].
//!
//! What the API calls a failed publish (a broken rule, a duplicate) is an answer with
//! `success = false`; what a retry may cure is a gRPC status. `wire::reply` knows which is which.

use std::pin::Pin;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_lite::stream::{Stream, unfold};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use super::acks::Acks;
use super::outgoing::Outgoing;
use super::status;
use crate::base::api::{self, EventOutcome, Reply};
use crate::base::error::ApiError;
use crate::base::time;
use crate::control::Bridge;
use crate::control::door::Door;
use crate::wire::events::event_service_server::EventService;
use crate::wire::events::{AckRequest, ReplayRequest, SubscribeRequest};
use crate::wire::{publish, reply, request};

/// Encoded messages, then the end or a status.
pub type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The service on the node's shards.
#[derive(Debug)]
pub struct Events<D> {
    bridge: Bridge<D>,
}

impl<D: Door> Events<D> {
    /// Over this bridge.
    pub fn new(bridge: Bridge<D>) -> Self {
        Self { bridge }
    }

    /// Runs a call with one answer, and counts it.
    async fn unary(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<Bytes, Status>>,
    ) -> Result<Response<Bytes>, Status> {
        let since = Instant::now();
        let result = call.await;
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.bridge.metrics.request(method, code, Some(since.elapsed()));
        result.map(Response::new)
    }

    async fn published(&self, message: Bytes, batch: bool) -> Result<Bytes, Status> {
        let message =
            publish::scan(message, batch, time::wall_ms()).map_err(|error| status(&error))?;
        let door = self.bridge.doors.of_message(&message);
        let outcomes = match door.call(api::Request::Publish(message)).await {
            Ok(Reply::Published { outcomes, .. }) => outcomes,
            Ok(reply) => unreachable!("asked to publish, answered {reply:?}"),
            Err(error) if batch => return Err(status(&error)),
            Err(error) => vec![EventOutcome::Failed(Box::new(error))],
        };
        if let Some(error) = cured_by_retry(&outcomes) {
            return Err(status(error));
        }
        let mut answer = BytesMut::new();
        reply::encode_published(&mut answer, batch, &outcomes);
        Ok(answer.freeze())
    }
}

/// The first error, if nothing was stored or recognised and every error is one that a retry may
/// cure: then the call as a whole is a status. Else each event has its own result.
fn cured_by_retry(outcomes: &[EventOutcome]) -> Option<&ApiError> {
    let mut first = None;
    for outcome in outcomes {
        match outcome {
            EventOutcome::Failed(error) if reply::is_status(error.code) => {
                first = first.or(Some(error.as_ref()));
            }
            _ => return None,
        }
    }
    first
}

#[async_trait]
impl<D: Door> EventService for Events<D> {
    type SubscribeStream = Answers;
    type AckStream = Answers;
    type ReplayStream = Answers;

    async fn publish(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.unary("Publish", self.published(request.into_inner(), false)).await
    }

    async fn publish_batch(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.unary("PublishBatch", self.published(request.into_inner(), true)).await
    }

    /// Answers before the first request is there: some clients send it only then.
    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let bounds = self.bridge.bounds;
        let opening = async move {
            let Some(first) = requests.message().await? else {
                return Err(Status::invalid_argument("the stream ended without a request"));
            };
            let spec = request::subscribe(&first, &bounds).map_err(|error| status(&error))?;
            Ok(api::Request::Subscribe(spec))
        };
        let outgoing = Outgoing::new(self.bridge.clone(), "Subscribe", Box::pin(opening));
        Ok(Response::new(answers(outgoing)))
    }

    async fn ack(
        &self,
        request: Request<Streaming<AckRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let acks = Acks::new(self.bridge.clone(), request.into_inner());
        let answers = unfold(acks, |mut acks| async move { Some((acks.next().await?, acks)) });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn replay(&self, request: Request<ReplayRequest>) -> Result<Response<Answers>, Status> {
        let spec = request::replay(request.get_ref(), &self.bridge.bounds);
        let opening = async move { spec.map(api::Request::Replay).map_err(|error| status(&error)) };
        let outgoing = Outgoing::new(self.bridge.clone(), "Replay", Box::pin(opening));
        Ok(Response::new(answers(outgoing)))
    }
}

fn answers<D: Door>(outgoing: Outgoing<D>) -> Answers {
    Box::pin(unfold(
        outgoing,
        |mut outgoing| async move { Some((outgoing.next().await?, outgoing)) },
    ))
}
