//! Events of a group that are not to be handed out: a member has them, or a verdict on them is
//! proposed. One look tells which, since every ack asks.
//!
//! Must hold: an event is leased to one member at a time.

use std::collections::HashMap;

use ahash::RandomState;

use super::lease::Lease;
use crate::base::ids::Position;

/// What is being done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// A member has it.
    Leased(Lease),
    /// An ack, nack or expiry is proposed and not applied.
    Settling(Settling),
}

/// What is proposed for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// It will be settled.
    Done,
    /// It will be tried again.
    Retry,
}

/// Two fit into a line of the processor's cache, with their positions.
const _: () = assert!(size_of::<(Position, Busy)>() == 32);

/// See the module.
#[derive(Debug)]
pub struct BusyEvents {
    events: HashMap<Position, Busy, RandomState>,
    leased: usize,
}

impl Default for BusyEvents {
    fn default() -> Self {
        // Fixed seeds: the same inputs give the same effects, in the simulator and everywhere.
        let state = RandomState::with_seeds(1, 2, 3, 4);
        Self { events: HashMap::with_hasher(state), leased: 0 }
    }
}

impl BusyEvents {
    /// Events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Those of them that members have.
    pub fn leased(&self) -> usize {
        self.leased
    }

    /// Whether the event is among them.
    pub fn contains(&self, position: Position) -> bool {
        self.events.contains_key(&position)
    }

    /// What is being done with an event.
    pub fn get(&self, position: Position) -> Option<Busy> {
        self.events.get(&position).copied()
    }

    /// The lease of an event.
    pub fn lease(&self, position: Position) -> Option<Lease> {
        self.get(position).and_then(Busy::lease)
    }

    /// All leases, in no order.
    pub fn leases(&self) -> impl Iterator<Item = (Position, Lease)> + '_ {
        self.events.iter().filter_map(|(position, busy)| Some((*position, busy.lease()?)))
    }

    /// A member gets an event that was free.
    pub fn lend(&mut self, position: Position, lease: Lease) {
        let before = self.events.insert(position, Busy::Leased(lease));
        assert!(before.is_none(), "an event is leased to one member at a time");
        self.leased += 1;
    }

    /// A lease is another from now on.
    pub fn renew(&mut self, position: Position, lease: Lease) {
        let before = self.events.insert(position, Busy::Leased(lease));
        assert!(matches!(before, Some(Busy::Leased(_))), "only a lease is renewed");
    }

    /// A verdict is proposed. Returns the lease that ends by it.
    pub fn judge(&mut self, position: Position, settling: Settling) -> Option<Lease> {
        let before = self.events.insert(position, Busy::Settling(settling));
        self.ended(before)
    }

    /// The event is not busy any more. Returns the lease that ends by it.
    pub fn remove(&mut self, position: Position) -> Option<Lease> {
        let before = self.events.remove(&position);
        self.ended(before)
    }

    fn ended(&mut self, before: Option<Busy>) -> Option<Lease> {
        let lease = before?.lease();
        self.leased -= usize::from(lease.is_some());
        lease
    }
}

impl Busy {
    fn lease(self) -> Option<Lease> {
        match self {
            Self::Leased(lease) => Some(lease),
            Self::Settling(_) => None,
        }
    }
}
