//! A server for tests of the client: real sockets and frames, answers made up by the test.
//!
//! One listener per shard and a shared one in front, as a node has. Every request is recorded with
//! the shard whose listener it came to before it is answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;

use crate::base::route;
use crate::wire::events::{
    AckResponse, EventResult, ListPartitionsResponse, PartitionInfo, PublishBatchRequest,
    PublishBatchResponse, PublishRequest, PublishResponse,
};
use crate::wire::frame::{self, Frame, FrameDecoder};
use crate::wire::kind::FrameKind;
use crate::wire::native;

/// Longer than any of these tests takes on the slowest machine: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the server does about a request.
pub(super) enum Reaction {
    /// Sends these frames.
    Send(BytesMut),
    /// Sends these frames once the semaphore gives a permit.
    After(Arc<Semaphore>, BytesMut),
    /// Says nothing.
    Ignore,
    /// Closes the connection.
    Close,
}

/// A request, and the number of the shard it came to.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) shard: usize,
    pub(super) connection: u64,
    pub(super) frame: Frame,
}

type Handler = dyn Fn(&Seen) -> Option<Reaction> + Send + Sync;

pub(super) struct FakeServer {
    pub(super) addr: String,
    state: Arc<State>,
}

struct State {
    partitions: u16,
    shards: Vec<String>,
    seen: Mutex<Vec<Seen>>,
    changed: Notify,
    connections: AtomicU64,
    handler: Box<Handler>,
}

impl FakeServer {
    /// Starts a node. `handler` sees each request first; what it returns `None` for is answered as
    /// a node with nothing on its mind would.
    pub(super) async fn start(
        shards: usize,
        partitions: u16,
        handler: impl Fn(&Seen) -> Option<Reaction> + Send + Sync + 'static,
    ) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..=shards {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        }
        let at = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let addr = at(&listeners[shards]).to_string();
        let shards = listeners[..shards].iter().map(|l| format!(":{}", at(l).port())).collect();
        let state = Arc::new(State {
            partitions,
            shards,
            seen: Mutex::default(),
            changed: Notify::new(),
            connections: AtomicU64::new(0),
            handler: Box::new(handler),
        });
        for (shard, listener) in listeners.into_iter().enumerate() {
            // The shared listener comes last and leads to shard 0.
            let shard = shard % state.shards.len();
            tokio::spawn(accept(Arc::clone(&state), shard, listener));
        }
        Self { addr, state }
    }

    /// A node of two shards and four partitions that answers everything.
    pub(super) async fn two_shards() -> Self {
        Self::start(2, 4, |_seen| None).await
    }

    /// The requests so far of these kinds.
    pub(super) fn seen(&self, kinds: &[FrameKind]) -> Vec<Seen> {
        let seen = self.state.seen.lock().expect("no test panicked");
        seen.iter().filter(|seen| kinds.contains(&seen.frame.kind)).cloned().collect()
    }

    /// Waits until so many requests of a kind have come.
    pub(super) async fn wait_for(&self, kind: FrameKind, count: usize) -> Vec<Seen> {
        let waiting = async {
            loop {
                let changed = self.state.changed.notified();
                let seen = self.seen(&[kind]);
                if seen.len() >= count {
                    return seen;
                }
                changed.await;
            }
        };
        patiently(waiting).await
    }
}

/// Fails in place of hanging.
pub(super) async fn patiently<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it happens in time")
}

async fn accept(state: Arc<State>, shard: usize, listener: TcpListener) {
    while let Ok((stream, _peer)) = listener.accept().await {
        tokio::spawn(serve(Arc::clone(&state), shard, stream));
    }
}

