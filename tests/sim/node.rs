//! One process: an engine per shard, an inbox before each, a FIFO between every two.

use std::collections::{BTreeMap, VecDeque};

use chronosdb::base::api::Request;
use chronosdb::base::config::EngineConfig;
use chronosdb::base::ids::{PartitionId, SessionId, ShardId};
use chronosdb::base::route;
use chronosdb::engine::mesh::MeshMessage;
use chronosdb::engine::{Engine, Input};

pub struct Node {
    pub shards: Vec<Shard>,
    mesh: BTreeMap<(ShardId, ShardId), Lane>,
    /// Partitions that have not recovered yet.
    pub recovering: u16,
}

/// Messages on their way from one shard to another.
#[derive(Default)]
struct Lane {
    queue: VecDeque<MeshMessage>,
    /// When the last of them arrives.
    last_us: u64,
}

pub struct Shard {
    pub engine: Engine,
    pub inbox: VecDeque<Input>,
    /// Requests (and what must not overtake them) that wait for room.
    pub parked: VecDeque<Input>,
    /// A turn is planned.
    pub turning: bool,
    /// World time of the planned tick, if any.
    pub tick_us: Option<u64>,
    pub turns: u64,
}

impl Node {
    pub fn new(config: &EngineConfig) -> Self {
        let shards = (0..config.shards).map(|shard| Shard {
            engine: Engine::new(config.clone(), ShardId(shard)),
            inbox: VecDeque::new(),
            parked: VecDeque::new(),
            turning: false,
            tick_us: None,
            turns: 0,
        });
        Self { shards: shards.collect(), mesh: BTreeMap::new(), recovering: config.partitions }
    }

    pub fn shard(&mut self, shard: ShardId) -> &mut Shard {
        &mut self.shards[shard.0 as usize]
    }

    pub fn owner(&self, partition: PartitionId) -> ShardId {
        route::shard_of(partition, self.shards.len() as u16)
    }

    /// Takes a message on; when it arrives: never before an earlier one.
    pub fn post(&mut self, from: ShardId, to: ShardId, message: MeshMessage, at_us: u64) -> u64 {
        assert!(from != to, "a shard does not write to itself");
        let lane = self.mesh.entry((from, to)).or_default();
        lane.queue.push_back(message);
        lane.last_us = lane.last_us.max(at_us);
        lane.last_us
    }

    /// The next message of the lane arrives.
    pub fn arrive(&mut self, from: ShardId, to: ShardId) {
        let lane = self.mesh.get_mut(&(from, to)).expect("a message was posted");
        let message = lane.queue.pop_front().expect("a message was posted");
        self.shard(to).inbox.push_back(Input::Mesh { from, message });
    }

    pub fn is_drained(&self) -> bool {
        let idle = |s: &Shard| s.inbox.is_empty() && s.parked.is_empty() && s.engine.is_drained();
        self.mesh.values().all(|lane| lane.queue.is_empty()) && self.shards.iter().all(idle)
    }
}

impl Shard {
    /// The next input, if it may be given now. What needs room waits in `parked`, and what came
    /// behind it on the same way in waits with it.
    pub fn next(&mut self) -> Option<Input> {
        loop {
            let input = self.inbox.pop_front()?;
            match &input {
                Input::Request { .. } | Input::Drain => {
                    let first = self.parked.iter().all(|parked| passes(&input, parked));
                    if first && self.has_room_for(&input) {
                        return Some(input);
                    }
                    self.parked.push_back(input);
                }
                Input::SessionClosed { session } => {
                    // Its requests were never read from the socket.
                    self.forget(*session);
                    return Some(input);
                }
                _ => return Some(input),
            }
        }
    }

    /// The oldest parked input, if there is room for it.
    pub fn unpark(&mut self) -> Option<Input> {
        let at = self.next_parked()?;
        self.parked.remove(at)
    }

    /// Which of the parked may be given now: what waits for jobs is passed by all else, but for the
    /// order to drain.
    pub fn next_parked(&self) -> Option<usize> {
        let at = self.parked.iter().position(|input| self.has_room_for(input))?;
        let mut before = self.parked.iter().take(at);
        before.all(|parked| passes(&self.parked[at], parked)).then_some(at)
    }

    fn has_room_for(&self, input: &Input) -> bool {
        if is_publish(input) { self.engine.takes_publishes() } else { self.engine.has_room() }
    }

    fn forget(&mut self, closed: SessionId) {
        self.parked.retain(|input| match input {
            Input::Request { from, .. } => from.session != closed,
            _ => true,
        });
    }
}

fn is_publish(input: &Input) -> bool {
    matches!(input, Input::Request { request: Request::Publish(_), .. })
}

/// Whether `input` may be given though `parked` came first and still waits.
fn passes(input: &Input, parked: &Input) -> bool {
    is_publish(parked) && !is_publish(input) && !matches!(input, Input::Drain)
}
