//! Taking gRPC and HTTP connections: a bounded number, bounded per address, and none that keeps its
//! place by saying nothing.
//!
//! The server behind a connection waits for its first bytes for ever, so [`Patience`] does not: a
//! gRPC client has to send the preface of HTTP/2 within `limits::HANDSHAKE_MS` (then keep-alive
//! pings tell whether it lives), an HTTP client a request within `limits::FRAME_PROGRESS_MS` of its
//! coming or of the answer before. Refusals of the system (no descriptors, say) are waited out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::stream::{Stream, unfold};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::base::config::ConnectionLimits;
use crate::base::{limits, time};
use crate::shard::{AcceptRate, Peers};

/// Wait behind a refusal (out of descriptors, say): trying at once would only spin.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that every HTTP/2 connection begins with.
const PREFACE_BYTES: usize = 24;
const HANDSHAKE: Duration = Duration::from_millis(limits::HANDSHAKE_MS);
const REQUEST: Duration = Duration::from_millis(limits::FRAME_PROGRESS_MS);

/// What a listener's clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/2.
    Grpc,
    /// HTTP/1.
    Http,
}

/// A listener that takes connections within limits, and closes one more at once.
#[derive(Debug)]
pub(super) struct Entrance {
    listener: TcpListener,
    protocol: Protocol,
    slots: Arc<Semaphore>,
    peers: Arc<Mutex<Peers>>,
    rate: AcceptRate,
    refused: Counter,
}

impl Entrance {
    /// Over a listener; `refused` counts who had to go.
    pub(super) fn new(
        listener: TcpListener,
        protocol: Protocol,
        limits: ConnectionLimits,
        refused: Counter,
    ) -> Self {
        Self {
            listener,
            protocol,
            slots: Arc::new(Semaphore::new(limits.total)),
            peers: Arc::new(Mutex::new(Peers::new(limits.per_ip))),
            rate: AcceptRate::new(limits.per_second),
            refused,
        }
    }

    /// The connections, one after the other, without end.
    pub(super) fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        unfold(self, |mut entrance| async move { Some((Ok(entrance.next().await), entrance)) })
    }

    async fn next(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((socket, peer)) => {
                    let pause = self.rate.taken(time::Now::read().boot_us);
                    if pause > 0 {
                        sleep(Duration::from_micros(pause)).await;
                    }
                    if let Some(place) = self.place(peer.ip()) {
                        return Connection::new(socket, place, self.protocol);
                    }
                    tracing::debug!(%peer, protocol = ?self.protocol, "refused: too many");
                    self.refused.inc();
                }
                Err(error) => {
                    tracing::warn!(%error, protocol = ?self.protocol, "cannot take a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn place(&self, ip: IpAddr) -> Option<Place> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let entered = self.peers.lock().expect("nothing in it panics").enter(ip);
        entered.then(|| Place { peers: Arc::clone(&self.peers), ip, _slot: slot })
    }
}

impl axum::serve::Listener for Entrance {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let connection = self.next().await;
        let peer = connection.socket.peer_addr();
        // One that is gone already says so when it is read.
        (connection, peer.unwrap_or_else(|_gone| SocketAddr::from(([0, 0, 0, 0], 0))))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The place of one connection, given back when dropped.
#[derive(Debug)]
struct Place {
    peers: Arc<Mutex<Peers>>,
    ip: IpAddr,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peers.lock().expect("nothing in it panics").leave(self.ip);
    }
}

/// What a client owes, and until when. It ends the connection when that moment has passed.
#[derive(Debug)]
enum Patience {
    /// So many bytes more.
    Preface(usize, Pin<Box<Sleep>>),
    /// A request, whole; so long after each answer.
    Request(Duration, Pin<Box<Sleep>>),
    Nothing,
}

impl Patience {
    fn with(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Grpc => Self::Preface(PREFACE_BYTES, Box::pin(sleep(HANDSHAKE))),
            Protocol::Http => Self::Request(REQUEST, Box::pin(sleep(REQUEST))),
        }
    }

    fn received(&mut self, bytes: usize) {
        if let Self::Preface(left, _) = self {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                *self = Self::Nothing;
            }
        }
    }

    /// An answer is on its way, or a part of one.
    fn answered(&mut self) {
        if let Self::Request(within, sleep) = self {
            sleep.as_mut().reset(Instant::now() + *within);
        }
    }

    /// Pending as long as there is time; woken when it is over.
    fn poll_over<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self {
            Self::Nothing => Poll::Pending,
            Self::Preface(_, sleep) | Self::Request(_, sleep) => {
                sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// A socket that gives its place back when it is closed.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    patience: Patience,
    _place: Place,
}

impl Connection {
    fn new(socket: TcpStream, place: Place, protocol: Protocol) -> Self {
        // Small answers must not wait for more. A socket that is gone already says so later.
        let _gone = socket.set_nodelay(true);
        Self { socket, patience: Patience::with(protocol), _place: place }
    }

    /// What a write came to; one that waits does so within the patience.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.patience.poll_over(cx),
            Poll::Ready(done) => {
                self.patience.answered();
                Poll::Ready(done)
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.socket.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, into) {
            Poll::Pending => self.patience.poll_over(cx),
            Poll::Ready(read) => {
                self.patience.received(into.filled().len() - before);
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.wrote(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "accept_test.rs"]
mod accept_test;
