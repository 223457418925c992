//! Tests of a connection's output, on a real socket and with the engine's part played by hand.

use std::io::Read;
use std::net::TcpStream as Socket;
use std::sync::mpsc;

use bytes::Bytes;
use glommio::LocalExecutorBuilder;
use glommio::net::TcpListener;

use super::*;
use crate::base::api::{
    Delivery, PartitionSet, ReplayRange, ReplaySpec, Replayed, Request, Span, StoredEvent,
};
use crate::base::config::{ConnectionLimits, EngineConfig, NodeConfig};
use crate::base::ids::{GroupNo, Offset, PartitionId, ShardId, SubscriptionId, Term};
use crate::shard::gate::Desk;
use crate::shard::inbox::Inbox;
use crate::shard::route::Route;
use crate::shard::stats::Counters;
use crate::wire::native;
use prost::Message;

const SESSION: SessionId = SessionId(1);
const STREAM: Caller = Caller { session: SESSION, correlation: 5 };

struct Place {
    shared: Rc<Shared>,
    /// Moments and frames as the client sees them.
    seen: mpsc::Receiver<(u64, Frame)>,
    /// Tells the client to begin to read.
    read: mpsc::Sender<()>,
}

/// Runs a scene beside one open connection.
fn on_connection<F: Future<Output = ()>>(scene: impl FnOnce(Place) -> F + Send + 'static) {
    let run = LocalExecutorBuilder::default().spawn(move || async move {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let ((seer, seen), (read, may_read)) = (mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            client(Socket::connect(address).expect("listens"), &seer, &may_read);
        });
        let stream = listener.accept().await.expect("a client");
        let (inbox, counters) = (Rc::new(Inbox::default()), Rc::new(Counters::new()));
        let route = Route::new(Desk::new(inbox.clone(), counters.clone()));
        let parts = (inbox, route, counters);
        let config = NodeConfig {
            node_id: "test".into(),
            data_dir: "unused".into(),
            grpc_addr: address,
            http_addr: address,
            native_addr: address,
            allow_buffered_io: false,
            reflection: false,
            connections: ConnectionLimits { per_ip: Some(1), ..ConnectionLimits::default() },
            engine: EngineConfig::default(),
        };
        let shared = Shared::new(ShardId(0), &config, &[address], parts);
        shared.take(stream);
        scene(Place { shared: shared.clone(), seen, read }).await;
        shared.route.connections().iter().for_each(|connection| connection.close());
    });
    run.expect("a thread").join().expect("the scene ends well");
}

fn client(mut socket: Socket, seer: &mpsc::Sender<(u64, Frame)>, may_read: &mpsc::Receiver<()>) {
    if may_read.recv().is_err() {
        return;
    }
    let mut received = BytesMut::new();
    let mut piece = vec![0; 65_536];
    while let Ok(count @ 1..) = socket.read(&mut piece) {
        received.extend_from_slice(&piece[..count]);
        while let Some(frame) = FrameDecoder::Answers.next(&mut received).expect("valid") {
            if seer.send((wall_ms(), frame)).is_err() {
                return;
            }
        }
    }
}

fn stored(offset: u64, payload: usize) -> StoredEvent {
    StoredEvent {
        body: vec![7; payload].into(),
        message_id: Span { start: 0, len: 4 },
        meta: Span::default(),
        payload: Span { start: 0, len: payload as u32 },
        topic: "topic".into(),
        schedule_ts: 1,
        append_ts: 1,
        partition: PartitionId(0),
        offset: Offset(offset),
        term: Term(1),
        checksum: 0,
    }
}

fn deliver(route: &Rc<Route>, offset: u64, payload: usize, not_before: u64) {
    let delivery = Delivery {
        event: stored(offset, payload),
        group: GroupNo(0),
        term: Term(1),
        attempt: 1,
        ack_timeout_ms: 1,
        seal: 0,
    };
    route.deliver(STREAM, (SubscriptionId(9), 10), "group".into(), vec![delivery], not_before);
}

/// Lets the shard's tasks run until `done` says something.
async fn until<T>(mut done: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = done() {
            return value;
        }
        breathe().await;
    }
}

