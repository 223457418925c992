//! One client connection: frames in, requests to the inbox; answers and deliveries out.
//!
//! Two tasks. The reader takes bytes as they come (its buffer grows with what was received, never
//! with what a header promises), and stops reading while the connection has too much under way:
//! requests unanswered ([`limits::SESSION_IN_FLIGHT`]), bytes to be sent
//! ([`limits::CONNECTION_OUT_BYTES`]), or a full inbox. Answers are appended by the pump and leave
//! with one write per turn; only when the socket takes no more does the writer task carry on. What
//! streams send waits in the [`Backlog`] until there is room for it.
//!
//! A fault of the peer closes this connection alone. For "never early" see [`Outgoing::leave`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::backlog::Backlog;
use super::clock::breathe;
use super::gate::{StreamMessage, shutting_down};
use super::inbox::{self, Asks};
use super::ledger::{Ledger, opens_stream};
use super::listener::{Permit, Place, Shared};
use super::outgoing::{Flushed, Leave, Outgoing, Sent};
use super::patience::{Overdue, Patience};
use crate::base::api::Reply;
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Caller, SessionId};
use crate::base::limits;
use crate::base::time::{Now, wall_ms};
use crate::engine::Input;
use crate::wire::frame::{self, Frame, FrameDecoder};
use crate::wire::kind::FrameKind;
use crate::wire::{reply, request};

/// Bytes that a reader takes in one go; then others have their turn.
const BREATH_BYTES: usize = 1 << 20;
/// What a frame costs beside its bytes, in bytes: many small ones are more work than a large one.
const FRAME_COST: usize = 1 << 10;

/// A client connection.
pub(super) struct Connection {
    /// Its session.
    pub(super) id: SessionId,
    shared: Rc<Shared>,
    stream: RefCell<TcpStream>,
    state: RefCell<State>,
}

struct State {
    out: Outgoing,
    backlog: Backlog,
    ledger: Ledger,
    patience: Patience,
    draining: bool,
    closed: bool,
    /// In the route's list of those to be flushed.
    touched: bool,
    /// Of the reader, while the connection has too much under way.
    reader: Option<Waker>,
    /// Of the writer, while the socket takes all.
    writer: Option<Waker>,
    /// Until it is closed.
    place: Option<Place>,
}

impl Connection {
    /// A connection that was just accepted, and its two tasks.
    pub(super) fn open(id: SessionId, shared: &Rc<Shared>, stream: TcpStream, place: Place) {
        let state = State {
            out: Outgoing::default(),
            backlog: Backlog::default(),
            ledger: Ledger::default(),
            patience: Patience::new(Now::read().boot_ms()),
            draining: false,
            closed: false,
            touched: false,
            reader: None,
            writer: None,
            place: Some(place),
        };
        let connection = Rc::new(Self {
            id,
            shared: shared.clone(),
            stream: RefCell::new(stream),
            state: RefCell::new(state),
        });
        shared.route.insert(connection.clone());
        shared.counters.count(|c| {
            c.connections += 1;
            c.connections_opened += 1;
        });
        glommio::spawn_local(connection.clone().write()).detach();
        glommio::spawn_local(connection.read()).detach();
    }

    // ------------------------------------------------------------------------------- reading

    async fn read(self: Rc<Self>) {
        let mut received = BytesMut::new();
        let mut permit = None;
        let mut since_breath = 0;
        let fault = loop {
            match self.take_frames(&mut received, &mut permit).await {
                Ok(Some(frames)) => since_breath += frames * FRAME_COST,
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            match poll_fn(|cx| self.poll_receive(cx, Some(&mut received))).await {
                Ok(0) | Err(_) => break None,
                Ok(count) => since_breath += count,
            }
            if since_breath >= BREATH_BYTES {
                since_breath = 0;
                breathe().await;
            }
        };
        if let Some(error) = fault {
            self.fault(&error);
            // Hanging up on bytes not read would make the peer's system drop what it was told.
            while let Ok(1..) = poll_fn(|cx| self.poll_receive(cx, None)).await {}
        }
        self.close();
    }

    /// Reads what is there into the shard's scratch memory and from there into the buffer.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        received: Option<&mut BytesMut>,
    ) -> Poll<io::Result<usize>> {
        if self.state.borrow().closed {
            return Poll::Ready(Ok(0));
        }
        let mut scratch = self.shared.scratch.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        let Poll::Ready(count) = Pin::new(&mut *stream).poll_read(cx, &mut scratch)? else {
            return Poll::Pending;
        };
        self.shared.counters.count(|c| c.bytes_in += count as u64);
        if let Some(received) = received {
            received.extend_from_slice(&scratch[..count]);
        }
        Poll::Ready(Ok(count))
    }

