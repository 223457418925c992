//! What has happened and waits to be told to the engine.
//!
//! Happenings (completions, messages of other shards, sent bytes, closed sessions) are always taken
//! and are bounded by what the engine has asked for. Requests are taken only while the engine has
//! room and are bounded here: when a queue is full, sessions and the gate wait for room and stop
//! reading. Publishes are bounded apart, since they may have to wait for jobs where all else may
//! not. Whose request is next: `requests`. One task, the pump, takes from all; a push wakes it at
//! most once per turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::requests::{Requests, asks};
use crate::base::api::Request;
use crate::base::ids::Caller;
use crate::engine::Input;

/// Requests that wait for the pump at most: publishes, and as many others.
const REQUESTS: usize = 2_048;
/// Bytes of the publish messages among them at most; one larger message passes alone.
const REQUEST_BYTES: usize = 32 << 20;

/// What a request is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// To store events.
    Publish,
    /// Anything else.
    Other,
}

/// The queues of one shard. Shared by the tasks of its executor.
pub(super) struct Inbox {
    happenings: RefCell<VecDeque<Input>>,
    requests: RefCell<Requests>,
    /// Wakers of those who wait for room for a publish, and for another request.
    waiting: [RefCell<Vec<Waker>>; 2],
    /// Bytes of the publishes among the requests.
    request_bytes: Cell<usize>,
    /// The pump's, while it sleeps.
    pump: Cell<Option<Waker>>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            happenings: RefCell::default(),
            requests: RefCell::new(Requests::new()),
            waiting: Default::default(),
            request_bytes: Cell::new(0),
            pump: Cell::default(),
        }
    }
}

impl Inbox {
    /// Tells the engine something, soon.
    pub(super) fn push(&self, input: Input) {
        self.happenings.borrow_mut().push_back(input);
        self.wake();
    }

    /// Asks the engine for something. The caller has waited for [`Inbox::poll_room`].
    pub(super) fn push_request(&self, from: Caller, request: Request) {
        self.request_bytes.set(self.request_bytes.get() + size(&request));
        self.requests.borrow_mut().push(from, request);
        self.wake();
    }

    /// Whether such a request may be pushed.
    pub(super) fn has_room(&self, asks: Asks) -> bool {
        let bytes = asks == Asks::Other || self.request_bytes.get() < REQUEST_BYTES;
        bytes && self.requests.borrow().waiting(asks) < REQUESTS
    }

    /// Ready when such a request may be pushed; else the task of `cx` is woken when it is time to
    /// ask again.
    pub(super) fn poll_room(&self, cx: &Context<'_>, asks: Asks) -> Poll<()> {
        if self.has_room(asks) {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting[asks as usize].borrow_mut();
        // Publishes may wait for long, and a task that waits may be polled for other reasons: to
        // ask again adds nothing, unless another has asked in between.
        if !waiting.last().is_some_and(|last| last.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The next happening, for the pump.
    pub(super) fn take(&self) -> Option<Input> {
        self.happenings.borrow_mut().pop_front()
    }

    /// The next request, for the pump; only while the engine has room, and publishes only while it
    /// takes them.
    pub(super) fn take_request(&self, publishes: bool) -> Option<(Caller, Request)> {
        let mut requests = self.requests.borrow_mut();
        let (from, request) = requests.pop(publishes)?;
        let asks = asks(&request);
        self.request_bytes.set(self.request_bytes.get() - size(&request));
        if requests.waiting(asks) <= REQUESTS / 2 {
            self.waiting[asks as usize].borrow_mut().drain(..).for_each(Waker::wake);
        }
        Some((from, request))
    }

    /// Whether there is something to take: where the engine has room, and takes publishes.
    pub(super) fn has_work(&self, has_room: bool, publishes: bool) -> bool {
        let any = |asks| self.requests.borrow().waiting(asks) > 0;
        !self.happenings.borrow().is_empty()
            || has_room && (any(Asks::Other) || publishes && any(Asks::Publish))
    }

    /// Requests that wait.
    pub(super) fn waiting_requests(&self) -> usize {
        self.requests.borrow().len()
    }

    /// Remembers the pump's waker; the next push uses it.
    pub(super) fn pump_sleeps(&self, cx: &Context<'_>) {
        self.pump.set(Some(cx.waker().clone()));
    }

    /// Wakes the pump if it sleeps.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.pump.take() {
            waker.wake();
        }
    }
}

/// The bytes a request holds on to, about.
pub(super) fn size(request: &Request) -> usize {
    match request {
        Request::Publish(message) => message.bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::api::PublishMessage;
    use crate::base::ids::SessionId;

    fn ask(inbox: &Inbox, correlation: u64, asks: Asks) {
        let from = Caller { session: SessionId(1), correlation };
        let request = match asks {
            Asks::Publish => Request::Publish(PublishMessage::default()),
            Asks::Other => Request::Partitions(None),
        };
        inbox.push_request(from, request);
    }

    fn take(inbox: &Inbox, publishes: bool) -> Option<u64> {
        inbox.take_request(publishes).map(|(from, _)| from.correlation)
    }

    #[test]
    fn requests_are_bounded_and_keep_their_order() {
        for asks in [Asks::Publish, Asks::Other] {
            let inbox = Inbox::default();
            for i in 0..REQUESTS {
                assert!(inbox.has_room(asks));
                ask(&inbox, i as u64, asks);
            }
            assert!(!inbox.has_room(asks));
            let cx = Context::from_waker(Waker::noop());
            assert!(inbox.poll_room(&cx, asks).is_pending(), "full: wait");
            assert!(inbox.poll_room(&cx, asks).is_pending(), "asked for another reason");
            assert_eq!(inbox.waiting[asks as usize].borrow().len(), 1, "it waits once");
            let other = if asks == Asks::Publish { Asks::Other } else { Asks::Publish };
            assert!(inbox.poll_room(&cx, other).is_ready(), "the other queue is empty");
            for i in 0..REQUESTS / 2 {
                assert_eq!(take(&inbox, true), Some(i as u64));
            }
            assert!(inbox.poll_room(&cx, asks).is_ready(), "half empty: go on");
            assert!(inbox.waiting[asks as usize].borrow().is_empty(), "who waited was woken");
        }
    }

    #[test]
    fn bytes_of_publishes_are_bounded_and_hold_nothing_else_back() {
        let inbox = Inbox::default();
        let from = Caller { session: SessionId(1), correlation: 0 };
        let bytes = vec![0; REQUEST_BYTES].into();
        let message = PublishMessage { bytes, ..PublishMessage::default() };
        inbox.push_request(from, Request::Publish(message));
        assert!(!inbox.has_room(Asks::Publish) && inbox.has_room(Asks::Other));
        take(&inbox, true).expect("one");
        assert!(inbox.has_room(Asks::Publish));
    }

    #[test]
    fn happenings_come_even_when_the_engine_is_full() {
        let inbox = Inbox::default();
        ask(&inbox, 1, Asks::Other);
        assert!(inbox.has_work(true, false) && !inbox.has_work(false, false));
        inbox.push(Input::Tick);
        assert!(inbox.has_work(false, false));
        assert!(matches!(inbox.take(), Some(Input::Tick)));
        assert!(inbox.take().is_none());
    }
}
