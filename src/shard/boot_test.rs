//! Real shards on a real disk: through the gate and through sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_lite::future::block_on;
use prost::Message;

use super::*;
use crate::base::api::{EventOutcome, PartitionSet, Placed, Reply, Request, Start, SubscribeSpec};
use crate::base::config::ConnectionLimits;
use crate::base::time::wall_ms;
use crate::shard::StreamMessage;
use crate::wire::frame::{self, Frame, FrameDecoder};
use crate::wire::kind::FrameKind;
use crate::wire::{events, native, publish};

const PARTITIONS: u16 = 4;

pub(super) fn place() -> tempfile::TempDir {
    let target = env!("OUT_DIR");
    tempfile::tempdir_in(target).expect("a directory")
}

fn config(place: &std::path::Path, shards: u16) -> NodeConfig {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("valid");
    NodeConfig {
        node_id: "test".into(),
        data_dir: place.join("data"),
        grpc_addr: any,
        http_addr: any,
        native_addr: any,
        allow_buffered_io: false,
        reflection: false,
        connections: ConnectionLimits::default(),
        engine: EngineConfig { partitions: PARTITIONS, shards, ..EngineConfig::default() },
    }
}

fn event(id: &str, schedule_ts: u64) -> events::Event {
    events::Event {
        message_id: id.into(),
        schedule_ts: schedule_ts as i64,
        payload: Bytes::from_static(b"payload"),
        topic: "topic".into(),
        ..Default::default()
    }
}

fn batch(ids: impl Iterator<Item = u32>, schedule_ts: u64) -> Vec<u8> {
    let events = ids.map(|i| event(&format!("id-{i}"), schedule_ts)).collect();
    events::PublishBatchRequest { events, allow_duplicate: false }.encode_to_vec()
}

fn outcomes(gate: &Gate, message: Vec<u8>) -> Vec<EventOutcome> {
    let message = publish::scan(message.into(), true, wall_ms()).expect("a valid message");
    let reply = block_on(gate.call(Request::Publish(message))).expect("answered");
    let Reply::Published { outcomes, .. } = reply else { panic!("{reply:?}") };
    outcomes
}

fn publish(gate: &Gate, message: Vec<u8>) -> Vec<Placed> {
    let placed = |outcome| match outcome {
        EventOutcome::Stored(placed) => placed,
        other => panic!("{other:?}"),
    };
    outcomes(gate, message).into_iter().map(placed).collect()
}

fn watermarks(shards: &Shards) -> u64 {
    let list = |gate: &Gate| match block_on(gate.call(Request::Partitions(None))) {
        Ok(Reply::Partitions(list)) => list,
        other => panic!("{other:?}"),
    };
    let own = |gate: &Gate| {
        let mine = list(gate).into_iter().filter(|p| p.shard == gate.shard());
        mine.map(|p| p.high_watermark.0).sum::<u64>()
    };
    shards.gates.iter().map(own).sum()
}

/// A blocking client.
struct Client {
    stream: TcpStream,
    received: BytesMut,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("settable");
        stream.set_nodelay(true).expect("settable");
        Self { stream, received: BytesMut::new() }
    }

    fn greeted(address: SocketAddr) -> (Self, native::HelloAck) {
        let mut client = Self::connect(address);
        let hello = native::Hello { version: 1, client: "test".into() };
        client.send(FrameKind::Hello, 1, &hello.encode_to_vec());
        let ack = client.expect(FrameKind::HelloAck, 1);
        (client, native::HelloAck::decode(ack).expect("valid"))
    }

    fn send(&mut self, kind: FrameKind, correlation: u64, body: &[u8]) {
        let mut out = BytesMut::new();
        frame::put_body(&mut out, kind, correlation, body).expect("short enough");
        self.stream.write_all(&out).expect("taken");
    }

    /// The next frame; `None` at the end of the connection.
    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = FrameDecoder::Answers.next(&mut self.received).expect("valid") {
                return Some(frame);
            }
            let mut piece = [0; 8_192];
            let count = self.stream.read(&mut piece).expect("readable in time");
            if count == 0 {
                return None;
            }
            self.received.extend_from_slice(&piece[..count]);
        }
    }

    fn expect(&mut self, kind: FrameKind, correlation: u64) -> Bytes {
        let frame = self.next().expect("a frame");
        assert_eq!((frame.kind, frame.correlation), (kind, correlation), "{:?}", frame.body);
        frame.body
    }

    fn expect_fault(mut self, words: &str) {
        let error = native::Error::decode(self.expect(FrameKind::Error, 0)).expect("valid");
        assert!(error.text.contains(words), "{}", error.text);
        assert!(self.next().is_none(), "then it is closed");
    }
}

