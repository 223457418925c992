//! Tests of the gate's two halves, with the shard's part played by hand.

use super::*;
use crate::base::ids::PartitionId;
use futures_lite::future::{block_on, poll_once};
use std::pin::pin;

struct Place {
    gate: Gate,
    door: Door,
    desk: Rc<Desk>,
    inbox: Rc<Inbox>,
}

impl Place {
    fn new() -> Self {
        let (gate, door) = gate(ShardId(0));
        let inbox = Rc::new(Inbox::default());
        let desk = Desk::new(inbox.clone(), Rc::new(Counters::new()));
        Self { gate, door, desk, inbox }
    }

    fn turn(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.desk.poll(&mut self.door, &|_| (), &mut cx);
    }

    fn open(&mut self) -> (GateStream, Caller) {
        let opened = self.gate.open(Request::Partitions(None));
        let stream = block_on(opened).expect("there is room");
        self.turn();
        let (from, _) = self.inbox.take_request(true).expect("the request came in");
        (stream, from)
    }
}

#[test]
fn a_call_is_answered() {
    let mut place = Place::new();
    let gate = place.gate.clone();
    let mut call = pin!(gate.call(Request::Partitions(None)));
    assert!(block_on(poll_once(&mut call)).is_none());
    place.turn();
    let (from, _) = place.inbox.take_request(true).expect("the request came in");
    assert!(is_gate(from.session) && place.desk.is_open(from.session));
    place.desk.reply(from, Reply::Partitions(vec![]));
    let answer = block_on(poll_once(&mut call)).expect("answered");
    assert!(matches!(answer, Ok(Reply::Partitions(list)) if list.is_empty()));
}

#[test]
fn a_failure_is_an_error_and_an_ended_shard_too() {
    let mut place = Place::new();
    let gate = place.gate.clone();
    let mut call = pin!(gate.call(Request::Partitions(None)));
    assert!(block_on(poll_once(&mut call)).is_none());
    place.turn();
    let (from, _) = place.inbox.take_request(true).expect("the request came in");
    place.desk.reply(from, Reply::Failed(ApiError::invalid("no")));
    let answer = block_on(poll_once(&mut call)).expect("answered");
    assert_eq!(answer.expect_err("an error").code, ErrorCode::InvalidArgument);

    drop(place);
    let answer = block_on(gate.call(Request::Partitions(None)));
    assert_eq!(answer.expect_err("an error").code, ErrorCode::Unavailable);
}

#[test]
fn a_taken_message_is_told_to_the_engine() {
    let mut place = Place::new();
    let (mut stream, from) = place.open();
    let message = StreamMessage::Replayed { events: vec![], not_before: 0 };
    place.desk.stream(from.session, message, (SubscriptionId(7), 70));
    place.turn();
    assert!(place.inbox.take().is_none(), "not taken yet");
    assert!(matches!(block_on(stream.next()), Some(StreamMessage::Replayed { .. })));
    place.turn();
    assert!(matches!(
        place.inbox.take(),
        Some(Input::Sent { subscription: SubscriptionId(7), bytes: 70, batches: 1 })
    ));
    place.desk.reply(from, Reply::StreamEnd(Ok(())));
    assert!(matches!(block_on(stream.next()), Some(StreamMessage::End(Ok(())))));
    assert!(block_on(stream.next()).is_none());
}

#[test]
fn dropping_a_stream_closes_its_session() {
    let mut place = Place::new();
    let (stream, from) = place.open();
    assert!(place.desk.is_open(from.session));
    drop(stream);
    place.turn();
    assert!(!place.desk.is_open(from.session));
    let told = place.inbox.take();
    assert!(matches!(told, Some(Input::SessionClosed { session }) if session == from.session));
}

#[test]
fn a_stream_dropped_before_it_is_let_in_is_never_opened() {
    let mut place = Place::new();
    drop(block_on(place.gate.open(Request::Partitions(None))).expect("there is room"));
    place.turn();
    assert!(place.inbox.take_request(true).is_none() && place.inbox.take().is_none());
}

#[test]
fn callers_wait_when_the_shard_is_full() {
    let mut place = Place::new();
    for correlation in 0.. {
        if !place.inbox.has_room(Asks::Other) {
            break;
        }
        let from = Caller { session: SessionId(1), correlation };
        place.inbox.push_request(from, Request::Partitions(None));
    }
    let gate = place.gate.clone();
    let mut calls: Vec<_> = (0..=WAITING).map(|_| Box::pin(gate.stats())).collect();
    for call in &mut calls {
        assert!(block_on(poll_once(call)).is_none());
    }
    place.turn();
    assert!(!place.desk.wants_stats(), "nobody is let in while the inbox is full");
    while place.inbox.take_request(true).is_some() {}
    place.turn();
    assert!(place.desk.wants_stats());
    assert_eq!(place.desk.stats.borrow().len(), WAITING);
}

#[test]
fn nobody_is_let_in_while_the_shard_drains() {
    let mut place = Place::new();
    place.desk.drain();
    let gate = place.gate.clone();
    let mut call = pin!(gate.call(Request::Partitions(None)));
    assert!(block_on(poll_once(&mut call)).is_none());
    let mut stream = block_on(gate.open(Request::Partitions(None))).expect("there is room");
    place.turn();
    let refused = block_on(poll_once(&mut call)).expect("answered").expect_err("refused");
    assert_eq!(refused.code, ErrorCode::Unavailable);
    let end = block_on(stream.next());
    assert!(matches!(end, Some(StreamMessage::End(Err(e))) if e.code == ErrorCode::Unavailable));
    assert!(place.inbox.take_request(true).is_none());
}

#[test]
fn cuts_are_given_when_the_pump_has_them() {
    let mut place = Place::new();
    let gate = place.gate.clone();
    let mut cuts = pin!(gate.cuts());
    assert!(block_on(poll_once(&mut cuts)).is_none());
    place.turn();
    assert!(place.desk.wants_cuts());
    let given = vec![Err(NoCut::NotServing { partition: PartitionId(3) })];
    place.desk.give_cuts(&given);
    assert!(!place.desk.wants_cuts());
    let answer = block_on(poll_once(&mut cuts)).expect("answered");
    assert_eq!(answer.expect("cuts"), given);
}