async fn serve(state: Arc<State>, shard: usize, stream: TcpStream) {
    let connection = state.connections.fetch_add(1, Ordering::Relaxed);
    let (mut reader, mut writer) = stream.into_split();
    let (out, mut written) = mpsc::unbounded_channel::<BytesMut>();
    let writing = tokio::spawn(async move {
        while let Some(bytes) = written.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = FrameDecoder::Requests.next(&mut buffer).expect("sound frames") {
            let seen = Seen { shard, connection, frame };
            state.seen.lock().expect("no test panicked").push(seen.clone());
            state.changed.notify_waiters();
            let reaction = (state.handler)(&seen);
            match reaction.unwrap_or_else(|| Reaction::Send(state.answer(&seen))) {
                Reaction::Send(bytes) => drop(out.send(bytes)),
                Reaction::After(gate, bytes) => {
                    let out = out.clone();
                    tokio::spawn(async move {
                        gate.acquire().await.expect("the gate stays").forget();
                        drop(out.send(bytes));
                    });
                }
                Reaction::Ignore => {}
                Reaction::Close => {
                    writing.abort();
                    return;
                }
            }
        }
        if reader.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// One frame that holds a message.
pub(super) fn framed(kind: FrameKind, correlation: u64, message: &impl Message) -> BytesMut {
    let mut out = BytesMut::new();
    frame::put_message(&mut out, kind, correlation, message).expect("it fits");
    out
}

/// The offset an event gets: the number behind the last `-` of its id.
fn offset_of(id: &str) -> i64 {
    id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

pub(super) fn publish_answer(seen: &Seen, partitions: u16) -> BytesMut {
    let request = PublishRequest::decode(seen.frame.body.clone()).expect("a request");
    let event = request.event.expect("an event");
    let partition = route::partition_of(event.routing_key(), partitions);
    let response = PublishResponse {
        success: true,
        offset: offset_of(&event.message_id),
        partition_id: i32::from(partition.0),
        schedule_ts: event.schedule_ts,
        ..PublishResponse::default()
    };
    framed(FrameKind::Published, seen.frame.correlation, &response)
}

fn batch_answer(seen: &Seen, partitions: u16) -> BytesMut {
    let request = PublishBatchRequest::decode(seen.frame.body.clone()).expect("a request");
    let results = request.events.iter().map(|event| EventResult {
        code: if event.message_id.starts_with("twice") { 10 } else { 0 },
        partition_id: i32::from(route::partition_of(event.routing_key(), partitions).0),
        offset: offset_of(&event.message_id),
        ..EventResult::default()
    });
    let response = PublishBatchResponse {
        success: true,
        results: results.collect(),
        ..PublishBatchResponse::default()
    };
    framed(FrameKind::PublishedBatch, seen.frame.correlation, &response)
}

fn ack_answer(seen: &Seen) -> BytesMut {
    let batch = native::AckBatch::decode(seen.frame.body.clone()).expect("verdicts");
    let judge = |verdict: &crate::wire::events::AckRequest| match verdict.delivery_id.as_str() {
        "unknown" => AckResponse { code: 2, error: "unknown".into(), ..AckResponse::default() },
        _ => AckResponse { success: true, ..AckResponse::default() },
    };
    let results: Vec<_> = batch.acks.iter().map(judge).collect();
    match results.as_slice() {
        [one] => framed(FrameKind::Acked, seen.frame.correlation, one),
        _ => framed(FrameKind::AckedBatch, seen.frame.correlation, &native::AckedBatch { results }),
    }
}

impl State {
    fn answer(&self, seen: &Seen) -> BytesMut {
        let id = seen.frame.correlation;
        match seen.frame.kind {
            FrameKind::Hello => framed(FrameKind::HelloAck, id, &self.hello(seen.shard)),
            FrameKind::Ping => framed(FrameKind::Pong, id, &native::CloseStream::default()),
            FrameKind::Publish => publish_answer(seen, self.partitions),
            FrameKind::PublishBatch => batch_answer(seen, self.partitions),
            FrameKind::AckBatch => ack_answer(seen),
            FrameKind::Subscribe => {
                framed(FrameKind::Subscribed, id, &native::CloseStream::default())
            }
            FrameKind::Partitions => {
                let info = |partition_id| PartitionInfo { partition_id, ..Default::default() };
                let partitions = (0..i32::from(self.partitions)).map(info).collect();
                framed(FrameKind::PartitionList, id, &ListPartitionsResponse { partitions })
            }
            FrameKind::CloseStream => BytesMut::new(),
            other => panic!("no answer to {other:?} was made up"),
        }
    }

    fn hello(&self, shard: usize) -> native::HelloAck {
        let shards = self.shards.len() as u32;
        native::HelloAck {
            version: 1,
            node_id: "fake".into(),
            partitions: u32::from(self.partitions),
            shards: self.shards.iter().map(|at| native::Shard { address: at.clone() }).collect(),
            partition_shards: (0..u32::from(self.partitions)).map(|p| p % shards).collect(),
            shard: shard as u32,
            ..native::HelloAck::default()
        }
    }
}