#[test]
fn what_is_published_survives_a_restart() {
    let place = place();
    let shards = start(config(place.path(), 2)).expect("started");
    assert_eq!(shards.reports.len(), usize::from(PARTITIONS));
    let due = wall_ms() + 3_600_000;
    for (round, gate) in shards.gates.iter().enumerate() {
        let first = round as u32 * 1000;
        let placed = publish(gate, batch(first..first + 1000, due));
        assert_eq!(placed.len(), 1000);
        assert!(placed.iter().all(|p| p.schedule_ts == due && p.partition.0 < PARTITIONS));
    }
    assert_eq!(watermarks(&shards), 2000);
    let stats = block_on(shards.gates[0].stats()).expect("answered");
    assert!(stats.driver.log_writes > 0 && stats.driver.mesh_messages > 0, "{stats:?}");
    assert_eq!(stats.write_latency_us.len(), stats.driver.log_writes);
    assert!(shards.shutdown(Duration::from_secs(20)), "drained");

    // The number of shards may change.
    let shards = start(config(place.path(), 3)).expect("started again");
    assert_eq!(watermarks(&shards), 2000);
    assert_eq!(shards.reports.iter().map(|r| r.events).sum::<u64>(), 2000);
}

#[test]
fn ids_that_have_left_the_memory_are_known() {
    let place = place();
    let mut config = config(place.path(), 1);
    config.engine.id_window = 40;
    let (due, batches) = (wall_ms() + 3_600_000, 40);
    let batch = |n: u32| batch(n * 50..n * 50 + 50, due);
    let known = |shards: &Shards, places: &[Placed]| {
        for (n, places) in (0..batches).zip(places.chunks(50)) {
            let expected: Vec<_> = places.iter().copied().map(EventOutcome::Duplicate).collect();
            assert_eq!(outcomes(&shards.gates[0], batch(n)), expected);
        }
        let stats = block_on(shards.gates[0].stats()).expect("answered").engine;
        stats.ids_in_runs > 1_000 && stats.id_reads > 500
    };
    // Sooner or later most of them are in runs only: they are known all the time.
    let known = |shards: &Shards, places: &[Placed]| {
        assert!((0..1_000).any(|_| known(shards, places)), "most ids leave the memory");
    };
    let shards = start(config.clone()).expect("started");
    let places: Vec<_> = (0..batches).flat_map(|n| publish(&shards.gates[0], batch(n))).collect();
    known(&shards, &places);
    assert!(shards.shutdown(Duration::from_secs(20)), "drained");

    // Runs are made anew from the log.
    let shards = start(config).expect("started again");
    known(&shards, &places);
    assert_eq!(watermarks(&shards), u64::from(batches) * 50);
}

#[test]
fn a_client_is_greeted_and_answered() {
    let place = place();
    let shards = start(config(place.path(), 2)).expect("started");
    let (mut client, ack) = Client::greeted(shards.native_addr);
    assert_eq!((ack.version, ack.partitions), (1, u32::from(PARTITIONS)));
    let told: Vec<_> = ack.shards.iter().map(|s| s.address.clone()).collect();
    let bound: Vec<_> = shards.shard_addrs.iter().map(ToString::to_string).collect();
    assert_eq!(told, bound);

    client.send(FrameKind::Ping, 7, &[]);
    client.expect(FrameKind::Pong, 7);
    // Pipelined, on each of the ports.
    for address in &shards.shard_addrs {
        let (mut client, _) = Client::greeted(*address);
        let base = u32::from(address.port()) * 1000;
        for i in 0..100_u32 {
            let message = batch(base + i * 10..base + i * 10 + 10, wall_ms() + 3_600_000);
            client.send(FrameKind::PublishBatch, u64::from(i) + 1, &message);
        }
        let mut answered: Vec<_> = (0..100)
            .map(|_| {
                let frame = client.next().expect("an answer");
                let body = events::PublishBatchResponse::decode(frame.body).expect("valid");
                assert_eq!((frame.kind, body.published_count), (FrameKind::PublishedBatch, 10));
                frame.correlation
            })
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, (1..=100).collect::<Vec<_>>());
    }
    assert_eq!(watermarks(&shards), 2000);
}

