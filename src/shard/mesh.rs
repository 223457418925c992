//! The channels between all pairs of shards of the node.
//!
//! What the engine has for another shard is gathered during a turn and sent as one batch at its
//! end: one wake-up per pair and turn. A full channel keeps the batch here, in order, until there
//! is room; the pump never waits for it. How much can pile up is bounded by the engine: requests
//! take a slot of a bounded table first, answers have reserved room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use glommio::channels::shared_channel::{
    ConnectedReceiver, ForeignSender, SharedReceiver, SharedSender, new_bounded,
};
use glommio::timer::sleep;
use glommio::{GlommioError, Task};

use super::inbox::Inbox;
use super::stats::Counters;
use crate::base::ids::ShardId;
use crate::engine::Input;
use crate::engine::mesh::MeshMessage;

/// Batches under way per pair of shards; further ones wait with the sender.
const CHANNEL: usize = 256;
/// How often a sender whose channel is full looks for room.
const LOOK_FOR_ROOM: Duration = Duration::from_micros(100);

/// What one shard has told another in one turn, in order.
type Batch = Vec<MeshMessage>;

/// What one shard sends by, to each other shard, before it is connected.
pub(super) type Unconnected = Vec<(ShardId, SharedSender<Batch>)>;
/// The same, connected.
pub(super) type Senders = Vec<(ShardId, ForeignSender<Batch>)>;
/// What one shard receives from each other shard by.
pub(super) type Receivers = Vec<(ShardId, SharedReceiver<Batch>)>;

/// The two ends of all channels, by shard.
pub(super) fn all_ends(shards: u16) -> (Vec<Unconnected>, Vec<Receivers>) {
    let mut senders: Vec<Unconnected> = (0..shards).map(|_| Vec::new()).collect();
    let mut receivers: Vec<Receivers> = (0..shards).map(|_| Vec::new()).collect();
    for from in 0..shards {
        for to in (0..shards).filter(|to| *to != from) {
            let (sender, receiver) = new_bounded(CHANNEL);
            senders[usize::from(from)].push((ShardId(to), sender));
            receivers[usize::from(to)].push((ShardId(from), receiver));
        }
    }
    (senders, receivers)
}

/// Connects the senders of all shards, on a runtime that is none of theirs; waits until all
/// receivers are being connected. The runtime must live until they are: a receiver takes a sender
/// whose runtime is gone for one that has hung up.
///
/// The channel tells the runtime that has connected a sender of each batch taken from it, by a
/// write to that runtime's descriptor if it sleeps. A shard does not want to be woken for that:
/// what it waits for is the answer.
pub(super) async fn introduce(all: Vec<Unconnected>) -> Vec<Senders> {
    let mut connected = Vec::new();
    for senders in all {
        let mut own = Vec::new();
        for (to, sender) in senders {
            own.push((to, sender.connect().await.into_foreign()));
        }
        connected.push(own);
    }
    connected
}

/// Receivers that wait for their senders to be connected.
pub(super) struct Connecting(Vec<(ShardId, Task<ConnectedReceiver<Batch>>)>);

impl Connecting {
    /// Begins, on the shard that receives.
    pub(super) fn new(receivers: Receivers) -> Self {
        let begin = |(from, receiver): (ShardId, SharedReceiver<Batch>)| {
            (from, glommio::spawn_local(receiver.connect()))
        };
        Self(receivers.into_iter().map(begin).collect())
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
    /// Connects a shard; waits until its receivers are. What comes goes to the inbox, in order.
    pub(super) async fn connect(
        Connecting(receivers): Connecting,
        senders: Senders,
        inbox: Rc<Inbox>,
        counters: Rc<Counters>,
    ) -> Rc<Self> {
        for (from, receiver) in receivers {
            let (receiver, inbox) = (receiver.await, inbox.clone());
            glommio::spawn_local(async move {
                while let Some(batch) = receiver.recv().await {
                    for message in batch {
                        inbox.push(Input::Mesh { from, message });
                    }
                }
            })
            .detach();
        }
        let mut peers: Vec<Option<Rc<Peer>>> = Vec::new();
        peers.resize_with(senders.len() + 1, || None);
        for (to, sender) in senders {
            let peer = Peer {
                sender,
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
    use std::sync::mpsc;

    /// Numbers a message so that its order can be checked.
    fn message(request: u64) -> MeshMessage {
        MeshMessage::Status { request, partition: None }
    }

    /// A shard's mesh; its senders come when both shards are connecting.
    async fn connect(
        receivers: Receivers,
        introduced: mpsc::Receiver<Senders>,
    ) -> (Rc<Mesh>, Rc<Inbox>) {
        let (connecting, inbox) = (Connecting::new(receivers), Rc::new(Inbox::default()));
        let senders = loop {
            match introduced.try_recv() {
                Ok(senders) => break senders,
                Err(_) => breathe().await,
            }
        };
        let counters = Rc::new(Counters::new());
        (Mesh::connect(connecting, senders, inbox.clone(), counters).await, inbox)
    }

    #[test]
    fn messages_of_a_pair_keep_their_order_beyond_the_channel() {
        const COUNT: u64 = 3 * CHANNEL as u64;
        let (unconnected, mut receivers) = all_ends(2);
        let (second, first) = (receivers.pop().expect("two"), receivers.pop().expect("two"));
        let ((to_first, firsts), (to_second, seconds)) = (mpsc::channel(), mpsc::channel());
        let sending = LocalExecutorBuilder::default().spawn(|| async move {
            let (mesh, _inbox) = connect(first, firsts).await;
            for request in 0..COUNT {
                mesh.send(ShardId(1), message(request));
                mesh.flush();
            }
            while !mesh.is_flushed() {
                breathe().await;
            }
        });
        let receiving = LocalExecutorBuilder::default().spawn(|| async move {
            let (_mesh, inbox) = connect(second, seconds).await;
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
        let introducer = LocalExecutorBuilder::default().make().expect("an executor");
        let all = introducer.run(introduce(unconnected));
        for (hand, senders) in [to_first, to_second].iter().zip(all) {
            hand.send(senders).expect("it waits");
        }
        sending.expect("a thread").join().expect("sent");
        receiving.expect("a thread").join().expect("received");
    }
}
