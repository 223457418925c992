//! What a connection's handles and its two tasks share: output to be written, requests and streams
//! that wait for frames, and the room for more.
//!
//! Invariant: a request holds its room (one permit, and its kilobytes) from before it is put into
//! the output until its answer is taken off here or the connection closes. A closed connection
//! holds no entry and takes none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use prost::Message;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::error::ClientError;
use crate::base::limits;
use crate::wire::frame::{self, Frame, HEADER_BYTES};
use crate::wire::kind::FrameKind;
use crate::wire::native;

const KIB: usize = 1024;
/// Bytes of unanswered requests per connection, KiB: two of the largest messages.
const IN_FLIGHT_KIB: usize = 2 * (limits::MESSAGE_BYTES / KIB) + 2;
const _: () = assert!(IN_FLIGHT_KIB < u32::MAX as usize);

/// Where frames of a stream go.
#[derive(Clone, Debug)]
pub(super) enum Sink {
    /// Bounded by the credit of the subscription.
    Unbounded(mpsc::UnboundedSender<Result<Frame, ClientError>>),
    /// At the bound the connection's reader waits.
    Bounded(mpsc::Sender<Result<Frame, ClientError>>),
}

impl Sink {
    fn parcel(self, frame: Frame) -> Parcel {
        match self {
            Self::Unbounded(sink) => Parcel::Unbounded(sink, frame),
            Self::Bounded(sink) => Parcel::Bounded(sink, frame),
        }
    }
}

/// Whoever waits for frames with a correlation id.
#[derive(Debug)]
enum Waiting {
    Call { answer: oneshot::Sender<Result<Frame, ClientError>>, kib: u32 },
    Stream(Sink),
}

/// A frame and the one it is for.
pub(super) enum Parcel {
    /// Answers a request.
    Answer(oneshot::Sender<Result<Frame, ClientError>>, Frame),
    /// Goes to a stream at once.
    Unbounded(mpsc::UnboundedSender<Result<Frame, ClientError>>, Frame),
    /// Goes to a stream when there is room.
    Bounded(mpsc::Sender<Result<Frame, ClientError>>, Frame),
}

#[derive(Debug, Default)]
struct State {
    /// Frames that the writer has not taken yet.
    out: BytesMut,
    waiting: HashMap<u64, Waiting, ahash::RandomState>,
    /// Last correlation id given out.
    last: u64,
    /// Requests up to this id have been taken by the writer.
    taken: u64,
    closed: Option<Arc<str>>,
    tasks: Vec<AbortHandle>,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The output is no longer empty.
    pub(super) wake: Notify,
    requests: Semaphore,
    request_kib: Semaphore,
    message_bytes: usize,
}