#[test]
fn a_subscriber_gets_what_is_due_and_not_before() {
    let place = place();
    let shards = start(config(place.path(), 1)).expect("started");
    let (mut subscriber, _) = Client::greeted(shards.native_addr);
    let subscribe = events::SubscribeRequest {
        consumer_group: "group".into(),
        topic: "topic".into(),
        ..Default::default()
    };
    subscriber.send(FrameKind::Subscribe, 5, &subscribe.encode_to_vec());
    subscriber.expect(FrameKind::Subscribed, 5);
    let due = wall_ms() + 200;
    publish(&shards.gates[0], batch(0..500, due));
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < 500 {
        let body = subscriber.expect(FrameKind::Deliveries, 5);
        assert!(wall_ms() >= due, "never early");
        for delivery in native::Deliveries::decode(body).expect("valid").deliveries {
            let event = delivery.event.expect("an event");
            assert_eq!((event.schedule_ts as u64, &event.payload[..]), (due, &b"payload"[..]));
            assert!(ids.insert(event.message_id), "once");
        }
    }
    subscriber.send(FrameKind::CloseStream, 6, &native::CloseStream { stream: 5 }.encode_to_vec());
    subscriber.expect(FrameKind::StreamEnd, 5);
}

#[test]
fn a_gate_stream_gets_deliveries() {
    let place = place();
    let shards = start(config(place.path(), 1)).expect("started");
    let gate = &shards.gates[0];
    publish(gate, batch(0..100, 1));
    let spec = SubscribeSpec {
        group: Arc::from("group"),
        topic: Arc::from("topic"),
        member: Arc::from(""),
        partitions: PartitionSet::All,
        start: Start::Beginning,
        credit: 1_000,
    };
    let mut stream = block_on(gate.open(Request::Subscribe(spec))).expect("let in");
    let (mut opened, mut count) = (false, 0);
    while !opened || count < 100 {
        match block_on(stream.next()).expect("not ended") {
            StreamMessage::Opened => opened = true,
            StreamMessage::Deliveries { deliveries, not_before, .. } => {
                assert!(not_before <= wall_ms());
                count += deliveries.len();
            }
            other => panic!("{other:?}"),
        }
    }
    drop(stream);
    assert!(shards.shutdown(Duration::from_secs(20)), "drained");
}

#[test]
fn faults_close_their_own_connection_only() {
    let place = place();
    let shards = start(config(place.path(), 1)).expect("started");
    let (mut good, _) = Client::greeted(shards.native_addr);

    let mut early = Client::connect(shards.native_addr);
    early.send(FrameKind::Ping, 1, &[]);
    early.expect_fault("first frame must be Hello");

    let mut http = Client::connect(shards.native_addr);
    http.stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("taken");
    http.expect_fault("frame version");

    let (mut reuse, _) = Client::greeted(shards.native_addr);
    reuse.send(FrameKind::Ping, 0, &[]);
    reuse.expect(FrameKind::Pong, 0);
    reuse.send(FrameKind::Partitions, 0, &[]);
    reuse.expect_fault("correlation id");

    // Half a frame, then gone.
    let (mut half, _) = Client::greeted(shards.native_addr);
    half.stream.write_all(&[40, 0, 0, 0, 1]).expect("taken");
    drop(half);

    // What can't be parsed fails alone.
    good.send(FrameKind::PublishBatch, 9, &[0xff; 5]);
    let error = native::Error::decode(good.expect(FrameKind::Error, 9)).expect("valid");
    assert!(!error.text.is_empty());
    good.send(FrameKind::Ping, 10, &[]);
    good.expect(FrameKind::Pong, 10);
}

#[test]
fn a_large_message_is_taken_in_pieces() {
    let place = place();
    let shards = start(config(place.path(), 1)).expect("started");
    let (mut client, _) = Client::greeted(shards.native_addr);
    let large = |i: u32| events::Event {
        payload: vec![7; 4 << 20].into(),
        ..event(&format!("large-{i}"), wall_ms() + 3_600_000)
    };
    let events = (0..3).map(large).collect();
    let message = events::PublishBatchRequest { events, allow_duplicate: false };
    client.send(FrameKind::PublishBatch, 3, &message.encode_to_vec());
    let body = client.expect(FrameKind::PublishedBatch, 3);
    let answer = events::PublishBatchResponse::decode(body).expect("valid");
    assert_eq!(answer.published_count, 3, "{}", answer.error);
}