    /// Takes all complete frames off the buffer, and counts them; `None` when the connection is
    /// closed.
    async fn take_frames(
        self: &Rc<Self>,
        received: &mut BytesMut,
        permit: &mut Option<Permit>,
    ) -> Result<Option<usize>, ApiError> {
        let mut taken = 0;
        let begun = self.state.borrow_mut().patience.frame_rests();
        while let Some(header) =
            FrameDecoder::Requests.peek(received).map_err(frame::FrameFault::error)?
        {
            if received.len() < header.frame_bytes() {
                if header.frame_bytes() > limits::CONNECTION_IN_BYTES && permit.is_none() {
                    *permit = Some(self.shared.large_frames.acquire().await);
                }
                break;
            }
            let publishes = matches!(header.kind, FrameKind::Publish | FrameKind::PublishBatch);
            let asks = if publishes { Asks::Publish } else { Asks::Other };
            if !poll_fn(|cx| self.poll_ready(cx, asks)).await {
                return Ok(None);
            }
            let next = FrameDecoder::Requests.next(received).map_err(frame::FrameFault::error)?;
            *permit = None;
            self.take(next.expect("a complete frame"))?;
            taken += 1;
        }
        if !received.is_empty() {
            let since = begun.filter(|_| taken == 0).unwrap_or_else(|| Now::read().boot_ms());
            self.state.borrow_mut().patience.frame_awaited(since);
        }
        self.flush_own();
        Ok((!self.state.borrow().closed).then_some(taken))
    }

