//! The channels between all pairs of shards of the node.
//!
//! What the engine has for another shard is gathered during a turn and sent as one batch at its
//! end: one wake-up per pair and turn. A full channel keeps the batch here, in order, until there
//! is room; the pump never waits for it. How much can pile up is bounded by the engine: requests
//! take a slot of a bounded table first, answers have reserved room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use glommio::channels::shared_channel::{ForeignSender, SharedReceiver, SharedSender, new_bounded};
use glommio::timer::sleep;
use glommio::{GlommioError, LocalExecutor};

use super::inbox::Inbox;
use super::stats::Counters;
use crate::base::ids::ShardId;
use crate::engine::Input;
use crate::engine::mesh::MeshMessage;

/// Batches under way per pair of shards; further ones wait with the sender.
const CHANNEL: usize = 256;
/// How often a sender whose channel is full looks for room.
const LOOK_FOR_ROOM: Duration = Duration::from_micros(100);
/// How often a shard that starts looks whether it was introduced.
const LOOK_FOR_SENDERS: Duration = Duration::from_micros(100);

/// What one shard has told another in one turn, in order.
type Batch = Vec<MeshMessage>;
type Senders = Vec<(ShardId, ForeignSender<Batch>)>;
type Unconnected = Vec<(ShardId, SharedSender<Batch>)>;

/// One shard's ends of its channels, on their way to its thread. Two for each other shard.
pub(super) struct Ends {
    senders: mpsc::Receiver<Senders>,
    receivers: Vec<(ShardId, SharedReceiver<Batch>)>,
    /// Dropped when the receivers are connected.
    connected: mpsc::Sender<()>,
}

/// Connects the sending ends of all channels, and hands each shard its own.
///
/// The channel tells the runtime that has connected a sender of each batch taken from it, by a
/// write to that runtime's descriptor if it sleeps. A shard does not want to be woken for that:
/// what it waits for is the answer. So senders are connected by a runtime of their own, which ends
/// when all are, and sleeps no more.
pub(super) struct Introducer {
    /// Of each shard: its senders, and where they are handed over.
    pairs: Vec<(Unconnected, mpsc::Sender<Senders>)>,
    connected: mpsc::Receiver<()>,
}

/// The ends of all channels, by shard, and who connects them.
pub(super) fn all_ends(shards: u16) -> (Vec<Ends>, Introducer) {
    let (done, connected) = mpsc::channel();
    let (mut all, mut pairs) = (Vec::new(), Vec::new());
    for _ in 0..shards {
        let (hand, senders) = mpsc::channel();
        all.push(Ends { senders, receivers: Vec::new(), connected: done.clone() });
        pairs.push((Vec::new(), hand));
    }
    for from in 0..shards {
        for to in (0..shards).filter(|to| *to != from) {
            let (sender, receiver) = new_bounded(CHANNEL);
            pairs[usize::from(from)].0.push((ShardId(to), sender));
            all[usize::from(to)].receivers.push((ShardId(from), receiver));
        }
    }
    (all, Introducer { pairs, connected })
}

impl Introducer {
    /// Whether there is anybody to introduce to anybody.
    pub(super) fn is_needed(&self) -> bool {
        self.pairs.len() > 1
    }

    /// Runs until all shards are connected or have ended. The runtime lives as long: a receiver
    /// takes a sender whose runtime is gone for one that has hung up.
    pub(super) fn run(self, executor: &LocalExecutor) {
        let Self { pairs, connected } = self;
        executor.run(async move {
            for (senders, hand) in pairs {
                let mut foreign = Vec::new();
                for (to, sender) in senders {
                    foreign.push((to, sender.connect().await.into_foreign()));
                }
                // Nobody takes them if the shard has failed to start.
                let _ = hand.send(foreign);
            }
        });
        // An error: all have dropped their ends.
        while connected.recv().is_ok() {}
    }
}

/// The mesh as one shard sees it.
pub(super) struct Mesh {
    /// By shard; `None` at the own place.
    peers: Vec<Option<Rc<Peer>>>,
    counters: Rc<Counters>,
}

struct Peer {
    sender: ForeignSender<Batch>,
    /// Of this turn.
    open: RefCell<Batch>,
    /// Batches that found the channel full.
    waiting: RefCell<VecDeque<Batch>>,
    /// A task sends what waits; nobody else may send meanwhile.
    draining: Cell<bool>,
}

