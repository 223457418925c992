//! Requests that wait for the pump, in fair order: start-time fair queueing (Goyal, Vin and Cheng,
//! SIGCOMM 1996) over the sessions, by the events that a request is about.
//!
//! A session that asks for much queues behind itself, not before others: what one that has nothing
//! waiting asks for comes next, however many acks of another wait. Requests of one session keep
//! their order, but for publishes: they may have to wait for jobs where all else may not.
//!
//! Must hold: every request is taken once; a session is remembered for little longer than it is
//! ahead of others.

use std::collections::BTreeMap;

use ahash::{HashMap, HashMapExt};

use super::inbox::Asks;
use crate::base::api::Request;
use crate::base::ids::{Caller, SessionId};

/// Sessions that are remembered before it is looked who of them is ahead.
const SESSIONS: usize = 64;

/// When a request's turn is, in events served before it, and its number: no two are the same.
type Turn = (u64, u64);
/// Requests of a kind.
type Queue = BTreeMap<Turn, (Caller, Request)>;

/// See the module.
pub(super) struct Requests {
    publishes: Queue,
    /// All other requests.
    others: Queue,
    /// Where the next request of a session begins, if it is ahead of `now`.
    ahead: HashMap<SessionId, u64>,
    /// Sessions in `ahead` at which it is looked who still is.
    look_at: usize,
    /// The turn of what was taken last, or the end of all if nothing waits.
    now: u64,
    /// The end of all that was asked for.
    end: u64,
    /// Number of the next request.
    next: u64,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            publishes: Queue::new(),
            others: Queue::new(),
            ahead: HashMap::new(),
            look_at: SESSIONS,
            now: 0,
            end: 0,
            next: 0,
        }
    }

    /// Adds a request behind those of its session.
    pub(super) fn push(&mut self, from: Caller, request: Request) {
        let cost = if cfg!(bug_serve_in_order_of_arrival) { 0 } else { events(&request) };
        let start = self.ahead.get(&from.session).map_or(self.now, |at| self.now.max(*at));
        self.ahead.insert(from.session, start + cost);
        self.end = self.end.max(start + cost);
        let turn = (start, self.next);
        self.next += 1;
        let before = self.queue_mut(asks(&request)).insert(turn, (from, request));
        assert!(before.is_none(), "each request has a number of its own");
        if self.ahead.len() >= self.look_at {
            let now = self.now;
            self.ahead.retain(|_, at| *at > now);
            self.look_at = 2 * self.ahead.len() + SESSIONS;
        }
    }

    /// The one whose turn is next; publishes only if they are taken now.
    pub(super) fn pop(&mut self, publishes: bool) -> Option<(Caller, Request)> {
        let turn = |queue: &Queue| queue.first_key_value().map(|(turn, _)| *turn);
        let publish = turn(&self.publishes).filter(|_| publishes);
        let asks = match (publish, turn(&self.others)) {
            (Some(publish), other) if other.is_none_or(|other| publish < other) => Asks::Publish,
            (_, Some(_)) => Asks::Other,
            (_, None) => return None,
        };
        let ((start, _), request) = self.queue_mut(asks).pop_first()?;
        // Publishes that had to wait have their turn behind what has passed them.
        self.now = if self.len() == 0 { self.end } else { self.now.max(start) };
        Some(request)
    }

    /// Those of a kind that wait.
    pub(super) fn waiting(&self, asks: Asks) -> usize {
        if asks == Asks::Publish { self.publishes.len() } else { self.others.len() }
    }

    /// All that wait.
    pub(super) fn len(&self) -> usize {
        self.publishes.len() + self.others.len()
    }

    fn queue_mut(&mut self, asks: Asks) -> &mut Queue {
        if asks == Asks::Publish { &mut self.publishes } else { &mut self.others }
    }
}

/// What a request is.
pub(super) fn asks(request: &Request) -> Asks {
    if matches!(request, Request::Publish(_)) { Asks::Publish } else { Asks::Other }
}

