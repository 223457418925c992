//! Where answers go: to the connection or the gate's stream that asked.
//!
//! Knows every session of the shard that is open. An answer for a session that is gone is dropped
//! here. Connections that were given something in a turn are flushed at its end, each with one
//! write.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;

use super::gate::{Desk, StreamMessage, is_gate};
use super::outgoing::{Flushed, Sent};
use super::session::Connection;
use crate::base::api::{Delivery, Replayed, Reply};
use crate::base::ids::{Caller, SessionId, SubscriptionId};
use crate::base::time::Now;

/// The open sessions of one shard.
pub(super) struct Route {
    desk: Rc<Desk>,
    connections: RefCell<AHashMap<SessionId, Rc<Connection>>>,
    /// Given something that has not been flushed.
    touched: RefCell<Vec<Rc<Connection>>>,
    /// Held back by the clock: to be tried again at this moment, Unix ms.
    held: RefCell<Vec<(u64, Rc<Connection>)>>,
}

impl Route {
    /// A route without connections.
    pub(super) fn new(desk: Rc<Desk>) -> Rc<Self> {
        Rc::new(Self {
            desk,
            connections: RefCell::default(),
            touched: RefCell::default(),
            held: RefCell::default(),
        })
    }

    /// Takes a connection in.
    pub(super) fn insert(&self, connection: Rc<Connection>) {
        let before = self.connections.borrow_mut().insert(connection.id, connection);
        assert!(before.is_none(), "session numbers are used once");
    }

    /// Forgets a connection.
    pub(super) fn remove(&self, session: SessionId) {
        self.connections.borrow_mut().remove(&session);
    }

    /// Open connections.
    pub(super) fn len(&self) -> usize {
        self.connections.borrow().len()
    }

    /// All open connections, as they are now.
    pub(super) fn connections(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().values().cloned().collect()
    }

    /// Whether the session may still ask and be answered.
    pub(super) fn is_open(&self, session: SessionId) -> bool {
        if is_gate(session) {
            return self.desk.is_open(session);
        }
        self.connections.borrow().contains_key(&session)
    }

    /// Passes an answer on.
    pub(super) fn reply(&self, to: Caller, reply: Reply) {
        if is_gate(to.session) {
            return self.desk.reply(to, reply);
        }
        self.with(to.session, |connection| connection.reply(to.correlation, reply));
    }

    /// Passes deliveries on.
    pub(super) fn deliver(
        &self,
        to: Caller,
        sent: (SubscriptionId, u64),
        group: Arc<str>,
        deliveries: Vec<Delivery>,
        not_before: u64,
    ) {
        assert!(!deliveries.is_empty());
        let message = StreamMessage::Deliveries { group, deliveries, not_before };
        self.stream(to, message, sent);
    }

    /// Passes events of a replay on.
    pub(super) fn replay(
        &self,
        to: Caller,
        sent: (SubscriptionId, u64),
        events: Vec<Replayed>,
        not_before: u64,
    ) {
        assert!(!events.is_empty());
        self.stream(to, StreamMessage::Replayed { events, not_before }, sent);
    }

    fn stream(&self, to: Caller, message: StreamMessage, sent: (SubscriptionId, u64)) {
        if is_gate(to.session) {
            return self.desk.stream(to.session, message, sent);
        }
        let (subscription, bytes) = sent;
        let sent = Sent { subscription, bytes, batches: 1 };
        self.with(to.session, |connection| connection.stream(to.correlation, message, sent));
    }

    fn with(&self, session: SessionId, give: impl FnOnce(&Connection)) {
        // It may be closed while it is given something: nothing of the map is held meanwhile.
        let found = self.connections.borrow().get(&session).cloned();
        if let Some(connection) = found {
            give(&connection);
            if connection.touch() {
                self.touched.borrow_mut().push(connection);
            }
        }
    }

    /// Sends what the turn has for its connections.
    pub(super) fn flush(self: &Rc<Self>) {
        let held = std::mem::take(&mut *self.held.borrow_mut());
        let touched = std::mem::take(&mut *self.touched.borrow_mut());
        for connection in held.into_iter().map(|(_, held)| held).chain(touched) {
            match connection.flush() {
                Flushed::Done => {}
                Flushed::Held(until) => self.hold(until, connection),
            }
        }
    }

    /// Tries the connection again when the wall clock reads `until` (Unix ms).
    pub(super) fn hold(&self, until: u64, connection: Rc<Connection>) {
        self.held.borrow_mut().push((until, connection));
    }

    /// When a connection is to be flushed again, boot time in us.
    pub(super) fn deadline(&self, now: Now) -> Option<u64> {
        let until = self.held.borrow().iter().map(|(until, _)| *until).min()?;
        Some(now.boot_us + (until * 1_000).saturating_sub(now.wall_us))
    }

    /// No session takes requests any more, and streams end.
    pub(super) fn drain(&self) {
        self.desk.drain();
        for connection in self.connections() {
            connection.drain();
            if connection.touch() {
                self.touched.borrow_mut().push(connection);
            }
        }
    }

    /// Whether all answers have left.
    pub(super) fn is_flushed(&self) -> bool {
        self.connections.borrow().values().all(|connection| connection.is_flushed())
    }
}
