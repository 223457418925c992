//! Abuse of HTTP/2 on the gRPC port, frame by frame.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use chronosdb::client::Event;
use chronosdb::wire::events::SubscribeRequest;
use prost::Message;

use crate::hostile::besieged;
use crate::raw::{connect_from, drain, push};
use crate::server::Server;
use crate::wait::{for_the, until};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// RST_STREAM: the client has no use for it any more.
const CANCEL: u32 = 8;

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// The head of a call, as HPACK without a table.
fn call(method: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    // Of the static table: `:method POST`, `:scheme http`.
    let mut head = vec![0x83, 0x86];
    let fields = [
        (":path", format!("/cronos_db.EventService/{method}")),
        (":authority", "hostile".into()),
        ("te", "trailers".into()),
        ("content-type", "application/grpc".into()),
    ];
    for (name, value) in fields {
        head.push(0);
        head.extend(text(name));
        head.extend(text(&value));
    }
    head
}

fn message(body: &[u8]) -> Vec<u8> {
    [&[0], &(body.len() as u32).to_be_bytes()[..], body].concat()
}

/// A connection that has said its preface, with all the window there can be.
fn connect(to: SocketAddr) -> TcpStream {
    let mut stream = connect_from(Ipv4Addr::LOCALHOST, to);
    let window = u32::MAX >> 1;
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    greeting.extend(frame(SETTINGS, 0, 0, &settings));
    greeting.extend(frame(WINDOW_UPDATE, 0, 0, &(window - 65_535).to_be_bytes()));
    assert_eq!(push(&mut stream, &greeting).1, None);
    stream
}

/// Sends all of `bytes`, reading meanwhile; `false` if the server closes before.
fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> bool {
    until("the server to take it or to close", || {
        let (taken, error) = push(stream, bytes);
        bytes = &bytes[taken..];
        let open = drain(stream) && error.is_none_or(|e| e == std::io::ErrorKind::WouldBlock);
        (!open || bytes.is_empty()).then_some(open)
    })
}

fn serves_grpc(server: &Server) {
    let runtime = tokio::runtime::Handle::current();
    runtime.block_on(async {
        let mut client = server.events().await;
        let event = Some(Event::new("t", "served", "x"));
        let request = chronosdb::wire::events::PublishRequest { event, allow_duplicate: true };
        let answer = for_the("answer", client.publish(request)).await.expect("served");
        assert!(answer.into_inner().success, "others are served");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_are_borne() {
    let attack = |server: &Server| {
        let begun = call("Publish");
        let mut connections: Vec<_> = (0..10).map(|_| connect(server.grpc)).collect();
        let mut ended = 0;
        for round in 0..20 {
            // Begun and given up at once; every other one with half a message.
            let mut burst = Vec::new();
            for n in 0..500 {
                let stream = 2 * (round * 500 + n) + 1;
                burst.extend(frame(HEADERS, END_HEADERS, stream, &begun));
                if n % 2 == 0 {
                    burst.extend(frame(DATA, 0, stream, &[0, 0, 0, 4, 0, 1, 2]));
                }
                burst.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
            }
            let before = connections.len();
            connections.retain_mut(|stream| send(stream, &burst));
            ended += before - connections.len();
        }
        println!("{ended} of 10 connections were ended for it");
        serves_grpc(server);
    };
    besieged(|setup| setup, Vec::new(), attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_end_are_cut_off() {
    let attack = |server: &Server| {
        // A head that goes on and on.
        let mut endless = connect(server.grpc);
        let mut head = frame(HEADERS, END_STREAM, 1, &call("Publish"));
        head.extend((0..5_000).flat_map(|_| frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'])));
        let open = send(&mut endless, &head)
            && send(&mut endless, &frame(CONTINUATION, END_HEADERS, 1, &[]));
        if open {
            until("the endless head to be refused", || (!drain(&mut endless)).then_some(()));
        }
        // Answers to these are never read.
        let floods = [frame(PING, 0, 0, &[1; 8]), frame(SETTINGS, 0, 0, &[])];
        let mut deaf: Vec<_> = (0..20).map(|_| connect(server.grpc)).collect();
        for (n, stream) in deaf.iter_mut().enumerate() {
            let flood = &floods[n % floods.len()];
            push(stream, &flood.repeat((1 << 20) / flood.len()));
        }
        serves_grpc(server);
        drop(deaf);
    };
    besieged(|setup| setup, Vec::new(), attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_never_read_cost_little() {
    let big = |n: usize| Event::new("big", format!("big-{n}"), vec![5; 50_000]);
    let attack = |server: &Server| {
        let deaf: Vec<_> = (0..20)
            .map(|n| {
                let mut stream = connect(server.grpc);
                let request = SubscribeRequest {
                    consumer_group: format!("deaf-{n}"),
                    topic: "big".into(),
                    partition_id: -1,
                    ..Default::default()
                };
                let mut out = frame(HEADERS, END_HEADERS, 1, &call("Subscribe"));
                out.extend(frame(DATA, 0, 1, &message(&request.encode_to_vec())));
                assert_eq!(push(&mut stream, &out).1, None);
                stream
            })
            .collect();
        until("deliveries to those who never read", || {
            let page = crate::http::get(server.http, "/metrics");
            (page.sum("cronos_deliveries_total") >= 20.0 * 20.0).then_some(())
        });
        serves_grpc(server);
        drop(deaf);
    };
    besieged(|setup| setup, (0..400).map(big).collect(), attack).await;
}
