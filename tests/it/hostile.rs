//! Clients that break the protocol, lie or die: nobody else feels it, and they cost no memory.
//! (`crowds`: many of them, and slow ones; `http2`: those of the gRPC port.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chronosdb::client::{Client, Event, SubscribeOptions};
use chronosdb::wire::events::{PublishBatchRequest, PublishRequest};
use chronosdb::wire::kind::FrameKind;
use prost::Message;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::http;
use crate::raw::{Raw, header};
use crate::server::{Server, Setup, place};
use crate::wait::{for_the, until};

/// What hostile clients may cost, kB.
const GROWTH_KB: u64 = 64 << 10;
const PUBLISH: u8 = FrameKind::Publish as u8;
const BATCH: u8 = FrameKind::PublishBatch as u8;

/// A client that publishes and consumes all the while; its requests must all succeed.
async fn live(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let mut subscription =
        client.subscribe(SubscribeOptions::new("live", "live")).await.expect("it serves");
    let mut count = 0;
    // Some are in the midst of it or behind it, however short it is.
    while !stop.load(Ordering::Relaxed) || count < 3 {
        let event = Event::new("live", format!("live-{count}"), vec![7; 100]);
        client.publish(event).await.expect("others do not disturb it");
        let next = for_the("delivery to the live client", subscription.next()).await;
        let delivery = next.expect("endless").expect("a delivery");
        assert_eq!(delivery.event.message_id, format!("live-{count}"));
        subscription.ack(&delivery).await.expect("confirmed");
        count += 1;
    }
    assert_eq!(subscription.reconnects(), 0, "its connection was never lost");
    count
}

/// Raises the limit on open files as far as it goes. Prints a reason and returns `false` if that
/// is not enough for `need` more.
pub fn descriptors(need: u64) -> bool {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    // Other tests of this process have theirs open meanwhile.
    let enough = raised.is_ok() && limit.maximum.is_none_or(|most| most >= need + 4_000);
    if !enough {
        println!("skipped: {need} connections need a higher limit on open files than {limit:?}");
    }
    enough
}

/// Runs `attack` beside a live client; the memory of the server stays in its bounds.
async fn beside_a_live_client(attack: impl FnOnce(&Server) + Send + 'static) {
    besieged(|setup| setup, Vec::new(), attack).await;
}

