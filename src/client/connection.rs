//! One TCP connection to one shard: handshake, pipelined requests, streams. No retry, no routing.
//!
//! Requests are appended to one buffer and written by one task, so all frames of a wake-up leave in
//! one write. A second task reads as much as there is and hands every complete frame to whoever
//! waits for its correlation id. Requests in flight are bounded in number and bytes: at the bound
//! [`Connection::send`] waits. The reader never waits for the writer, so the two can't block each
//! other.
//!
//! Ends for good with the first fault or when the last handle is dropped; then every open request
//! fails, as `NotSent` if its bytes had not been given to the socket, else as `Unknown`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::driver;
use super::error::ClientError;
use super::inflight::{Shared, Sink};
use super::topology::Topology;
use crate::wire::frame::{self, Frame, FrameDecoder};
use crate::wire::kind::FrameKind;
use crate::wire::native;

/// Frames of a replay that wait in memory for their reader; the socket waits behind them.
const BOUNDED_FRAMES: usize = 4;

/// Settings of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// Name of this program, for the server's logs.
    pub name: String,
    /// Time for connecting and the handshake.
    pub connect_timeout: Duration,
    /// Requests without an answer; the server's own limit holds too. More give throughput, and
    /// latency to those behind.
    pub in_flight: usize,
    /// After so long without a byte from the server it is asked for a sign of life; after as long
    /// again without one, the connection is given up.
    pub keepalive: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            name: concat!("chronosdb-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            in_flight: 512,
            keepalive: Duration::from_secs(10),
        }
    }
}

/// A handle to an open connection; clones share it, the last one closes it.
#[derive(Clone, Debug)]
pub struct Connection {
    owner: Arc<Owner>,
}

/// Closes the connection when the last handle is gone (the tasks hold `Shared` themselves).
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    topology: Arc<Topology>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close("closed by this client");
    }
}

impl Connection {
    /// Connects to `addr` (`host:port`) and shakes hands.
    pub async fn connect(addr: &str, options: &ConnectionOptions) -> Result<Self, ClientError> {
        let opening = timeout(options.connect_timeout, open(addr, options));
        let (stream, rest, topology) = opening.await.unwrap_or_else(|_elapsed| {
            let what = format!("no answer within {} ms", options.connect_timeout.as_millis());
            Err(ClientError::connect(addr, std::io::Error::new(std::io::ErrorKind::TimedOut, what)))
        })?;
        let in_flight = options.in_flight.clamp(1, topology.in_flight);
        let shared = Arc::new(Shared::new(in_flight, topology.message_bytes));
        driver::start(&shared, stream, rest, options.keepalive);
        Ok(Self { owner: Arc::new(Owner { shared, topology: Arc::new(topology) }) })
    }

    /// What the server told in the handshake.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.owner.topology
    }

    /// Whether it is of no more use; connect again.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.owner.shared.is_closed()
    }

    /// Sends a request and waits for its answer, which is never an `Error` frame.
    pub async fn call(&self, kind: FrameKind, body: &[u8]) -> Result<Frame, ClientError> {
        self.send(kind, body.len(), |out| out.put_slice(body)).await?.await
    }

    /// Sends a protobuf message and waits for its answer.
    pub async fn call_message(
        &self,
        kind: FrameKind,
        message: &impl Message,
    ) -> Result<Frame, ClientError> {
        // A message of 2 GiB and more can't be encoded; it is over every limit anyway.
        let encode = |out: &mut BytesMut| message.encode_raw(out);
        self.send(kind, message.encoded_len(), encode).await?.await
    }

    /// Puts a request into the output, its body encoded in place by `encode`, and returns the
    /// answer to come. Waits while as many requests as allowed are in flight: the way for load
    /// generators to have many at once from one task. `bytes` is about how long the body will be.
    ///
    /// Requests leave in the order in which `send` returns. A body longer than the server takes is
    /// `Invalid`, with nothing sent.
    pub async fn send(
        &self,
        kind: FrameKind,
        bytes: usize,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Answer, ClientError> {
        let shared = &self.owner.shared;
        // Larger than any limit: not worth encoding, let alone 2 GiB of it.
        shared.check_length(kind, bytes)?;
        let cost = shared.reserve(bytes).await?;
        let (answer, receiver) = oneshot::channel();
        shared.put_call(kind, cost, answer, encode)?;
        Ok(Answer(receiver))
    }

    /// Opens a stream: `Subscribe` (frames in memory bounded by the credit asked for) or `Replay`
    /// (bounded here, and then the whole connection waits: give a replay a connection of its own).
    ///
    /// # Panics
    /// If `kind` opens no stream.
    pub fn open_stream(
        &self,
        kind: FrameKind,
        message: &impl Message,
    ) -> Result<FrameStream, ClientError> {
        let shared = &self.owner.shared;
        let (sink, frames) = match kind {
            FrameKind::Subscribe => {
                let (sender, receiver) = mpsc::unbounded_channel();
                (Sink::Unbounded(sender), Frames::Unbounded(receiver))
            }
            FrameKind::Replay => {
                let (sender, receiver) = mpsc::channel(BOUNDED_FRAMES);
                (Sink::Bounded(sender), Frames::Bounded(receiver))
            }
            other => panic!("a {other:?} frame opens no stream"),
        };
        shared.check_length(kind, message.encoded_len())?;
        let correlation = shared.put_stream(kind, sink, |out| message.encode_raw(out))?;
        Ok(FrameStream { connection: self.clone(), correlation, frames, ended: false })
    }
}