/// Events that a request is about; what asks for a stream or a list counts as one.
fn events(request: &Request) -> u64 {
    match request {
        Request::Publish(message) => message.events.len() as u64,
        Request::Ack(verdicts) => verdicts.len() as u64,
        _ => 1,
    }
    .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::api::{AckSpec, EventSpan, PublishMessage, Verdict};

    fn acks(count: usize) -> Request {
        Request::Ack(vec![AckSpec { id: None, verdict: Verdict::Ack }; count])
    }

    fn publish(count: usize) -> Request {
        let events = vec![EventSpan::default(); count];
        Request::Publish(PublishMessage { events, ..PublishMessage::default() })
    }

    fn ask(requests: &mut Requests, session: u64, correlation: u64, request: Request) {
        requests.push(Caller { session: SessionId(session), correlation }, request);
    }

    /// Session and correlation of what is taken.
    fn take(requests: &mut Requests) -> Option<(u64, u64)> {
        requests.pop(true).map(|(from, _)| (from.session.0, from.correlation))
    }

    #[test]
    fn who_asks_for_little_does_not_wait_for_who_asks_for_much() {
        let mut requests = Requests::new();
        (0..10).for_each(|n| ask(&mut requests, 1, n, acks(4_096)));
        assert_eq!(take(&mut requests), Some((1, 0)), "alone it waits for nobody");
        ask(&mut requests, 2, 0, publish(1));
        ask(&mut requests, 2, 1, acks(1));
        assert_eq!(take(&mut requests), Some((2, 0)));
        assert_eq!(take(&mut requests), Some((2, 1)));
        (1..10).for_each(|n| assert_eq!(take(&mut requests), Some((1, n)), "in its order"));
        assert_eq!((take(&mut requests), requests.len()), (None, 0));
    }

    #[test]
    fn two_that_ask_for_much_share_by_events() {
        let mut requests = Requests::new();
        (0..8).for_each(|n| ask(&mut requests, 1, n, acks(100)));
        (0..24).for_each(|n| ask(&mut requests, 2, n, publish(50)));
        let mut events = [0, 0, 0];
        for _ in 0..24 {
            let (session, _) = take(&mut requests).expect("one waits");
            events[session as usize] += if session == 1 { 100 } else { 50 };
            assert!(u64::abs_diff(events[1], events[2]) <= 100, "{events:?}");
        }
    }

    #[test]
    fn publishes_that_have_to_wait_hold_nothing_else_back() {
        let mut requests = Requests::new();
        ask(&mut requests, 1, 0, publish(1));
        ask(&mut requests, 1, 1, acks(1));
        ask(&mut requests, 1, 2, publish(1));
        let passed = requests.pop(false).map(|(from, _)| from.correlation);
        assert_eq!((passed, requests.pop(false).is_none()), (Some(1), true));
        assert_eq!(requests.waiting(Asks::Publish), 2);
        assert_eq!([take(&mut requests), take(&mut requests)], [Some((1, 0)), Some((1, 2))]);
    }

    #[test]
    fn sessions_are_forgotten_when_they_are_not_ahead() {
        let mut requests = Requests::new();
        for session in 0..10_000 {
            ask(&mut requests, session, 0, acks(1));
            take(&mut requests).expect("one waits");
            assert!(requests.ahead.len() <= SESSIONS + 2, "{}", requests.ahead.len());
        }
        // As many as all have something waiting; the first comes round again and again.
        for session in 0..1_000 {
            ask(&mut requests, session, 0, acks(1));
        }
        for round in 0..20_000 {
            let (session, _) = take(&mut requests).expect("one waits");
            assert_eq!(session, round % 1_000, "each in its turn");
            ask(&mut requests, session, 0, acks(1));
            assert!(requests.ahead.len() <= 2 * 1_000 + SESSIONS);
        }
    }
}
