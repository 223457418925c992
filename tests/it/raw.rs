//! A native client without manners: blocking, frame by frame, free to send what it likes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};

use bytes::{Bytes, BytesMut};
use chronosdb::wire::frame::{self, Frame, FrameDecoder};
use chronosdb::wire::kind::FrameKind;
use chronosdb::wire::native;
use prost::Message;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketType, sockopt};

use crate::wait::{PATIENCE, until};

/// When one of a crowd that was not let in tries anew, ms.
const ANEW_MS: u32 = 1_500;

/// One connection.
pub struct Raw {
    stream: TcpStream,
    received: BytesMut,
}

impl Raw {
    /// Connected, and nothing said yet.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("settable");
        stream.set_nodelay(true).expect("settable");
        Self { stream, received: BytesMut::new() }
    }

    /// Connected and greeted.
    pub fn greeted(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address);
        let hello = native::Hello { version: 1, client: "raw".into() };
        raw.send(FrameKind::Hello, 1, &hello.encode_to_vec());
        raw.expect(FrameKind::HelloAck, 1);
        raw
    }

    /// Sends bytes as they are. A server that has closed meanwhile is no fault here.
    pub fn write(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                panic!("{error}")
            }
            _ => {}
        }
    }

    /// Sends a frame.
    pub fn send(&mut self, kind: FrameKind, correlation: u64, body: &[u8]) {
        let mut out = BytesMut::new();
        frame::put_body(&mut out, kind, correlation, body).expect("short enough");
        self.write(&out);
    }

    /// No more will be sent.
    pub fn shut(&mut self) {
        // The server may have been faster.
        let _closed = self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = FrameDecoder::Answers.next(&mut self.received).expect("valid") {
                return Some(frame);
            }
            let mut piece = [0; 8 << 10];
            let count = match self.stream.read(&mut piece) {
                Ok(count) => count,
                // Closed with bytes of ours unread.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                Err(error) => panic!("no answer: {error}"),
            };
            if count == 0 {
                return None;
            }
            self.received.extend_from_slice(&piece[..count]);
        }
    }

    /// The body of the next frame, which has to be this one.
    pub fn expect(&mut self, kind: FrameKind, correlation: u64) -> Bytes {
        let frame = self.next().expect("a frame");
        assert_eq!((frame.kind, frame.correlation), (kind, correlation), "{:?}", frame.body);
        frame.body
    }

    /// The next frame as an error.
    pub fn error(&mut self, correlation: u64) -> native::Error {
        native::Error::decode(self.expect(FrameKind::Error, correlation)).expect("an error")
    }

    /// Reads to the end of the connection; returns the error that the server said before, if any.
    pub fn closed(&mut self) -> Option<native::Error> {
        let mut said = None;
        while let Some(frame) = self.next() {
            if frame.kind == FrameKind::Error && frame.correlation == 0 {
                said = Some(native::Error::decode(frame.body).expect("an error"));
            }
        }
        said
    }
}

/// Connected from one of this machine's addresses, with a receive buffer as small as can be: what
/// is not read backs up at the sender soon.
///
/// A listener with its queue full drops who comes, and the kernel tries again after 1, 2, 4, ... 32
/// s. One of a crowd tries anew at once instead: else its test waits for the unlucky.
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    until("a connection", || {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        sockopt::set_socket_recv_buffer_size(&socket, 1).expect("settable");
        net::bind(&socket, &SocketAddr::from((from, 0))).expect("an own address");
        sockopt::set_tcp_user_timeout(&socket, ANEW_MS).expect("settable");
        match net::connect(&socket, &to) {
            Err(Errno::TIMEDOUT) => return None,
            result => result.expect("it listens"),
        }
        // No limit on what it may owe later.
        sockopt::set_tcp_user_timeout(&socket, 0).expect("settable");
        Some(TcpStream::from(socket))
    })
}

/// Writes without waiting; what it came to is told, and how much was taken.
pub fn push(stream: &mut TcpStream, bytes: &[u8]) -> (usize, Option<ErrorKind>) {
    stream.set_nonblocking(true).expect("settable");
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.write(&bytes[taken..]) {
            Ok(count) => taken += count,
            Err(error) => return (taken, Some(error.kind())),
        }
    }
    (taken, None)
}

/// Reads what is there without waiting; `false` once the connection is closed.
pub fn drain(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("settable");
    let mut piece = [0; 8 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// The header of a frame, with any length.
pub fn header(length: u32, version: u8, kind: u8, flags: u16, correlation: u64) -> Vec<u8> {
    let mut header = length.to_le_bytes().to_vec();
    header.extend([version, kind]);
    header.extend(flags.to_le_bytes());
    header.extend(correlation.to_le_bytes());
    header
}