/// Connects and shakes hands; returns what came behind the handshake as well.
async fn open(
    addr: &str,
    options: &ConnectionOptions,
) -> Result<(TcpStream, BytesMut, Topology), ClientError> {
    let io = |cause| ClientError::connect(addr, cause);
    let mut stream = TcpStream::connect(addr).await.map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;

    let hello = native::Hello { version: u32::from(frame::VERSION), client: options.name.clone() };
    let mut buffer = BytesMut::with_capacity(4096);
    frame::put_message(&mut buffer, FrameKind::Hello, 1, &hello)
        .map_err(|error| ClientError::handshake(addr, error.text))?;
    stream.write_all(&buffer).await.map_err(io)?;
    buffer.clear();
    let answer = loop {
        let parsed = FrameDecoder::Answers.next(&mut buffer);
        match parsed.map_err(|fault| ClientError::handshake(addr, fault.error().text))? {
            Some(frame) => break frame,
            None if stream.read_buf(&mut buffer).await.map_err(io)? > 0 => {}
            None => return Err(ClientError::handshake(addr, "it closed the connection")),
        }
    };
    match answer.kind {
        FrameKind::HelloAck => {
            let ack = native::HelloAck::decode(answer.body)
                .map_err(|error| ClientError::handshake(addr, error.to_string()))?;
            Ok((stream, buffer, Topology::from_hello(ack, addr)?))
        }
        FrameKind::Error => Err(error_of(&answer)),
        other => Err(ClientError::handshake(addr, format!("it answered Hello with {other:?}"))),
    }
}

/// The error in the body of an `Error` frame.
fn error_of(frame: &Frame) -> ClientError {
    match native::Error::decode(frame.body.clone()) {
        Ok(error) => ClientError::refused(error.code, error.text),
        Err(error) => ClientError::answer(error),
    }
}

/// The answer to a request, once it comes. Dropping it does not take the request back.
#[derive(Debug)]
#[must_use = "without its answer nobody knows what became of the request"]
pub struct Answer(oneshot::Receiver<Result<Frame, ClientError>>);

impl Future for Answer {
    type Output = Result<Frame, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|received| match received {
            Ok(Ok(frame)) if frame.kind == FrameKind::Error => Err(error_of(&frame)),
            Ok(answer) => answer,
            Err(_dropped) => Err(ClientError::unknown("the connection was lost")),
        })
    }
}

#[derive(Debug)]
enum Frames {
    Unbounded(mpsc::UnboundedReceiver<Result<Frame, ClientError>>),
    Bounded(mpsc::Receiver<Result<Frame, ClientError>>),
}

/// The frames of one stream. Dropped, it closes the stream at the server.
#[derive(Debug)]
pub struct FrameStream {
    connection: Connection,
    correlation: u64,
    frames: Frames,
    ended: bool,
}

impl FrameStream {
    /// The connection the stream is on.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The next frame: `Subscribed`, `Deliveries` or `ReplayEvents`. `None` once the stream has
    /// ended well; an error is the last item. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Frame, ClientError>> {
        if self.ended {
            return None;
        }
        let received = match &mut self.frames {
            Frames::Unbounded(frames) => frames.recv().await,
            Frames::Bounded(frames) => frames.recv().await,
        };
        self.admit(received)
    }

    /// The next frame if it is already here.
    pub fn try_next(&mut self) -> Option<Result<Frame, ClientError>> {
        if self.ended {
            return None;
        }
        let received = match &mut self.frames {
            Frames::Unbounded(frames) => frames.try_recv().ok(),
            Frames::Bounded(frames) => frames.try_recv().ok(),
        };
        received.and_then(|received| self.admit(Some(received)))
    }

    fn admit(
        &mut self,
        received: Option<Result<Frame, ClientError>>,
    ) -> Option<Result<Frame, ClientError>> {
        let lost = || Err(ClientError::unknown("the connection was lost"));
        let frame = match received.unwrap_or_else(lost) {
            Ok(frame) => frame,
            Err(error) => {
                self.ended = true;
                return Some(Err(error));
            }
        };
        match frame.kind {
            FrameKind::Subscribed | FrameKind::Deliveries | FrameKind::ReplayEvents => {
                return Some(Ok(frame));
            }
            _ => self.ended = true,
        }
        match (frame.kind, native::StreamEnd::decode(frame.body.clone())) {
            (FrameKind::StreamEnd, Ok(end)) if end.code == 0 => None,
            (FrameKind::StreamEnd, Ok(end)) => Some(Err(ClientError::refused(end.code, end.text))),
            (FrameKind::Error, _) => Some(Err(error_of(&frame))),
            (kind, _) => Some(Err(ClientError::answer(format!("{kind:?} on a stream")))),
        }
    }
}

impl Drop for FrameStream {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.owner.shared.drop_stream(self.correlation);
        }
    }
}
