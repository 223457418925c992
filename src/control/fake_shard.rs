//! A shard played by a test: it answers calls with a function and streams with a list of messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::{Door, Messages};
use crate::base::api::{Reply, Request};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::ShardId;
use crate::engine::EngineStats;
use crate::shard::{Cuts, DriverCounts, ShardStats, StreamMessage};

type Answer = dyn Fn(Request) -> Result<Reply, ApiError> + Send + Sync;

/// Cheap to clone, as a gate is.
#[derive(Clone)]
pub struct FakeShard(Arc<Inner>);

struct Inner {
    number: u16,
    answer: Box<Answer>,
    streams: Mutex<VecDeque<Vec<StreamMessage>>>,
    asked: Mutex<Vec<Request>>,
    cuts: Mutex<Cuts>,
    dead: bool,
}

impl FakeShard {
    pub fn new(
        number: u16,
        answer: impl Fn(Request) -> Result<Reply, ApiError> + Send + Sync + 'static,
    ) -> Self {
        Self::make(number, Box::new(answer), false)
    }

    /// One that has ended.
    pub fn dead(number: u16) -> Self {
        Self::make(number, Box::new(|_| Err(ended())), true)
    }

    fn make(number: u16, answer: Box<Answer>, dead: bool) -> Self {
        let (streams, asked, cuts) = Default::default();
        Self(Arc::new(Inner { number, answer, streams, asked, cuts, dead }))
    }

    /// Who asks for cuts from now on gets these.
    pub fn cuts_are(&self, cuts: Cuts) {
        *self.0.cuts.lock().expect("no test panics here") = cuts;
    }

    /// The next stream that is opened gives these, and then no end.
    pub fn will_stream(&self, messages: Vec<StreamMessage>) {
        self.0.streams.lock().expect("no test panics here").push_back(messages);
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Request> {
        self.0.asked.lock().expect("no test panics here").clone()
    }

    fn note(&self, request: &Request) {
        self.0.asked.lock().expect("no test panics here").push(request.clone());
    }
}

fn ended() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the shard has ended")
}

/// What is left of a played stream.
pub struct FakeStream(VecDeque<StreamMessage>);

impl Messages for FakeStream {
    async fn next(&mut self) -> Option<StreamMessage> {
        match self.0.pop_front() {
            Some(message) => Some(message),
            // A shard's stream stays open until someone ends it.
            None => std::future::pending().await,
        }
    }
}

impl Door for FakeShard {
    type Stream = FakeStream;

    async fn call(&self, request: Request) -> Result<Reply, ApiError> {
        self.note(&request);
        (self.0.answer)(request)
    }

    async fn open(&self, request: Request) -> Result<FakeStream, ApiError> {
        self.note(&request);
        let next = self.0.streams.lock().expect("no test panics here").pop_front();
        next.map(|messages| FakeStream(messages.into())).ok_or_else(ended)
    }

    async fn stats(&self) -> Result<ShardStats, ApiError> {
        if self.0.dead {
            return Err(ended());
        }
        Ok(stats_of(self.0.number))
    }

    async fn cuts(&self) -> Result<Cuts, ApiError> {
        if self.0.dead { Err(ended()) } else { Ok(self.0.cuts.lock().expect("no panic").clone()) }
    }
}

/// The counters of a shard that has done nothing.
pub fn stats_of(number: u16) -> ShardStats {
    ShardStats {
        shard: ShardId(number),
        engine: EngineStats::default(),
        driver: DriverCounts::default(),
        write_latency_us: hdrhistogram::Histogram::new(2).expect("valid"),
        uptime_ms: 0,
    }
}
