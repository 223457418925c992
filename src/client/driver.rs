//! The tasks of a connection: one writes, one reads, one watches that the server is alive.
//!
//! All of them end with the connection; the first to see a fault closes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::inflight::{Parcel, Shared};
use crate::wire::frame::{Frame, FrameDecoder};
use crate::wire::kind::FrameKind;
use crate::wire::native;

/// Room for the first read of a connection, bytes: most only ever bring short answers, and a
/// program may have thousands.
const ROOM_MIN: usize = 4 * 1024;
/// Room for a read where much comes in.
const ROOM_MAX: usize = 64 * 1024;
/// A written buffer larger than this gives its memory back.
const KEEP_BYTES: usize = 1024 * 1024;

/// What the watcher must know of the reader.
#[derive(Debug, Default)]
struct Life {
    /// Reads that brought something.
    reads: AtomicU64,
    /// A slow stream reader holds up the socket: silence is our own doing.
    held: AtomicBool,
}

/// Starts the tasks. `received` came behind the handshake.
pub(super) fn start(
    shared: &Arc<Shared>,
    stream: TcpStream,
    received: BytesMut,
    keepalive: Duration,
) {
    let (read_half, write_half) = stream.into_split();
    let life = Arc::new(Life::default());
    let reader = tokio::spawn(read(Arc::clone(shared), read_half, received, Arc::clone(&life)));
    let writer = tokio::spawn(write(Arc::clone(shared), write_half));
    let watcher = tokio::spawn(watch(Arc::clone(shared), life, keepalive));
    shared.own(vec![reader.abort_handle(), writer.abort_handle(), watcher.abort_handle()]);
}

async fn write(shared: Arc<Shared>, mut socket: OwnedWriteHalf) {
    let mut batch = BytesMut::new();
    loop {
        if !shared.take_output(&mut batch) {
            shared.wake.notified().await;
            // Whoever else is awake now may add to the same write.
            tokio::task::yield_now().await;
            continue;
        }
        if let Err(error) = socket.write_all(&batch).await {
            shared.close(&format!("the connection was lost: {error}"));
            return;
        }
        batch.clear();
        if batch.capacity() > KEEP_BYTES {
            batch = BytesMut::new();
        }
    }
}

async fn read(
    shared: Arc<Shared>,
    mut socket: OwnedReadHalf,
    mut buffer: BytesMut,
    life: Arc<Life>,
) {
    let (mut frames, mut parcels, mut room) = (Vec::new(), Vec::new(), ROOM_MIN);
    loop {
        if let Err(reason) = split(&mut buffer, &mut frames) {
            shared.close(&reason);
            return;
        }
        shared.sort(&mut frames, &mut parcels);
        for parcel in parcels.drain(..) {
            hand_over(parcel, &life).await;
        }
        // What is missing of a begun frame, but never more than as much again as has come.
        buffer.reserve(room.max(buffer.len()));
        match socket.read_buf(&mut buffer).await {
            Ok(0) => return shared.close("the server closed the connection"),
            Ok(bytes) => room = next_room(room, bytes),
            Err(error) => return shared.close(&format!("the connection was lost: {error}")),
        }
        life.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Room for the read behind one that had so much and has brought so many bytes.
fn next_room(room: usize, bytes: usize) -> usize {
    if bytes >= room {
        (2 * room).min(ROOM_MAX)
    } else if bytes < room / 4 {
        (room / 2).max(ROOM_MIN)
    } else {
        room
    }
}

/// Takes all complete frames off the buffer. An error is the reason to close.
fn split(buffer: &mut BytesMut, frames: &mut Vec<Frame>) -> Result<(), String> {
    loop {
        match FrameDecoder::Answers.next(buffer) {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) if frame.kind == FrameKind::Error && frame.correlation == 0 => {
                let error = native::Error::decode(frame.body).unwrap_or_default();
                return Err(format!("the server closes the connection: {}", error.text));
            }
            Ok(Some(frame)) => frames.push(frame),
            Err(fault) => {
                let why = fault.error().text;
                return Err(format!("the server sent what is no frame: {why}"));
            }
        }
    }
}

/// A receiver that is gone is not missed.
async fn hand_over(parcel: Parcel, life: &Life) {
    match parcel {
        Parcel::Answer(answer, frame) => drop(answer.send(Ok(frame))),
        Parcel::Unbounded(sink, frame) => drop(sink.send(Ok(frame))),
        Parcel::Bounded(sink, frame) => {
            life.held.store(true, Ordering::Relaxed);
            drop(sink.send(Ok(frame)).await);
            life.held.store(false, Ordering::Relaxed);
        }
    }
}

async fn watch(shared: Arc<Shared>, life: Arc<Life>, keepalive: Duration) {
    let (mut seen, mut asked) = (0, false);
    loop {
        tokio::time::sleep(keepalive).await;
        let reads = life.reads.load(Ordering::Relaxed);
        if reads != seen || life.held.load(Ordering::Relaxed) {
            (seen, asked) = (reads, false);
        } else if asked {
            let silence = 2 * keepalive.as_millis();
            return shared.close(&format!("no sign of life from the server for {silence} ms"));
        } else {
            asked = true;
            shared.put_ping();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_what_comes_in() {
        assert_eq!(next_room(ROOM_MIN, ROOM_MIN - 1), ROOM_MIN);
        assert_eq!(next_room(ROOM_MIN, 1), ROOM_MIN, "no less than this");
        assert_eq!(next_room(ROOM_MIN, ROOM_MIN), 2 * ROOM_MIN);
        assert_eq!(next_room(ROOM_MAX, 2 * ROOM_MAX), ROOM_MAX, "no more than this");
        assert_eq!(next_room(ROOM_MAX, ROOM_MAX / 4), ROOM_MAX);
        assert_eq!(next_room(ROOM_MAX, ROOM_MAX / 4 - 1), ROOM_MAX / 2);
    }
}