fn offset(frame: &Frame) -> u64 {
    assert_eq!((frame.kind, frame.correlation), (FrameKind::Deliveries, 5));
    let deliveries = native::Deliveries::decode(Bytes::clone(&frame.body)).expect("valid");
    deliveries.deliveries[0].event.as_ref().expect("an event").offset as u64
}

#[test]
fn nothing_leaves_before_its_time() {
    on_connection(|Place { shared, seen, read }| async move {
        read.send(()).expect("the client waits");
        // As after a step back of the clock: fired, and not due any more.
        let due = wall_ms() + 300;
        deliver(&shared.route, 1, 10, due);
        shared.route.flush();
        let deadline = shared.route.deadline(Now::read()).expect("held back");
        assert!(deadline > Now::read().boot_us);
        until(|| {
            shared.route.flush();
            shared.route.deadline(Now::read()).is_none().then_some(())
        })
        .await;
        let (at, frame) = until(|| seen.try_recv().ok()).await;
        assert!(at >= due && offset(&frame) == 1, "never early");
        let sent = until(|| shared.inbox.take()).await;
        assert!(matches!(
            sent,
            Input::Sent { subscription: SubscriptionId(9), bytes: 10, batches: 1 }
        ));
    });
}

#[test]
fn a_clock_far_back_closes_the_connection() {
    on_connection(|Place { shared, .. }| async move {
        deliver(&shared.route, 1, 10, wall_ms() + 3_600_000);
        shared.route.flush();
        let closed = until(|| shared.inbox.take()).await;
        assert!(matches!(closed, Input::SessionClosed { session: SESSION }), "{closed:?}");
        assert!(!shared.route.is_open(SESSION));
    });
}

#[test]
fn a_slow_reader_gets_all_in_order_from_a_bounded_buffer() {
    const COUNT: u64 = 40;
    const PAYLOAD: usize = 1 << 20;
    on_connection(|Place { shared, seen, read }| async move {
        let connection = shared.route.connections().pop().expect("one");
        for number in 0..COUNT {
            deliver(&shared.route, number, PAYLOAD, 0);
            shared.route.flush();
            let buffered = connection.state.borrow().out.bytes().len();
            assert!(buffered <= limits::CONNECTION_OUT_BYTES + PAYLOAD + 1_024, "{buffered}");
            breathe().await;
        }
        // Its end comes behind all of them.
        let open = Request::Replay(ReplaySpec {
            topic: "topic".into(),
            partitions: PartitionSet::All,
            range: ReplayRange::Offsets { start: Offset(0), count: 1 },
            speed: 0.0,
        });
        connection.state.borrow_mut().ledger.begin(STREAM.correlation, &open, 0);
        shared.route.reply(STREAM, Reply::StreamEnd(Ok(())));
        shared.route.flush();
        read.send(()).expect("the client waits");
        for number in 0..COUNT {
            let (_, frame) = until(|| seen.try_recv().ok()).await;
            assert_eq!(offset(&frame), number);
        }
        let (_, last) = until(|| seen.try_recv().ok()).await;
        assert_eq!(last.kind, FrameKind::StreamEnd);
        let mut told = 0;
        while let Some(Input::Sent { batches, .. }) = shared.inbox.take() {
            told += u64::from(batches);
        }
        assert_eq!(told, COUNT, "each is told once");
    });
}

#[test]
fn replayed_events_and_answers_share_a_connection() {
    on_connection(|Place { shared, seen, read }| async move {
        read.send(()).expect("the client waits");
        let events = vec![Replayed { event: stored(3, 8), index: 0 }];
        shared.route.replay(STREAM, (SubscriptionId(2), 1), events, 0);
        // Nobody asked with this number: dropped.
        let unknown = Caller { session: SESSION, correlation: 77 };
        shared.route.reply(unknown, Reply::Partitions(vec![]));
        // Nor is there such a session.
        shared.route.reply(Caller { session: SessionId(99), correlation: 1 }, Reply::Subscribed);
        shared.route.flush();
        let (_, frame) = until(|| seen.try_recv().ok()).await;
        assert_eq!(frame.kind, FrameKind::ReplayEvents);
        assert!(seen.try_recv().is_err());
    });
}
