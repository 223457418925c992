//! The door from tokio's threads into a shard.
//!
//! A [`Gate`] is cheap to clone and used from any thread. Calls go through a bounded channel: when
//! the shard has no room, callers wait. Answers come back through a channel of their own per call
//! or stream; wakers cross between the two runtimes. Streams are bounded by the engine, which sends
//! on only when [`GateStream::next`] has taken what it sent before.
//!
//! The **desk** is the gate's other half, on the shard. Sessions of the gate have numbers of their
//! own range ([`is_gate`]): one session for all calls, one for each stream.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::inbox::{Asks, Inbox};
use super::mesh::Senders;
use super::stats::{Counters, ShardStats};
use crate::base::api::{Delivery, Replayed, Reply, Request};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Caller, SessionId, ShardId, SubscriptionId};
use crate::engine::{Cut, Input, NoCut};

/// Calls that wait at the door at most; then callers wait in front of it.
const WAITING: usize = 1_024;
/// Set in the numbers of the gate's sessions.
const GATE_BIT: u64 = 1 << 63;
/// The session of all calls.
const CALLS: SessionId = SessionId(GATE_BIT);

/// Whether a session is the gate's.
pub(super) fn is_gate(session: SessionId) -> bool {
    session.0 & GATE_BIT != 0
}

/// The way into one shard.
#[derive(Clone, Debug)]
pub struct Gate {
    shard: ShardId,
    knocks: mpsc::Sender<Knock>,
    notes: mpsc::UnboundedSender<Note>,
    sessions: Arc<AtomicU64>,
}

/// What wants in. Waits for room.
#[derive(Debug)]
enum Knock {
    Call { request: Request, answer: oneshot::Sender<Result<Reply, ApiError>> },
    Open { session: SessionId, request: Request, items: mpsc::UnboundedSender<Item> },
    Stats(oneshot::Sender<ShardStats>),
    Cuts(oneshot::Sender<Cuts>),
}

/// Where copies of a shard's partitions would end, in order of the partitions.
pub type Cuts = Vec<Result<Cut, NoCut>>;

/// What is told without waiting: bounded by streams that are open and what they have been sent.
#[derive(Debug)]
pub(super) enum Note {
    /// A stream's reader has taken what one effect sent.
    Taken { subscription: SubscriptionId, bytes: u64 },
    /// A stream's reader is gone.
    Closed(SessionId),
    /// From the boot: what the shard is to do next.
    Order(Order),
}

/// What the boot tells a shard.
#[derive(Debug)]
pub(super) enum Order {
    /// All shards are bound: these are their addresses, and what this one sends to the others by.
    /// Mount the partitions.
    Mount(Vec<std::net::SocketAddr>, Senders),
    /// All partitions of the node are recovered: take connections.
    Serve,
    /// Finish what is open; nothing new comes.
    Drain,
    /// End now.
    Stop,
}

#[derive(Debug)]
struct Item {
    message: StreamMessage,
    /// What `Input::Sent` says once the message is taken.
    sent: Option<(SubscriptionId, u64)>,
}

/// What comes out of a stream.
#[derive(Debug)]
pub enum StreamMessage {
    /// A subscription is open on all its partitions. Deliveries may have come before.
    Opened,
    /// Deliveries of a subscription, in order. Not to be sent before the wall clock reads
    /// `not_before`.
    Deliveries {
        /// The group's name, for the delivery ids.
        group: Arc<str>,
        /// Never empty.
        deliveries: Vec<Delivery>,
        /// Unix ms.
        not_before: u64,
    },
    /// Events of a replay, in order. As deliveries.
    Replayed {
        /// Never empty.
        events: Vec<Replayed>,
        /// Unix ms.
        not_before: u64,
    },
    /// The last message: closed or complete, or why it ended.
    End(Result<(), ApiError>),
}

