//! What prost takes for an event, on one core: the cost that a bridge can't go below.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chronosdb::wire::events::Event;
use prost::Message;

use super::Figures;

/// Between two looks at the clock.
const ROUND: u32 = 1_000;

/// Measures decoding of an event with a payload of 256 bytes.
pub fn measure(each: Duration, figures: &mut Figures) {
    let event = Event::new("orders", "order-000000000001", vec![7; 256]).at_ms(1_800_000_000_000);
    let bytes: Bytes = event.encode_to_vec().into();
    let (began, mut events) = (Instant::now(), 0_u64);
    while began.elapsed() < each {
        for _ in 0..ROUND {
            black_box(Event::decode(black_box(bytes.clone())).expect("it was encoded just now"));
        }
        events += u64::from(ROUND);
    }
    let rate = events as f64 / began.elapsed().as_secs_f64();
    figures.tell("prost decodes an event of 256 B, 1 core", rate, "/s", "prost_decode_per_s");
}
