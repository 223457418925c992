//! SIGTERM and Ctrl-C: streams end with a word, what was begun is answered, the exit code is 0.

use chronosdb::base::error::ErrorCode;
use chronosdb::client::{Client, ClientError, Event};
use chronosdb::wire::events::{AckRequest, ReplayRequest, SubscribeRequest};
use chronosdb::wire::kind::FrameKind;
use chronosdb::wire::native;
use prost::Message;
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::load::impatient;
use crate::raw::Raw;
use crate::server::{Server, Setup, place};
use crate::wait::{for_the, until};

fn subscribe(group: &str) -> SubscribeRequest {
    SubscribeRequest { consumer_group: group.into(), topic: "t".into(), ..Default::default() }
}

/// Publishes until it is told that the server is going; returns how many were acknowledged.
async fn publish_to_the_end(client: Client, stem: usize) -> u64 {
    let mut stored = 0;
    loop {
        match client.publish(Event::new("load", format!("{stem}-{stored}"), "x")).await {
            Ok(_) => stored += 1,
            Err(error) => {
                let word = match &error {
                    ClientError::Refused(refused) => refused.code == ErrorCode::Unavailable,
                    // The connection is closed once all is answered.
                    other => other.is_retryable(),
                };
                assert!(word, "{error:?}");
                return stored;
            }
        }
    }
}

/// Publishers that do not wait for a server that is gone.
async fn start_load(server: &Server) -> Vec<JoinHandle<u64>> {
    let mut load = Vec::new();
    for stem in 0..4 {
        load.push(tokio::spawn(publish_to_the_end(impatient(server).await, stem)));
    }
    load
}

/// Reads to the end of a connection; the word with which its stream ended.
fn native_end(raw: &mut Raw) -> Option<native::StreamEnd> {
    let mut end = None;
    while let Some(frame) = raw.next() {
        if frame.kind == FrameKind::StreamEnd {
            end = Some(native::StreamEnd::decode(frame.body).expect("an end"));
        }
    }
    end
}

async fn ends_in_order(signal: Signal) {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let mut server = setup.start();
    let client = server.client().await;
    for n in 0..20 {
        client.publish(Event::new("t", format!("m{n}"), "x")).await.expect("stored");
    }
    // Streams of all kinds, some that have delivered and some that wait.
    let mut raw = Raw::greeted(server.native);
    raw.send(FrameKind::Subscribe, 2, &subscribe("native").encode_to_vec());
    // Deliveries may come before.
    while raw.next().expect("a frame").kind != FrameKind::Subscribed {}
    let _idle = (Raw::connect(server.native), Raw::greeted(server.native));
    let mut events = server.events().await;
    let requests = tokio_stream::once(subscribe("grpc"));
    let mut deliveries = events.subscribe(requests).await.expect("it serves").into_inner();
    for_the("delivery", deliveries.message()).await.expect("well").expect("a delivery");
    let (acks, verdicts) = tokio::sync::mpsc::channel::<AckRequest>(1);
    let verdicts = tokio_stream::wrappers::ReceiverStream::new(verdicts);
    let mut acked = events.ack(verdicts).await.expect("it serves").into_inner();
    let slow = ReplayRequest { topic: "t".into(), start_ts: 1, speed: 1e-6, ..Default::default() };
    let mut replay = events.replay(slow).await.expect("it serves").into_inner();
    for_the("event of a replay", replay.message()).await.expect("well").expect("an event");
    let load = start_load(&server).await;
    until("the load to be under way", || {
        let page = crate::http::get(server.http, "/metrics");
        (page.sum("cronos_events_published_total") > 100.0).then_some(())
    });

    server.signal(signal);
    let ended = tokio::task::spawn_blocking(move || (server.ended(), server.log()));
    let (status, log) = for_the("end of the server", ended).await.expect("its checks hold");
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");

    let end = native_end(&mut raw);
    let end = end.expect("a native stream ends with a word");
    assert_eq!(end.code, ErrorCode::Unavailable as i32, "{end:?}");
    let end = loop {
        match for_the("end of the deliveries", deliveries.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an end without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    let end = for_the("end of the acks", acked.message()).await.expect_err("a word");
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    drop(acks);
    let mut stored = 20;
    for publisher in load {
        stored += for_the("end of a publisher", publisher).await.expect("its checks hold");
    }
    // All that was acknowledged is there; what was not may be.
    let server = setup.start();
    let found = server.recovered();
    assert!((stored..=stored + 4).contains(&found), "{found} of {stored}");
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_in_order() {
    ends_in_order(Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_in_order() {
    ends_in_order(Signal::INT).await;
}