impl Gate {
    /// The shard behind it.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Asks the engine for something that is answered once. Waits while the shard has no room.
    /// Dropping the future drops the answer, not the request.
    pub async fn call(&self, request: Request) -> Result<Reply, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.knock(Knock::Call { request, answer }).await?;
        answered.await.unwrap_or_else(|_| Err(shutting_down()))
    }

    /// Opens a stream: a `Subscribe` or a `Replay`. Whether the engine takes it is told by the
    /// stream's own messages. Dropping the stream closes it.
    pub async fn open(&self, request: Request) -> Result<GateStream, ApiError> {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let session = SessionId(GATE_BIT | number);
        let (sender, items) = mpsc::unbounded_channel();
        self.knock(Knock::Open { session, request, items: sender }).await?;
        Ok(GateStream { session, items, notes: self.notes.clone(), ended: false })
    }

    /// A snapshot of the shard's counters.
    pub async fn stats(&self) -> Result<ShardStats, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.knock(Knock::Stats(answer)).await?;
        answered.await.map_err(|_| shutting_down())
    }

    /// Where copies of the shard's partitions would end: everything that was answered before this
    /// was called lies before.
    pub async fn cuts(&self) -> Result<Cuts, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.knock(Knock::Cuts(answer)).await?;
        answered.await.map_err(|_| shutting_down())
    }

    /// Tells the shard what to do next. A shard that has ended does not hear it.
    pub(super) fn order(&self, order: Order) {
        let _ended = self.notes.send(Note::Order(order));
    }

    async fn knock(&self, knock: Knock) -> Result<(), ApiError> {
        self.knocks.send(knock).await.map_err(|_| shutting_down())
    }
}

/// What is said to who asks a node that ends.
pub(super) fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the node is shutting down; try another or later")
}

/// A stream of deliveries or of history.
#[derive(Debug)]
pub struct GateStream {
    session: SessionId,
    items: mpsc::UnboundedReceiver<Item>,
    notes: mpsc::UnboundedSender<Note>,
    ended: bool,
}

impl GateStream {
    /// The next message; `None` behind the last, or when the shard has ended. Taking one lets the
    /// engine send more.
    pub async fn next(&mut self) -> Option<StreamMessage> {
        if self.ended {
            return None;
        }
        let item = self.items.recv().await?;
        if let Some((subscription, bytes)) = item.sent {
            let _ended = self.notes.send(Note::Taken { subscription, bytes });
        }
        self.ended = matches!(item.message, StreamMessage::End(_));
        Some(item.message)
    }
}

impl Drop for GateStream {
    fn drop(&mut self) {
        // Closed first: should the desk hear of it before it takes the knock, it finds no reader.
        self.items.close();
        let _ended = self.notes.send(Note::Closed(self.session));
    }
}

/// The shard's end of the channels, on its way to the shard's thread.
#[derive(Debug)]
pub(super) struct Door {
    knocks: mpsc::Receiver<Knock>,
    notes: mpsc::UnboundedReceiver<Note>,
}

/// A gate and its door.
pub(super) fn gate(shard: ShardId) -> (Gate, Door) {
    let (knocks, knocked) = mpsc::channel(WAITING);
    let (notes, noted) = mpsc::unbounded_channel();
    let gate = Gate { shard, knocks, notes, sessions: Arc::new(AtomicU64::new(1)) };
    (gate, Door { knocks: knocked, notes: noted })
}

impl Door {
    /// The next order, before the desk is open.
    pub(super) async fn order(&mut self) -> Option<Order> {
        loop {
            if let Note::Order(order) = self.notes.recv().await? {
                return Some(order);
            }
        }
    }
}

/// The gate's half on the shard.
pub(super) struct Desk {
    inbox: Rc<Inbox>,
    counters: Rc<Counters>,
    calls: RefCell<BTreeMap<u64, oneshot::Sender<Result<Reply, ApiError>>>>,
    next_call: Cell<u64>,
    streams: RefCell<BTreeMap<SessionId, mpsc::UnboundedSender<Item>>>,
    stats: RefCell<Vec<oneshot::Sender<ShardStats>>>,
    cuts: RefCell<Vec<oneshot::Sender<Cuts>>>,
    /// Nobody is let in any more.
    draining: Cell<bool>,
}

impl Desk {
    /// A desk that nobody knocks at yet.
    pub(super) fn new(inbox: Rc<Inbox>, counters: Rc<Counters>) -> Rc<Self> {
        Rc::new(Self {
            inbox,
            counters,
            calls: RefCell::default(),
            next_call: Cell::new(1),
            streams: RefCell::default(),
            stats: RefCell::default(),
            cuts: RefCell::default(),
            draining: Cell::new(false),
        })
    }

    /// Takes what comes through the door, for as long as the shard runs. Orders go to `ordered`.
    pub(super) async fn serve(self: Rc<Self>, mut door: Door, ordered: impl Fn(Order)) {
        poll_fn(|cx| {
            self.poll(&mut door, &ordered, cx);
            Poll::<()>::Pending
        })
        .await;
    }