    /// Ready when the next frame may be worked on; `false` when the connection is closed.
    fn poll_ready(self: &Rc<Self>, cx: &Context<'_>, asks: Asks) -> Poll<bool> {
        if !self.state.borrow().out.has_room() {
            self.flush_own();
        }
        let mut state = self.state.borrow_mut();
        if state.closed {
            return Poll::Ready(false);
        }
        let room = !state.draining && state.ledger.has_room() && state.out.has_room();
        if room && self.shared.inbox.poll_room(cx, asks).is_ready() {
            return Poll::Ready(true);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn take(&self, frame: Frame) -> Result<(), ApiError> {
        let Frame { kind, correlation, body } = frame;
        let mut state = self.state.borrow_mut();
        if kind == FrameKind::Hello {
            let hello = request::hello(&body)?;
            if !state.patience.greet() {
                return Err(protocol("Hello comes once"));
            }
            tracing::debug!(session = %self.id, client = hello.client, "a client is connected");
            let ack = &*self.shared.hello_ack;
            return frame::put_message(state.out.frames(), FrameKind::HelloAck, correlation, ack);
        }
        if !state.patience.is_greeted() {
            return Err(protocol("the first frame must be Hello"));
        }
        if kind == FrameKind::Ping {
            frame::put_empty(state.out.frames(), FrameKind::Pong, correlation);
            return Ok(());
        }
        if correlation == 0 || state.ledger.contains(correlation) {
            return Err(protocol("a correlation id must not be 0, nor in use by an open request"));
        }
        let request = match request::decode(kind, body, &self.shared.bounds, wall_ms()) {
            Ok(request) => request,
            Err(error) => {
                reply::put_error(state.out.frames(), correlation, &error);
                return Ok(());
            }
        };
        if opens_stream(&request) && !state.ledger.has_stream_room() {
            let text = format!("a connection has at most {} streams", limits::SESSION_STREAMS);
            let error = ApiError::new(ErrorCode::ResourceExhausted, text);
            reply::put_error(state.out.frames(), correlation, &error);
            return Ok(());
        }
        state.ledger.begin(correlation, &request, inbox::size(&request));
        drop(state);
        self.shared.inbox.push_request(Caller { session: self.id, correlation }, request);
        Ok(())
    }

    // ------------------------------------------------------------------------------- writing

    /// Appends an answer of the engine.
    pub(super) fn reply(&self, correlation: u64, reply: Reply) {
        let mut state = self.state.borrow_mut();
        let Some(open) = state.ledger.answered(correlation, &reply) else { return };
        if open.stream && !state.backlog.is_empty() {
            // Behind what the stream still has to send.
            state.backlog.push_end(correlation, reply);
            return;
        }
        reply::put_reply(state.out.frames(), correlation, &reply, &self.shared.node_id);
        state.wake_reader();
    }

    /// Takes a message of a stream; `sent` is told once it has left.
    pub(super) fn stream(&self, correlation: u64, message: StreamMessage, sent: Sent) {
        let mut state = self.state.borrow_mut();
        if state.draining && !state.ledger.contains(correlation) {
            return; // its end has been told
        }
        state.backlog.push(correlation, message, sent);
        state.encode(&self.shared);
        let full = !state.backlog.is_empty() && !state.patience.is_blocked();
        drop(state);
        if full {
            // What is held by the clock is tried again at the end of the turn.
            let _held = self.offer();
        }
    }

    /// Notes that there is something to flush; `true` if that is news.
    pub(super) fn touch(&self) -> bool {
        !std::mem::replace(&mut self.state.borrow_mut().touched, true)
    }

    /// Sends what is there, as far as the socket takes it at once.
    pub(super) fn flush(&self) -> Flushed {
        self.state.borrow_mut().touched = false;
        self.offer()
    }

    fn offer(&self) -> Flushed {
        {
            let state = self.state.borrow();
            if state.patience.is_blocked() || state.closed {
                return Flushed::Done;
            }
        }
        match self.poll_send(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => {
                let mut state = self.state.borrow_mut();
                state.patience.blocked(Now::read().boot_ms());
                if let Some(writer) = state.writer.take() {
                    writer.wake();
                }
                Flushed::Done
            }
        }
    }

    /// Sends what the reader has appended.
    fn flush_own(self: &Rc<Self>) {
        if self.state.borrow().out.is_empty() {
            return;
        }
        if let Flushed::Held(until) = self.flush() {
            self.shared.route.hold(until, self.clone());
            self.shared.inbox.wake();
        }
    }

    async fn write(self: Rc<Self>) {
        loop {
            poll_fn(|cx| {
                let mut state = self.state.borrow_mut();
                if state.patience.is_blocked() || state.closed {
                    return Poll::Ready(());
                }
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            if self.state.borrow().closed {
                return;
            }
            let flushed = poll_fn(|cx| self.poll_send(cx)).await;
            self.state.borrow_mut().patience.unblocked();
            if let Flushed::Held(until) = flushed {
                self.shared.route.hold(until, self.clone());
                self.shared.inbox.wake();
            }
        }
    }

    /// Gives the socket what there is until it takes no more.
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<Flushed> {
        loop {
            let mut state = self.state.borrow_mut();
            if state.closed || state.out.is_empty() {
                return Poll::Ready(Flushed::Done);
            }
            match state.out.leave(wall_ms) {
                Leave::Now => {}
                Leave::From(until) => return Poll::Ready(Flushed::Held(until)),
                Leave::Never => {
                    drop(state);
                    tracing::warn!(session = %self.id, "the clock was stepped back: closing");
                    self.close();
                    return Poll::Ready(Flushed::Done);
                }
            }
            let written =
                Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, state.out.bytes());
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => state.sent(count, &self.shared),
                Poll::Ready(Err(_)) => {
                    drop(state);
                    self.close();
                    return Poll::Ready(Flushed::Done);
                }
            }
        }
    }

    // ------------------------------------------------------------------------------- the end

    /// Tells the peer what is wrong with the connection, as its last frame. Once.
    fn fault(&self, error: &ApiError) {
        {
            let mut state = self.state.borrow_mut();
            if state.closed || !state.patience.faulted(Now::read().boot_ms()) {
                return;
            }
            reply::put_error(state.out.frames(), 0, error);
        }
        tracing::debug!(session = %self.id, %error, "a client breaks the protocol");
        self.shared.counters.count(|c| c.connections_faulted += 1);
        let _held = self.flush();
        self.shutdown(Shutdown::Write);
    }

    /// Closes; the engine is told. Once.
    pub(super) fn close(&self) {
        {
            let mut state = self.state.borrow_mut();
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            state.wake_reader();
            state.place = None;
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
        }
        self.shutdown(Shutdown::Both);
        self.shared.route.remove(self.id);
        self.shared.counters.count(|c| c.connections -= 1);
        self.shared.inbox.push(Input::SessionClosed { session: self.id });
    }

    fn shutdown(&self, how: Shutdown) {
        let stream = self.stream.borrow();
        // The peer may have hung up already.
        let _gone = stream.poll_shutdown(&mut Context::from_waker(Waker::noop()), how);
    }

    /// Takes no request any more, and ends all streams.
    pub(super) fn drain(&self) {
        self.state.borrow_mut().draining = true;
        let end = |stream| self.reply(stream, Reply::StreamEnd(Err(shutting_down())));
        let streams = self.state.borrow().ledger.streams();
        streams.into_iter().for_each(end);
    }

    /// Whether nothing is left to send.
    pub(super) fn is_flushed(&self) -> bool {
        let state = self.state.borrow();
        state.out.is_empty() && state.backlog.is_empty()
    }

    /// Closes the connection if its peer has let a time limit pass.
    pub(super) fn inspect(&self, now_ms: u64) {
        let overdue = {
            let mut state = self.state.borrow_mut();
            state.out.shrink();
            state.patience.overdue(now_ms)
        };
        match overdue {
            None => {}
            Some(Overdue::Fault(error)) => self.fault(&error),
            Some(Overdue::Close) => self.close(),
        }
    }
}

impl State {
    /// The socket has taken so many bytes.
    fn sent(&mut self, count: usize, shared: &Shared) {
        shared.counters.count(|c| {
            c.bytes_out += count as u64;
            c.socket_writes += 1;
        });
        self.out.advance(count, |Sent { subscription, bytes, batches }| {
            shared.inbox.push(Input::Sent { subscription, bytes, batches });
        });
        if self.patience.is_blocked() {
            self.patience.blocked(Now::read().boot_ms());
        }
        if self.out.is_low() {
            self.encode(shared);
        }
        self.wake_reader();
    }

    /// Encodes what streams have, as far as there is room.
    fn encode(&mut self, shared: &Shared) {
        self.backlog.encode(&mut self.out, &shared.node_id);
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

fn protocol(text: &'static str) -> ApiError {
    ApiError::new(ErrorCode::Protocol, text)
}

#[cfg(test)]
#[path = "session_test.rs"]
mod session_test;