/// The same, with more options for the server, and events that are there before its memory is
/// looked at.
pub async fn besieged(
    with: impl FnOnce(Setup) -> Setup,
    stored: Vec<Event>,
    attack: impl FnOnce(&Server) + Send + 'static,
) {
    let place = place();
    let server = with(Setup::new(&place.path().join("data"))).start();
    let client = server.client().await;
    // Buffers that come once are no growth.
    let mut warm: Vec<_> =
        (0..1_000).map(|n| Event::new("warm", format!("w{n}"), vec![1; 1_000])).collect();
    warm.extend(stored);
    assert!(client.publish_batch(warm).await.iter().all(Result::is_ok));
    let before = server.status_number("VmHWM");
    let stop = Arc::new(AtomicBool::new(false));
    let live = tokio::spawn(live(client.clone(), Arc::clone(&stop)));
    let attacking = tokio::task::spawn_blocking(move || {
        attack(&server);
        server
    });
    let server = for_the("end of the attack", attacking).await.expect("its checks hold");
    stop.store(true, Ordering::Relaxed);
    let count = live.await.expect("the live client is well");
    let growth = server.status_number("VmHWM").saturating_sub(before);
    println!("{count} events beside the attack, {growth} kB more memory at the peak");
    assert!(growth < GROWTH_KB, "{growth} kB");
    until("all hostile connections to be closed", || {
        // The live client's: one per shard, and one by which it came.
        (http::get(server.http, "/metrics").sum("cronos_native_connections") <= 3.0).then_some(())
    });
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_length_is_refused_at_the_header() {
    if !descriptors(1_000) {
        return;
    }
    beside_a_live_client(|server| {
        let lies = [
            (u32::MAX, "length"),
            (12 + (16 << 20) + 1, "length"),
            (u32::MAX / 2, "length"),
            (11, "length"),
            (0, "length"),
        ];
        let mut open: Vec<_> = (0..1_000)
            .map(|n| {
                let (length, word) = lies[n % lies.len()];
                let mut raw = match n % 2 {
                    0 => Raw::greeted(server.native),
                    _ => Raw::connect(server.native),
                };
                let kind = if n % 2 == 0 { BATCH } else { FrameKind::Hello as u8 };
                raw.write(&header(length, 1, kind, 0, 2));
                raw.write(&[0xa5; 1_000]);
                (raw, word)
            })
            .collect();
        for (raw, word) in &mut open {
            // What the server says may be lost behind bytes that it did not read.
            if let Some(error) = raw.closed() {
                assert!(error.text.contains(*word), "{error:?}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_frames_take_only_what_they_sent() {
    if !descriptors(1_000) {
        return;
    }
    beside_a_live_client(|server| {
        // Each declares all that a frame may have, and sends next to nothing of it.
        let open: Vec<_> = (0..1_000)
            .map(|n| {
                let mut raw = Raw::greeted(server.native);
                raw.write(&header(
                    12 + (16 << 20),
                    1,
                    if n % 2 == 0 { BATCH } else { PUBLISH },
                    0,
                    2,
                ));
                raw.write(&vec![0x0a; n % 2_000]);
                raw
            })
            .collect();
        // They die in the middle of it.
        drop(open);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_closes_its_own_connection_alone() {
    beside_a_live_client(|server| {
        let hello = FrameKind::Hello as u8;
        let texts: [Vec<u8>; 6] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            (0..=255).collect(),
            header(12, 9, hello, 0, 1),
            header(12, 1, 77, 0, 1),
            header(12, 1, hello, 1, 1),
        ];
        for n in 0..300 {
            let mut raw = Raw::connect(server.native);
            raw.write(&texts[n % texts.len()]);
            raw.shut();
            raw.closed();
        }
        // A request before Hello.
        let mut raw = Raw::connect(server.native);
        raw.send(FrameKind::Ping, 1, &[]);
        let error = raw.closed().expect("it says why");
        assert!(error.text.contains("Hello"), "{error:?}");
        // Garbage in a good frame is that request's fault alone.
        let mut raw = Raw::greeted(server.native);
        raw.send(FrameKind::Publish, 2, &[0xff; 50]);
        assert_eq!(raw.error(2).code, 7, "malformed");
        raw.send(FrameKind::Ping, 3, &[]);
        raw.expect(FrameKind::Pong, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dies_mid_frame_leaves_nothing() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let event = |n: usize| Event::new("t", format!("half-{n}"), vec![3; 10_000]);
    let request = PublishRequest { event: Some(event(0)), allow_duplicate: false };
    let mut whole = bytes::BytesMut::new();
    let body = request.encode_to_vec();
    chronosdb::wire::frame::put_body(&mut whole, FrameKind::Publish, 2, &body).expect("short");
    for n in 0..200 {
        let mut raw = Raw::greeted(server.native);
        raw.write(&whole[..=(n * (whole.len() - 2) / 200)]);
    }
    // A batch that came whole just before its client died is stored or not, but never in part.
    let events = (1..100).map(event).collect();
    let request = PublishBatchRequest { events, allow_duplicate: false };
    let mut raw = Raw::greeted(server.native);
    raw.send(FrameKind::PublishBatch, 2, &request.encode_to_vec());
    drop(raw);
    until("the dead connections to be noticed", || {
        let open = http::get(server.http, "/metrics").sum("cronos_native_connections");
        (open < 0.5).then_some(())
    });
    let client = server.client().await;
    let placed = client.publish(event(0)).await.expect("stored");
    assert!(!placed.duplicate, "half a frame was never stored");
    server.stop();
}