    fn poll(&self, door: &mut Door, ordered: &impl Fn(Order), cx: &mut Context<'_>) {
        while let Poll::Ready(Some(note)) = door.notes.poll_recv(cx) {
            match note {
                Note::Taken { subscription, bytes } => {
                    self.inbox.push(Input::Sent { subscription, bytes, batches: 1 });
                }
                Note::Closed(session) => {
                    if self.streams.borrow_mut().remove(&session).is_some() {
                        self.counters.count(|c| c.gate_streams -= 1);
                        self.inbox.push(Input::SessionClosed { session });
                    }
                }
                Note::Order(order) => ordered(order),
            }
        }
        // A knock cannot be looked at before it is let in: each waits for room for either.
        while self.inbox.poll_room(cx, Asks::Publish).is_ready()
            && self.inbox.poll_room(cx, Asks::Other).is_ready()
        {
            let Poll::Ready(Some(knock)) = door.knocks.poll_recv(cx) else { break };
            self.let_in(knock);
        }
    }

    fn let_in(&self, knock: Knock) {
        match knock {
            Knock::Call { answer, .. } if self.draining.get() => {
                let _gone = answer.send(Err(shutting_down()));
            }
            Knock::Open { items, .. } if self.draining.get() => {
                let message = StreamMessage::End(Err(shutting_down()));
                let _gone = items.send(Item { message, sent: None });
            }
            Knock::Call { request, answer } => {
                let correlation = self.next_call.get();
                self.next_call.set(correlation + 1);
                self.counters.count(|c| c.gate_calls += 1);
                self.calls.borrow_mut().insert(correlation, answer);
                self.inbox.push_request(Caller { session: CALLS, correlation }, request);
            }
            Knock::Open { session, request, items } => {
                if items.is_closed() {
                    return;
                }
                self.counters.count(|c| c.gate_streams += 1);
                self.streams.borrow_mut().insert(session, items);
                self.inbox.push_request(Caller { session, correlation: 1 }, request);
            }
            Knock::Stats(answer) => {
                self.stats.borrow_mut().push(answer);
                self.inbox.wake();
            }
            Knock::Cuts(answer) => {
                self.cuts.borrow_mut().push(answer);
                self.inbox.wake();
            }
        }
    }

    /// Refuses calls and streams from now on.
    pub(super) fn drain(&self) {
        self.draining.set(true);
    }

    /// Whether the session may still be answered.
    pub(super) fn is_open(&self, session: SessionId) -> bool {
        session == CALLS || self.streams.borrow().contains_key(&session)
    }

    /// Whether someone waits for a snapshot.
    pub(super) fn wants_stats(&self) -> bool {
        !self.stats.borrow().is_empty()
    }

    /// Answers those who wait for a snapshot.
    pub(super) fn give_stats(&self, stats: &ShardStats) {
        for answer in self.stats.borrow_mut().drain(..) {
            let _gone = answer.send(stats.clone());
        }
    }

    /// Whether someone waits for cuts.
    pub(super) fn wants_cuts(&self) -> bool {
        !self.cuts.borrow().is_empty()
    }

    /// Answers those who wait for cuts.
    pub(super) fn give_cuts(&self, cuts: &Cuts) {
        for answer in self.cuts.borrow_mut().drain(..) {
            let _gone = answer.send(cuts.clone());
        }
    }

    /// Passes an answer on. Nobody may be there any more.
    pub(super) fn reply(&self, to: Caller, reply: Reply) {
        if to.session == CALLS {
            let Some(answer) = self.calls.borrow_mut().remove(&to.correlation) else { return };
            let _gone = answer.send(match reply {
                Reply::Failed(error) => Err(error),
                reply => Ok(reply),
            });
            return;
        }
        let message = match reply {
            Reply::Subscribed => StreamMessage::Opened,
            Reply::StreamEnd(result) => StreamMessage::End(result),
            Reply::Failed(error) => StreamMessage::End(Err(error)),
            Reply::Published { .. } | Reply::Acked(_) | Reply::Partitions(_) | Reply::Topic(_) => {
                unreachable!("a stream's session asks for nothing else")
            }
        };
        self.send(to.session, Item { message, sent: None });
    }

    /// Passes stream messages on; `sent` is what the engine wants to hear once they are taken.
    pub(super) fn stream(
        &self,
        to: SessionId,
        message: StreamMessage,
        sent: (SubscriptionId, u64),
    ) {
        self.send(to, Item { message, sent: Some(sent) });
    }

    fn send(&self, to: SessionId, item: Item) {
        if let Some(items) = self.streams.borrow().get(&to) {
            // A reader that is gone has left a note, which ends the stream.
            let _gone = items.send(item);
        }
    }
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod gate_test;
