//! Crowds of hostile clients: floods, the slow ones, and those that never read.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use chronosdb::client::Event;
use chronosdb::wire::events::SubscribeRequest;
use chronosdb::wire::events::event_service_client::EventServiceClient;
use chronosdb::wire::frame;
use chronosdb::wire::kind::FrameKind;
use chronosdb::wire::native;
use prost::Message;

use crate::hostile::{besieged, descriptors};
use crate::http;
use crate::raw::{Raw, connect_from, drain, header, push};
use crate::server::Server;
use crate::wait::{for_the, until};

/// Events of a topic that is rare.
const RARE: usize = 1_000;

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A number on the metrics page, over all of its labels.
fn counted(server: &Server, name: &str) -> u64 {
    http::get(server.http, "/metrics").sum(name) as u64
}

fn crowd(size: usize, from: Ipv4Addr, to: SocketAddr) -> Vec<TcpStream> {
    (0..size).map(|_| connect_from(from, to)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_is_refused_at_the_limits() {
    if !descriptors(4_000) {
        return;
    }
    let limits = |setup: crate::server::Setup| {
        setup.with("--max-connections", 400).with("--max-connections-per-ip", 200)
    };
    let attack = |server: &Server| {
        for _ in 0..2_000 {
            // Come and gone.
            drop(connect_from(LOCAL, server.native));
        }
        let refused = counted(server, "cronos_native_connections_refused_total");
        let come = crowd(1_000, LOCAL, server.native);
        until("those beyond one address's part to be refused", || {
            let now = counted(server, "cronos_native_connections_refused_total");
            (now - refused >= 400).then_some(())
        });
        assert!(counted(server, "cronos_native_connections") <= 200);
        // Another address has its part, until all places are taken.
        let refused = counted(server, "cronos_native_connections_refused_total");
        let more: Vec<_> =
            (2..8).flat_map(|n| crowd(200, Ipv4Addr::new(127, 0, 0, n), server.native)).collect();
        until("those beyond the total to be refused", || {
            let now = counted(server, "cronos_native_connections_refused_total");
            (now - refused >= 400).then_some(())
        });
        assert!(counted(server, "cronos_native_connections") <= 400);
        drop((come, more));

        let grpc = crowd(1_000, LOCAL, server.grpc);
        until("gRPC connections beyond the limit to be refused", || {
            (counted(server, "cronos_api_connections_refused_total") >= 300).then_some(())
        });
        drop(grpc);
        // Places come back.
        until("a native place", || {
            let mut stream = connect_from(LOCAL, server.native);
            let (_, error) = push(&mut stream, &hello());
            stream.set_nonblocking(false).expect("settable");
            // The queue may have lost it, which shows to neither side for a minute.
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("settable");
            let mut byte = [0];
            let answered = std::io::Read::read(&mut stream, &mut byte).is_ok_and(|n| n == 1);
            (error.is_none() && answered).then_some(())
        });
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(async {
            let event = Event::new("t", "behind-the-flood", "x");
            let request = chronosdb::wire::events::PublishRequest {
                event: Some(event),
                allow_duplicate: false,
            };
            // The bridge may still count those that have just gone: then it closes this one, too.
            let served = async {
                loop {
                    let Ok(channel) = server.hasty_endpoint().connect().await else { continue };
                    let mut client = EventServiceClient::new(channel);
                    if let Ok(answer) = client.publish(request.clone()).await {
                        return answer.into_inner();
                    }
                }
            };
            assert!(for_the("place on the bridge", served).await.success);
        });
    };
    besieged(limits, Vec::new(), attack).await;
}

fn hello() -> Vec<u8> {
    let hello = native::Hello { version: 1, client: "raw".into() };
    let mut out = bytes::BytesMut::new();
    frame::put_body(&mut out, FrameKind::Hello, 1, &hello.encode_to_vec()).expect("short");
    out.to_vec()
}

/// One that says what it has to say byte by byte, without end.
struct Dribbler {
    what: &'static str,
    stream: TcpStream,
    said: usize,
    script: Vec<u8>,
}

impl Dribbler {
    fn crowd(what: &'static str, to: SocketAddr, script: &[u8]) -> Vec<Self> {
        let one = |stream| Self { what, stream, said: 0, script: script.to_vec() };
        crowd(100, LOCAL, to).into_iter().map(one).collect()
    }

    /// Says one byte more; `false` once the server has closed.
    fn dribble(&mut self) -> bool {
        let byte = self.script.get(self.said).copied();
        if let Some(byte) = byte.or_else(|| self.script.last().copied()) {
            let (taken, error) = push(&mut self.stream, &[byte]);
            self.said += taken;
            if error.is_some_and(|kind| kind != ErrorKind::WouldBlock) {
                return false;
            }
        }
        drain(&mut self.stream)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slow_are_left_behind() {
    if !descriptors(1_000) {
        return;
    }
    let attack = |server: &Server| {
        let hello_kind = FrameKind::Hello as u8;
        let half_hello = header(12 + 1_000, 1, hello_kind, 0, 1);
        let half_frame = [hello(), header(12 + (1 << 20), 1, FrameKind::Publish as u8, 0, 2)];
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r";
        let mut slow: Vec<Dribbler> = [
            Dribbler::crowd("silent, native", server.native, b""),
            Dribbler::crowd("half a Hello, native", server.native, &half_hello),
            Dribbler::crowd("half a frame, native", server.native, &half_frame.concat()),
            Dribbler::crowd("silent, gRPC", server.grpc, b""),
            Dribbler::crowd("half a preface, gRPC", server.grpc, preface),
            Dribbler::crowd("silent, HTTP", server.http, b""),
            Dribbler::crowd("half a request, HTTP", server.http, b"GET /metrics HTTP/1.1\r\na: bb"),
        ]
        .into_iter()
        .flatten()
        .collect();
        for dribbler in slow.iter_mut().filter(|dribbler| dribbler.what.contains("half a frame")) {
            let greeting = hello();
            push(&mut dribbler.stream, &greeting);
            dribbler.said = greeting.len();
        }
        until("the server to close all slow connections", || {
            // A byte each in a while: nobody finishes what it has begun. Between two polls.
            std::thread::sleep(Duration::from_millis(250));
            slow.retain_mut(Dribbler::dribble);
            slow.is_empty().then_some(())
        });
    };
    besieged(|setup| setup, Vec::new(), attack).await;
}

/// Subscribes, and never reads a byte.
fn deaf_subscriber(server: &Server, group: &str, topic: &str) -> TcpStream {
    let mut stream = connect_from(LOCAL, server.native);
    let request = SubscribeRequest {
        consumer_group: group.into(),
        topic: topic.into(),
        partition_id: -1,
        ..Default::default()
    };
    let mut out = bytes::BytesMut::from(&hello()[..]);
    let body = request.encode_to_vec();
    frame::put_body(&mut out, FrameKind::Subscribe, 2, &body).expect("short");
    assert_eq!(push(&mut stream, &out), (out.len(), None));
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_cost_little() {
    if !descriptors(500) {
        return;
    }
    let big = |n: usize| Event::new("big", format!("big-{n}"), vec![5; 50_000]);
    let attack = |server: &Server| {
        // Each would get 20 MB.
        let subscribers: Vec<_> =
            (0..40).map(|n| deaf_subscriber(server, &format!("deaf-{n}"), "big")).collect();
        until("deliveries to those who never read", || {
            (counted(server, "cronos_deliveries_total") >= 40 * 20).then_some(())
        });
        // Each asks for as much as it is let, and takes nothing.
        let mut ping = bytes::BytesMut::new();
        frame::put_body(&mut ping, FrameKind::Ping, 7, &[]).expect("short");
        let pings = ping.repeat((1 << 20) / ping.len());
        let mut pingers: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = connect_from(LOCAL, server.native);
                push(&mut stream, &hello());
                stream
            })
            .collect();
        for _ in 0..4 {
            for stream in &mut pingers {
                push(stream, &pings);
            }
        }
        let mut polite = Raw::greeted(server.native);
        polite.send(FrameKind::Ping, 1, &[]);
        polite.expect(FrameKind::Pong, 1);
        drop((subscribers, pingers));
    };
    besieged(|setup| setup, (0..400).map(big).collect(), attack).await;
}

/// Of each entry next to nothing is theirs: what waits for them must not keep the rest in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_of_a_rare_topic_that_never_read_cost_little() {
    let one = |n: usize| {
        let key = |event: Event| event.with_key("one");
        let bulk =
            (0..120).map(move |k| Event::new("bulk", format!("bulk-{n}-{k}"), vec![6; 1_000]));
        let rare = Event::new("rare", format!("rare-{n}"), vec![5; 3_000]);
        std::iter::once(rare).chain(bulk).map(key)
    };
    let attack = move |server: &Server| {
        // Little at a time: the memory is looked at by its peak.
        tokio::runtime::Handle::current().block_on(async {
            let client = server.client().await;
            for n in (0..RARE).step_by(10) {
                let stored = client.publish_batch((n..n + 10).flat_map(one).collect()).await;
                assert!(stored.iter().all(Result::is_ok));
            }
        });
        let mut deaf = Vec::new();
        // One after the other: what they hold is out of the cache when the next one comes. So much
        // each that their sockets do not take all of it.
        for n in 1..=4 {
            deaf.push(deaf_subscriber(server, &format!("deaf-{n}"), "rare"));
            until("deliveries to who never reads", || {
                let held = counted(server, "cronos_deliveries_in_flight");
                (held >= n * RARE as u64 * 4 / 5).then_some(())
            });
        }
    };
    let small = |setup: crate::server::Setup| {
        setup.with("--wheel-memory", "16MiB").with("--shards", 1).with("--partitions", 1)
    };
    besieged(small, Vec::new(), attack).await;
}
