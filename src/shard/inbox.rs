//! What has happened and waits to be told to the engine.
//!
//! Two queues: happenings (completions, messages of other shards, sent bytes, closed sessions),
//! which are always taken and are bounded by what the engine has asked for, and requests, which are
//! taken only while the engine has room and are bounded here: when the queue is full, sessions and
//! the gate wait for room and stop reading. One task, the pump, takes from both; a push wakes it at
//! most once per turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use crate::base::api::Request;
use crate::base::ids::Caller;
use crate::engine::Input;

/// Requests that wait for the pump at most.
const REQUESTS: usize = 2_048;
/// Bytes of the publish messages among them at most; one larger message passes alone.
const REQUEST_BYTES: usize = 32 << 20;

/// The queues of one shard. Shared by the tasks of its executor.
#[derive(Default)]
pub(super) struct Inbox {
    happenings: RefCell<VecDeque<Input>>,
    requests: RefCell<VecDeque<(Caller, Request)>>,
    request_bytes: Cell<usize>,
    /// The pump's, while it sleeps.
    pump: Cell<Option<Waker>>,
    /// Of those who wait for room.
    waiting: RefCell<Vec<Waker>>,
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
        self.requests.borrow_mut().push_back((from, request));
        self.wake();
    }

    /// Whether a request may be pushed.
    pub(super) fn has_room(&self) -> bool {
        self.requests.borrow().len() < REQUESTS && self.request_bytes.get() < REQUEST_BYTES
    }

    /// Ready when a request may be pushed; else the task of `cx` is woken when it is time to ask
    /// again.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }

    /// The next happening, for the pump.
    pub(super) fn take(&self) -> Option<Input> {
        self.happenings.borrow_mut().pop_front()
    }

    /// The next request, for the pump; only while the engine has room.
    pub(super) fn take_request(&self) -> Option<(Caller, Request)> {
        let taken = self.requests.borrow_mut().pop_front()?;
        self.request_bytes.set(self.request_bytes.get() - size(&taken.1));
        if !self.waiting.borrow().is_empty() && self.requests.borrow().len() <= REQUESTS / 2 {
            self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        }
        Some(taken)
    }

    /// Whether there is something to take.
    pub(super) fn has_work(&self, engine_has_room: bool) -> bool {
        !self.happenings.borrow().is_empty()
            || (engine_has_room && !self.requests.borrow().is_empty())
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
    use crate::base::ids::SessionId;

    fn ask(inbox: &Inbox, correlation: u64) {
        let from = Caller { session: SessionId(1), correlation };
        inbox.push_request(from, Request::Partitions(None));
    }

    #[test]
    fn requests_are_bounded_and_keep_their_order() {
        let inbox = Inbox::default();
        for i in 0..REQUESTS {
            assert!(inbox.has_room());
            ask(&inbox, i as u64);
        }
        assert!(!inbox.has_room());
        let cx = Context::from_waker(Waker::noop());
        assert!(inbox.poll_room(&cx).is_pending(), "full: wait");
        for i in 0..REQUESTS / 2 {
            let (from, _) = inbox.take_request().expect("one");
            assert_eq!(from.correlation, i as u64);
        }
        assert!(inbox.poll_room(&cx).is_ready(), "half empty: go on");
        assert!(inbox.waiting.borrow().is_empty(), "who waited was woken");
    }

    #[test]
    fn happenings_come_even_when_the_engine_is_full() {
        let inbox = Inbox::default();
        ask(&inbox, 1);
        assert!(inbox.has_work(true) && !inbox.has_work(false));
        inbox.push(Input::Tick);
        assert!(inbox.has_work(false));
        assert!(matches!(inbox.take(), Some(Input::Tick)));
        assert!(inbox.take().is_none());
    }
}