impl Shared {
    pub(super) fn new(in_flight: usize, message_bytes: usize) -> Self {
        assert!(in_flight > 0, "a connection without requests is of no use");
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            requests: Semaphore::new(in_flight),
            request_kib: Semaphore::new(IN_FLIGHT_KIB),
            message_bytes,
        }
    }

    /// Nothing that holds the lock can panic half-way through a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed.is_some()
    }

    pub(super) fn check_length(&self, kind: FrameKind, bytes: usize) -> Result<(), ClientError> {
        let limit = kind.max_body().min(self.message_bytes);
        if bytes <= limit {
            return Ok(());
        }
        let what = format!("a {kind:?} message of {bytes} bytes exceeds {limit}");
        Err(ClientError::invalid(what))
    }

    /// Waits for room for one request; returns what it costs in KiB. The room is given back when
    /// the request is answered, or here if the caller goes away while it waits.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<Room<'_>, ClientError> {
        let closed = |_closed| self.not_sent();
        let request = self.requests.acquire().await.map_err(closed)?;
        // Small requests are bounded by their number.
        let kib = if bytes <= KIB { 0 } else { bytes.div_ceil(KIB).min(IN_FLIGHT_KIB) as u32 };
        if kib > 0 {
            self.request_kib.acquire_many(kib).await.map_err(closed)?.forget();
        }
        request.forget();
        Ok(Room { shared: self, kib, handed_over: false })
    }

    fn not_sent(&self) -> ClientError {
        let reason = self.state().closed.clone();
        ClientError::NotSent(reason.unwrap_or_else(|| "the connection is closed".into()))
    }

    /// Appends a request to the output.
    pub(super) fn put_call(
        &self,
        kind: FrameKind,
        mut room: Room<'_>,
        answer: oneshot::Sender<Result<Frame, ClientError>>,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<(), ClientError> {
        let waiting = Waiting::Call { answer, kib: room.kib };
        self.put(kind, encode, Some(waiting))?;
        // From here on the answer gives the room back.
        room.handed_over = true;
        Ok(())
    }

    /// Appends a request that opens a stream; returns the stream's number.
    pub(super) fn put_stream(
        &self,
        kind: FrameKind,
        sink: Sink,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<u64, ClientError> {
        self.put(kind, encode, Some(Waiting::Stream(sink)))
    }

    /// Appends a request whose answer interests nobody.
    pub(super) fn put_ping(&self) {
        let _closed = self.put(FrameKind::Ping, |_out| {}, None);
    }

    /// The stream's reader is gone: what still comes is dropped, the server is asked to end it.
    pub(super) fn drop_stream(&self, stream: u64) {
        self.state().waiting.remove(&stream);
        let close = native::CloseStream { stream };
        let _closed = self.put(FrameKind::CloseStream, |out| close.encode_raw(out), None);
    }

    fn put(
        &self,
        kind: FrameKind,
        encode: impl FnOnce(&mut BytesMut),
        waiting: Option<Waiting>,
    ) -> Result<u64, ClientError> {
        let mut state = self.state();
        if let Some(reason) = &state.closed {
            return Err(ClientError::NotSent(reason.clone()));
        }
        let start = state.out.len();
        let correlation = state.last + 1;
        let mark = frame::begin(&mut state.out, kind, correlation);
        encode(&mut state.out);
        let body = state.out.len() - start - HEADER_BYTES;
        if let Err(error) = self.check_length(kind, body) {
            state.out.truncate(start);
            return Err(error);
        }
        frame::finish(&mut state.out, mark);
        state.last = correlation;
        if let Some(waiting) = waiting {
            state.waiting.insert(correlation, waiting);
        }
        drop(state);
        if start == 0 {
            self.wake.notify_one();
        }
        Ok(correlation)
    }

    /// Swaps the output with the empty `spare`. False if there is nothing to write.
    pub(super) fn take_output(&self, spare: &mut BytesMut) -> bool {
        assert!(spare.is_empty(), "what the writer holds has been written");
        let mut state = self.state();
        if state.out.is_empty() {
            return false;
        }
        std::mem::swap(&mut state.out, spare);
        state.taken = state.last;
        true
    }

    /// Finds the receivers of frames that have come and gives the room of answered requests back.
    /// Frames nobody waits for (of a dropped stream, or a Pong) go.
    pub(super) fn sort(&self, frames: &mut Vec<Frame>, parcels: &mut Vec<Parcel>) {
        let (mut answered, mut kibs) = (0, 0);
        let mut state = self.state();
        for frame in frames.drain(..) {
            let goes_on = matches!(
                frame.kind,
                FrameKind::Subscribed | FrameKind::Deliveries | FrameKind::ReplayEvents
            );
            let Entry::Occupied(entry) = state.waiting.entry(frame.correlation) else { continue };
            if let (true, Waiting::Stream(sink)) = (goes_on, entry.get()) {
                parcels.push(sink.clone().parcel(frame));
                continue;
            }
            match entry.remove() {
                Waiting::Stream(sink) => parcels.push(sink.parcel(frame)),
                Waiting::Call { answer, kib } => {
                    answered += 1;
                    kibs += kib as usize;
                    parcels.push(Parcel::Answer(answer, frame));
                }
            }
        }
        drop(state);
        self.requests.add_permits(answered);
        self.request_kib.add_permits(kibs);
    }

    /// Keeps the tasks' handles, to end them with the connection.
    pub(super) fn own(&self, tasks: Vec<AbortHandle>) {
        let mut state = self.state();
        if state.closed.is_some() {
            tasks.iter().for_each(AbortHandle::abort);
        }
        state.tasks = tasks;
    }

    /// Ends the connection: all that waits fails with `reason`, the tasks and the socket go. The
    /// first reason stays.
    pub(super) fn close(&self, reason: &str) {
        let mut state = self.state();
        if state.closed.is_some() {
            return;
        }
        let reason: Arc<str> = reason.into();
        state.closed = Some(reason.clone());
        state.out = BytesMut::new();
        let waiting = std::mem::take(&mut state.waiting);
        let (taken, tasks) = (state.taken, std::mem::take(&mut state.tasks));
        drop(state);

        self.requests.close();
        self.request_kib.close();
        for (correlation, waiting) in waiting {
            let error = if correlation > taken {
                ClientError::NotSent(reason.clone())
            } else {
                ClientError::Unknown(reason.clone())
            };
            match waiting {
                Waiting::Call { answer, .. } => drop(answer.send(Err(error))),
                Waiting::Stream(Sink::Unbounded(sink)) => drop(sink.send(Err(error))),
                // A full queue ends without the error; its reader then says that it was cut off.
                Waiting::Stream(Sink::Bounded(sink)) => drop(sink.try_send(Err(error))),
            }
        }
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Room for one request; given back on drop unless the request was sent.
#[derive(Debug)]
pub(super) struct Room<'a> {
    shared: &'a Shared,
    kib: u32,
    /// The request is in the output and has the room.
    handed_over: bool,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if !self.handed_over {
            self.shared.requests.add_permits(1);
            self.shared.request_kib.add_permits(self.kib as usize);
        }
    }
}
