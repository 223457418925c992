//! The channels between all pairs of shards of the node.
//!
//! What the engine has for another shard is gathered during a turn and sent as one batch at its
//! end: one wake-up per pair and turn. A full channel keeps the batch here, in order, until there
//! is room; the pump never waits for it. How much can pile up is bounded by the engine: requests
//! take a slot of a bounded table first, answers have reserved room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use glommio::channels::shared_channel::{
    ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};

use super::inbox::Inbox;
use super::stats::Counters;
use crate::base::ids::ShardId;
use crate::engine::Input;
use crate::engine::mesh::MeshMessage;

/// Batches under way per pair of shards; further ones wait with the sender.
const CHANNEL: usize = 256;

/// What one shard has told another in one turn, in order.
type Batch = Vec<MeshMessage>;

/// One shard's ends of its channels, on their way to its thread. Two for each other shard.
pub(super) struct Ends {
    senders: Vec<(ShardId, SharedSender<Batch>)>,
    receivers: Vec<(ShardId, SharedReceiver<Batch>)>,
}

/// The ends of all channels, by shard.
pub(super) fn all_ends(shards: u16) -> Vec<Ends> {
    let mut all: Vec<_> =
        (0..shards).map(|_| Ends { senders: Vec::new(), receivers: Vec::new() }).collect();
    for from in 0..shards {
        for to in (0..shards).filter(|to| *to != from) {
            let (sender, receiver) = new_bounded(CHANNEL);
            all[usize::from(from)].senders.push((ShardId(to), sender));
            all[usize::from(to)].receivers.push((ShardId(from), receiver));
        }
    }
    all
}

/// The mesh as one shard sees it.
pub(super) struct Mesh {
    /// By shard; `None` at the own place.
    peers: Vec<Option<Rc<Peer>>>,
    counters: Rc<Counters>,
}

struct Peer {
    sender: ConnectedSender<Batch>,
    /// Of this turn.
    open: RefCell<Batch>,
    /// Batches that found the channel full.
    waiting: RefCell<VecDeque<Batch>>,
    /// A task sends what waits; nobody else may send meanwhile.
    draining: Cell<bool>,
}

impl Mesh {
    /// Connects the ends; waits until all other shards do the same. What they send goes to the
    /// inbox, in order.
    pub(super) async fn connect(ends: Ends, inbox: Rc<Inbox>, counters: Rc<Counters>) -> Rc<Self> {
        // Receivers first and apart: each side's senders wait for the other side's receivers.
        for (from, receiver) in ends.receivers {
            let inbox = inbox.clone();
            glommio::spawn_local(async move {
                let receiver = receiver.connect().await;
                while let Some(batch) = receiver.recv().await {
                    for message in batch {
                        inbox.push(Input::Mesh { from, message });
                    }
                }
            })
            .detach();
        }
        let mut peers: Vec<Option<Rc<Peer>>> = Vec::new();
        peers.resize_with(ends.senders.len() + 1, || None);
        for (to, sender) in ends.senders {
            let peer = Peer {
                sender: sender.connect().await,
                open: RefCell::default(),
                waiting: RefCell::default(),
                draining: Cell::new(false),
            };
            peers[usize::from(to.0)] = Some(Rc::new(peer));
        }
        Rc::new(Self { peers, counters })
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
        let batch = if self.draining.get() {
            Some(batch)
        } else {
            // A peer that has ended takes nothing any more: the node is going down.
            self.sender.try_send(batch).err().and_then(|error| match error {
                glommio::GlommioError::WouldBlock(_) => error.into_inner(),
                _ => None,
            })
        };
        let Some(batch) = batch else { return };
        self.waiting.borrow_mut().push_back(batch);
        if !self.draining.replace(true) {
            glommio::spawn_local(self.drain()).detach();
        }
    }

    async fn drain(self: Rc<Self>) {
        loop {
            let Some(batch) = self.waiting.borrow_mut().pop_front() else { break };
            if self.sender.send(batch).await.is_err() {
                self.waiting.borrow_mut().clear();
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
        (Mesh::connect(ends, inbox.clone(), Rc::new(Counters::new())).await, inbox)
    }

    #[test]
    fn messages_of_a_pair_keep_their_order_beyond_the_channel() {
        const COUNT: u64 = 3 * CHANNEL as u64;
        let mut ends = all_ends(2);
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
    }
}
