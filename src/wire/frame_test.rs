//! Frames against hostile and broken streams.

use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::native;

fn header(length: u32, version: u8, kind: u8, flags: u16) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32_le(length);
    out.put_u8(version);
    out.put_u8(kind);
    out.put_u16_le(flags);
    out.put_u64_le(7);
    out
}

#[test]
fn the_bytes_of_a_frame_are_fixed() {
    let mut out = BytesMut::new();
    put_body(&mut out, FrameKind::Publish, 0x0102_0304_0506_0708, b"ab").expect("short enough");
    let fixed = [14, 0, 0, 0, 1, 16, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, b'a', b'b'];
    assert_eq!(out[..], fixed);
}

#[test]
fn a_message_travels_in_a_frame() {
    let mut out = BytesMut::new();
    let hello = native::Hello { version: 1, client: "test".into() };
    put_message(&mut out, FrameKind::Hello, 3, &hello).expect("short enough");
    put_empty(&mut out, FrameKind::Ping, 4);
    let frame = FrameDecoder::Requests.next(&mut out).expect("valid").expect("complete");
    assert_eq!((frame.kind, frame.correlation), (FrameKind::Hello, 3));
    assert_eq!(native::Hello::decode(frame.body).expect("decodes"), hello);
    let frame = FrameDecoder::Requests.next(&mut out).expect("valid").expect("complete");
    assert_eq!((frame.kind, frame.body.len()), (FrameKind::Ping, 0));
    assert!(out.is_empty());
}

#[test]
fn a_length_is_judged_by_the_header_alone() {
    for kind in FrameKind::ALL {
        let side = if kind.is_request() { FrameDecoder::Requests } else { FrameDecoder::Answers };
        let limit = (kind.max_body() + COUNTED_BYTES) as u32;
        let mut at = header(limit, VERSION, *kind as u8, 0);
        let judged = side.peek(&at).expect("valid").expect("there");
        assert_eq!(judged.frame_bytes(), limit as usize + 4);
        assert_eq!(side.next(&mut at), Ok(None));
        for length in [limit + 1, u32::MAX] {
            let mut over = header(length, VERSION, *kind as u8, 0);
            let capacity = over.capacity();
            assert_eq!(side.next(&mut over), Err(FrameFault::Long(*kind, length)));
            assert_eq!(over.capacity(), capacity, "no room is made for a lie");
        }
    }
}

#[test]
fn broken_headers_are_refused() {
    let next = |mut bytes: BytesMut| FrameDecoder::Requests.next(&mut bytes);
    assert_eq!(next(header(11, VERSION, 3, 0)), Err(FrameFault::Short(11)));
    assert_eq!(next(header(12, 2, 3, 0)), Err(FrameFault::Version(2)));
    assert_eq!(next(header(12, VERSION, 0, 0)), Err(FrameFault::Kind(0)));
    assert_eq!(next(header(12, VERSION, 99, 0)), Err(FrameFault::Kind(99)));
    assert_eq!(next(header(12, VERSION, 4, 0)), Err(FrameFault::Kind(4)), "a Pong is no request");
    assert_eq!(next(header(12, VERSION, 3, 1)), Err(FrameFault::Flags(1)));
    assert_eq!(next(BytesMut::from(&b"GET / HTTP/1.1\r\n"[..])), Err(FrameFault::Version(b'/')));
    assert_eq!(FrameFault::Short(11).error().code, ErrorCode::Protocol);
}

#[test]
fn nothing_too_long_is_sent() {
    let mut out = BytesMut::new();
    let body = vec![0; limits::SMALL_REQUEST_BYTES + 1];
    put_body(&mut out, FrameKind::Subscribe, 1, &body[1..]).expect("at the limit");
    let before = out.len();
    assert!(put_body(&mut out, FrameKind::Subscribe, 1, &body).is_err());
    let hello = native::Hello { version: 1, client: "x".repeat(limits::SMALL_REQUEST_BYTES) };
    assert!(put_message(&mut out, FrameKind::Hello, 1, &hello).is_err());
    assert_eq!(out.len(), before);
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(
        frames in vec((0..FrameKind::ALL.len(), any::<u64>(), vec(any::<u8>(), 0..80)), 0..12),
        cuts in vec(1..40_usize, 1..40),
    ) {
        let frames: Vec<_> = frames
            .into_iter()
            .map(|(kind, correlation, body)| (FrameKind::ALL[kind], correlation, body))
            .filter(|(kind, _, _)| kind.is_request())
            .collect();
        let mut stream = BytesMut::new();
        for (kind, correlation, body) in &frames {
            put_body(&mut stream, *kind, *correlation, body).expect("short enough");
        }
        let mut received = BytesMut::new();
        let mut decoded = Vec::new();
        let mut cuts = cuts.iter().cycle();
        while !stream.is_empty() {
            let cut = (*cuts.next().expect("endless")).min(stream.len());
            received.extend_from_slice(&stream.split_to(cut));
            while let Some(frame) = FrameDecoder::Requests.next(&mut received).expect("valid") {
                decoded.push((frame.kind, frame.correlation, frame.body.to_vec()));
            }
        }
        prop_assert_eq!(decoded, frames);
        prop_assert!(received.is_empty());
    }

    #[test]
    fn any_bytes_are_a_frame_a_fault_or_too_few(bytes in vec(any::<u8>(), 0..64)) {
        for side in [FrameDecoder::Requests, FrameDecoder::Answers] {
            let mut buffer = BytesMut::from(&bytes[..]);
            if let Ok(Some(frame)) = side.next(&mut buffer) {
                let taken = HEADER_BYTES + frame.body.len();
                prop_assert_eq!(taken + buffer.len(), bytes.len());
            } else {
                prop_assert_eq!(&buffer[..], &bytes[..]);
            }
        }
    }
}
