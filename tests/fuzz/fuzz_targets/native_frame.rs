//! What a native client sends: any bytes are frames or a fault, the same whole or in pieces, and
//! any body is a request or an error.

#![no_main]

use bytes::BytesMut;
use chronosdb::wire::delivery_id;
use chronosdb::wire::frame::{Frame, FrameDecoder, FrameFault};
use chronosdb::wire::request::{self, Bounds};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { partitions: 16, max_credit: 1_000 };
const WALL_MS: u64 = 1_800_000_000_000;
/// Bytes that arrive together.
const PIECE: usize = 7;

fn all(decoder: FrameDecoder, buffer: &mut BytesMut) -> (Vec<Frame>, Option<FrameFault>) {
    let mut frames = Vec::new();
    loop {
        match decoder.next(buffer) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(fault) => return (frames, Some(fault)),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    for decoder in [FrameDecoder::Requests, FrameDecoder::Answers] {
        let (frames, fault) = all(decoder, &mut BytesMut::from(data));
        let (mut pieces, mut in_pieces, mut late) = (BytesMut::new(), Vec::new(), None);
        for piece in data.chunks(PIECE) {
            pieces.extend_from_slice(piece);
            let (more, fault) = all(decoder, &mut pieces);
            in_pieces.extend(more);
            if fault.is_some() {
                late = fault;
                break;
            }
        }
        assert_eq!((&frames, fault), (&in_pieces, late), "the cuts make no difference");
        for Frame { kind, body, .. } in frames {
            assert!(body.len() <= kind.max_body());
            let _refused = request::hello(&body);
            let _refused = request::decode(kind, body, &BOUNDS, WALL_MS);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _unknown = delivery_id::parse(text);
    }
});