impl Mesh {
    /// Connects the ends; waits until all other shards do the same. What they send goes to the
    /// inbox, in order. `None` if the shards were not introduced: the node does not start.
    pub(super) async fn connect(
        ends: Ends,
        inbox: Rc<Inbox>,
        counters: Rc<Counters>,
    ) -> Option<Rc<Self>> {
        let Ends { senders, receivers, connected } = ends;
        let shards = receivers.len() + 1;
        let tasks: Vec<_> = receivers
            .into_iter()
            .map(|(from, receiver)| {
                let (inbox, connected) = (inbox.clone(), connected.clone());
                glommio::spawn_local(async move {
                    let receiver = receiver.connect().await;
                    drop(connected);
                    while let Some(batch) = receiver.recv().await {
                        for message in batch {
                            inbox.push(Input::Mesh { from, message });
                        }
                    }
                })
            })
            .collect();
        drop(connected);
        let senders = loop {
            if shards == 1 {
                break Vec::new();
            }
            match senders.try_recv() {
                Ok(senders) => break senders,
                Err(mpsc::TryRecvError::Empty) => sleep(LOOK_FOR_SENDERS).await,
                Err(mpsc::TryRecvError::Disconnected) => return None,
            }
        };
        for task in tasks {
            task.detach();
        }
        let mut peers: Vec<Option<Rc<Peer>>> = Vec::new();
        peers.resize_with(shards, || None);
        for (to, sender) in senders {
            let peer = Peer {
                sender,
                open: RefCell::default(),
                waiting: RefCell::default(),
                draining: Cell::new(false),
            };
            peers[usize::from(to.0)] = Some(Rc::new(peer));
        }
        Some(Rc::new(Self { peers, counters }))
    }

    /// Adds to this turn's batch for a shard.
    pub(super) fn send(&self, to: ShardId, message: MeshMessage) {
        let peer = self.peers.get(usize::from(to.0)).and_then(Option::as_ref);
        peer.expect("another shard of this node").open.borrow_mut().push(message);
    }

    /// Sends the turn's batches on their way.
    pub(super) fn flush(&self) {
        for peer in self.peers.iter().flatten() {
            let batch = std::mem::take(&mut *peer.open.borrow_mut());
            if batch.is_empty() {
                continue;
            }
            self.counters.count(|c| {
                c.mesh_batches += 1;
                c.mesh_messages += batch.len() as u64;
            });
            peer.clone().push(batch);
        }
    }

    /// Whether all that was flushed has left.
    pub(super) fn is_flushed(&self) -> bool {
        self.peers.iter().flatten().all(|peer| peer.waiting.borrow().is_empty())
    }
}

impl Peer {
    fn push(self: Rc<Self>, batch: Batch) {
        let batch = if self.draining.get() { Some(batch) } else { self.try_send(batch) };
        let Some(batch) = batch else { return };
        self.waiting.borrow_mut().push_back(batch);
        if !self.draining.replace(true) {
            glommio::spawn_local(self.drain()).detach();
        }
    }

    /// The batch, if the channel is full. A peer that has ended takes nothing any more: the node
    /// is going down.
    fn try_send(&self, batch: Batch) -> Option<Batch> {
        match self.sender.try_send(batch) {
            Err(error @ GlommioError::WouldBlock(_)) => error.into_inner(),
            Ok(()) | Err(_) => None,
        }
    }

    /// Sends what waits, in order. A peer that is this far behind has enough to do: nobody tells
    /// of room, and a look now and then costs neither side anything.
    async fn drain(self: Rc<Self>) {
        loop {
            let Some(batch) = self.waiting.borrow_mut().pop_front() else { break };
            if let Some(batch) = self.try_send(batch) {
                self.waiting.borrow_mut().push_front(batch);
                sleep(LOOK_FOR_ROOM).await;
            }
        }
        self.draining.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::clock::breathe;
    use glommio::LocalExecutorBuilder;

    /// Numbers a message so that its order can be checked.
    fn message(request: u64) -> MeshMessage {
        MeshMessage::Status { request, partition: None }
    }

    async fn connect(ends: Ends) -> (Rc<Mesh>, Rc<Inbox>) {
        let inbox = Rc::new(Inbox::default());
        let mesh = Mesh::connect(ends, inbox.clone(), Rc::new(Counters::new())).await;
        (mesh.expect("introduced"), inbox)
    }

    #[test]
    fn messages_of_a_pair_keep_their_order_beyond_the_channel() {
        const COUNT: u64 = 3 * CHANNEL as u64;
        let (mut ends, introducer) = all_ends(2);
        let introducing = std::thread::spawn(|| {
            introducer.run(&LocalExecutorBuilder::default().make().expect("an executor"));
        });
        let (second, first) = (ends.pop().expect("two"), ends.pop().expect("two"));
        let sending = LocalExecutorBuilder::default().spawn(|| async move {
            let (mesh, _inbox) = connect(first).await;
            for request in 0..COUNT {
                mesh.send(ShardId(1), message(request));
                mesh.flush();
            }
            while !mesh.is_flushed() {
                breathe().await;
            }
        });
        let receiving = LocalExecutorBuilder::default().spawn(|| async move {
            let (_mesh, inbox) = connect(second).await;
            let mut next = 0;
            while next < COUNT {
                match inbox.take() {
                    Some(Input::Mesh { from: ShardId(0), message }) => {
                        let MeshMessage::Status { request, .. } = message else { panic!() };
                        assert_eq!(request, next);
                        next += 1;
                    }
                    Some(other) => panic!("{other:?}"),
                    None => breathe().await,
                }
            }
        });
        sending.expect("a thread").join().expect("sent");
        receiving.expect("a thread").join().expect("received");
        introducing.join().expect("introduced");
    }
}