#[test]
fn a_second_start_is_refused_in_one_sentence() {
    let place = place();
    let shards = start(config(place.path(), 1)).expect("started");
    let refusal = |config| start(config).expect_err("refused").to_string();
    let text = refusal(config(place.path(), 1));
    assert!(text.contains("in use by another process"), "{text}");

    let other = super::boot_test::place();
    let mut same_port = config(other.path(), 1);
    same_port.native_addr = shards.native_addr;
    let text = refusal(same_port);
    assert!(text.contains("cannot listen on") && text.contains("--native-addr"), "{text}");
}

#[test]
fn memory_file_systems_work_when_allowed() {
    let shm = std::path::Path::new("/dev/shm");
    if !shm.is_dir() {
        println!("skipped: no /dev/shm");
        return;
    }
    let place = tempfile::tempdir_in(shm).expect("a directory");
    let mut allowed = config(place.path(), 1);
    // The default segment is zero-filled ahead of use; memory is not for that much.
    allowed.allow_buffered_io = true;
    let shards = start(allowed.clone()).expect("started");
    publish(&shards.gates[0], batch(0..100, wall_ms() + 3_600_000));
    assert!(shards.shutdown(Duration::from_secs(20)), "drained");
    let shards = start(allowed).expect("started again");
    assert_eq!(watermarks(&shards), 100);
}

#[test]
fn registered_memory_stays_below_the_limit() {
    assert_eq!(io_memory(None, 4), IO_MEMORY_MAX);
    let limit = 8 << 20;
    assert!(3 * 4 * (io_memory(Some(limit), 4) + RING_MEMORY) <= limit);
    assert_eq!(io_memory(Some(64 << 10), 4), 0);
}

#[test]
fn errors_of_the_runtime_become_advice() {
    let told = |text: &str| {
        let error = GlommioError::<()>::IoError(std::io::Error::other(text.to_owned()));
        explain(&error, Some(8 << 20), 4).to_string()
    };
    let text = told("failed to create an io_uring: Operation not permitted");
    assert!(text.contains("seccomp") && text.contains("kernel.io_uring_disabled"), "{text}");
    let text = told("Cannot allocate memory (os error 12)");
    assert!(text.contains("LimitMEMLOCK") && text.contains("8192 KiB"), "{text}");
    assert!(told("The memlock resource limit is too low: 1").contains("ulimit -l"));
    assert!(told("else").contains("cannot start the shards: "));
}

#[test]
fn a_client_that_does_not_read_is_not_read_either() {
    let place = place();
    let shards = start(config(place.path(), 1)).expect("started");
    let (mut client, _) = Client::greeted(shards.native_addr);
    let mut pings = BytesMut::new();
    for correlation in 0..4_096 {
        frame::put_empty(&mut pings, FrameKind::Ping, correlation);
    }
    // Send until the server stops reading: answers fill its buffer, then the sockets.
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("settable");
    let mut sent = 0;
    let stopped = loop {
        match client.stream.write(&pings[sent % pings.len()..]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < 256 << 20, "the server goes on reading without end");
    };
    assert!(matches!(stopped.kind(), std::io::ErrorKind::WouldBlock), "{stopped}");
    // Nobody else feels it.
    let (mut other, _) = Client::greeted(shards.native_addr);
    other.send(FrameKind::Ping, 1, &[]);
    other.expect(FrameKind::Pong, 1);
    // Nothing is lost: all that was sent whole is answered, in order.
    for number in 0..sent / frame::HEADER_BYTES {
        client.expect(FrameKind::Pong, number as u64 % 4_096);
    }
}

#[test]
fn a_session_has_a_bounded_number_of_streams() {
    let place = place();
    let shards = start(config(place.path(), 1)).expect("started");
    let (mut client, _) = Client::greeted(shards.native_addr);
    let subscribe = events::SubscribeRequest {
        consumer_group: "group".into(),
        topic: "topic".into(),
        ..Default::default()
    }
    .encode_to_vec();
    let count = crate::base::limits::SESSION_STREAMS as u64;
    for correlation in 1..=count {
        client.send(FrameKind::Subscribe, correlation, &subscribe);
        client.expect(FrameKind::Subscribed, correlation);
    }
    client.send(FrameKind::Subscribe, count + 1, &subscribe);
    let error = client.expect(FrameKind::Error, count + 1);
    let error = native::Error::decode(error).expect("valid");
    assert!(error.text.contains("256 streams"), "{}", error.text);
}
