//! Taking gRPC connections: a bounded number, and on through the system's short refusals.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::stream::{Stream, unfold};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Wait behind a refusal (out of descriptors, say): trying at once would only spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections of `listener`, `limit` at most at a time. One more is closed at once.
pub(super) fn connections(
    listener: TcpListener,
    limit: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(limit));
    unfold((listener, slots), |(listener, slots)| async move {
        let connection = loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                        break Connection::new(socket, slot);
                    }
                    tracing::warn!(%peer, "refused: too many gRPC connections");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a gRPC connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        Some((Ok(connection), (listener, slots)))
    })
}

/// A socket that gives its slot back when it is closed.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn new(socket: TcpStream, slot: OwnedSemaphorePermit) -> Self {
        // Small answers must not wait for more. A socket that is gone already says so later.
        let _gone = socket.set_nodelay(true);
        Self { socket, _slot: slot }
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
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
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
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn one_over_the_limit_is_closed_and_room_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut taken = Box::pin(connections(listener, 1));
        let connect = async || TcpStream::connect(address).await.expect("listening");

        let _first = connect().await;
        let held = taken.next().await.expect("endless").expect("taken");
        let mut second = connect().await;
        let closed = async { second.read(&mut [0]).await };
        tokio::select! {
            end = closed => assert!(matches!(end, Ok(0) | Err(_)), "{end:?}"),
            more = taken.next() => panic!("took {more:?} over the limit"),
        }
        drop(held);
        let _third = connect().await;
        assert!(taken.next().await.expect("endless").is_ok());
    }
}
