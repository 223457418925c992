//! Tests of the HTTP front.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::base::api::Reply;
use crate::base::config::ConnectionLimits;
use crate::base::limits;
use crate::control::Doors;
use crate::control::accept::Protocol;
use crate::control::door::FakeShard;

struct Site {
    address: SocketAddr,
    bridge: Arc<OnceLock<Bridge<FakeShard>>>,
    stop: watch::Sender<bool>,
}

/// HTTP of a node whose shards are not there yet.
async fn site() -> Site {
    let bridge = Arc::default();
    let metrics = Metrics::default();
    let refused = metrics.refused("http");
    let front = Front::new("n1", metrics, Arc::clone(&bridge));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let entrance = Entrance::new(listener, Protocol::Http, ConnectionLimits::default(), refused);
    tokio::spawn(serve(entrance, front, std::future::pending()));
    Site { address, bridge, stop: watch::channel(false).0 }
}

impl Site {
    fn shards_are_there(&self, shards: Vec<FakeShard>) {
        let doors = Doors::new(shards, 4);
        let bridge = Bridge::new(doors, "n1", 10, self.stop.subscribe());
        assert!(self.bridge.set(bridge).is_ok());
    }

    /// Status line and headers, and the body.
    async fn get(&self, path: &str, accept: &str) -> (String, String) {
        let mut socket = TcpStream::connect(self.address).await.expect("served");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    async fn put(&self, path: &str, body: &str) -> (String, String) {
        let mut socket = TcpStream::connect(self.address).await.expect("served");
        let length = body.len();
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    async fn ready(&self) -> (u16, serde_json::Value) {
        let (head, body) = self.get("/health/ready", "*/*").await;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), serde_json::from_str(&body).expect("JSON"))
    }
}

fn shard(number: u16) -> FakeShard {
    FakeShard::new(number, |_| Ok(Reply::Partitions(Vec::new())))
}

#[tokio::test]
async fn alive_from_the_start() {
    let site = site().await;
    let (head, body) = site.get("/health", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200") && body.starts_with("OK"), "{head} {body}");
    let (head, _) = site.get("/metrics", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (head, _) = site.get("/nothing", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn ready_while_the_shards_serve() {
    let site = site().await;
    let (status, body) = site.ready().await;
    assert_eq!((status, body["healthy"].as_bool()), (503, Some(false)));
    assert_eq!(body["checks"]["serving"], "partitions are being recovered");

    site.shards_are_there(vec![shard(0), shard(1)]);
    let (status, body) = site.ready().await;
    assert_eq!((status, body["healthy"].as_bool()), (200, Some(true)));
    assert_eq!(body["status"], "ready");
    assert_eq!(body["node_id"], "n1");
    assert!(body["uptime_ms"].is_u64());
    assert_eq!(body["checks"]["shard-1"], "ok");

    site.stop.send_replace(true);
    let (status, body) = site.ready().await;
    assert_eq!((status, body["status"].as_str()), (503, Some("not ready")));
}

#[tokio::test]
async fn not_ready_with_a_shard_that_has_ended() {
    let site = site().await;
    site.shards_are_there(vec![shard(0), FakeShard::dead(1)]);
    let (status, body) = site.ready().await;
    assert_eq!(status, 503);
    assert_eq!(body["checks"]["shard-0"], "ok");
    assert_eq!(body["checks"]["shard-1"], "the shard has ended");
}

#[tokio::test]
async fn metrics_in_the_form_asked_for() {
    let site = site().await;
    site.shards_are_there(vec![shard(0)]);
    let (head, body) = site.get("/metrics", "application/openmetrics-text;q=0.9").await;
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("# EOF"));
    let (head, body) = site.get("/metrics", "*/*").await;
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(!body.contains("# EOF") && body.contains("cronos_events_published_total"));
}

#[tokio::test]
async fn a_cut_names_every_partition_or_says_why_not() {
    use crate::base::ids::{Index, PartitionId, RunNo, Term};
    use crate::control::backup::{CutAnswer, PATH};
    use crate::engine::log::{Ids, Place};
    use crate::engine::{Cut, HardState, NoCut};

    let cut = |partition| {
        let ids = Ids { cluster: 5, partition: PartitionId(partition) };
        let hard_state =
            HardState { term: Term(3), vote: 1, commit: Index(9), ..HardState::default() };
        let (segments, end) = (vec![Index(1), Index(7)], Place::new(Index(7), 4_100));
        Ok(Cut { ids, hard_state, segments, end, checkpoints: vec![4], runs: vec![RunNo(2)] })
    };
    let site = site().await;
    let (head, body) = site.get(PATH, "*/*").await;
    assert!(head.starts_with("HTTP/1.1 503") && body.contains("being recovered"), "{head} {body}");
    let shards = [shard(0), shard(1)];
    shards[0].cuts_are(vec![cut(0), cut(2)]);
    shards[1].cuts_are(vec![cut(1)]);
    let data = tempfile::tempdir().expect("a directory");
    let bridge = Bridge {
        data_dir: data.path().into(),
        ..Bridge::new(Doors::new(shards.to_vec(), 3), "n1", 10, site.stop.subscribe())
    };
    assert!(site.bridge.set(bridge).is_ok());
    let (head, body) = site.get(PATH, "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let answer: CutAnswer = serde_json::from_str(&body).expect("JSON");
    let numbers: Vec<_> = answer.partitions.iter().map(|cut| cut.partition).collect();
    assert_eq!(numbers, [0, 1, 2], "in order");
    let one = &answer.partitions[1];
    assert_eq!((one.term, one.vote, one.commit, one.end), (3, 1, 9, 4_100));
    assert_eq!(
        (&one.segments[..], &one.checkpoints[..], &one.runs[..]),
        (&[1, 7][..], &[4][..], &[2][..])
    );
    assert_eq!(answer.identity, crate::control::backup::identity(data.path()).expect("there"));

    let rot = "it is rotten".to_owned();
    shards[1].cuts_are(vec![Err(NoCut::ReadOnly { partition: PartitionId(1), rot })]);
    let (head, body) = site.get(PATH, "*/*").await;
    assert!(head.starts_with("HTTP/1.1 409") && body.contains("partition 1 is damaged"), "{body}");
    shards[1].cuts_are(vec![Err(NoCut::NotServing { partition: PartitionId(1) })]);
    assert!(site.get(PATH, "*/*").await.0.starts_with("HTTP/1.1 503"));
    site.stop.send_replace(true);
    assert!(site.get(PATH, "*/*").await.1.contains("shutting down"));
}

#[tokio::test]
async fn a_topic_is_asked_for_and_set() {
    use crate::base::api::{Request, TopicSpec};
    use crate::base::error::{ApiError, ErrorCode};
    use crate::base::ids::PartitionId;
    use crate::base::topic_retention::TopicRetention;

    let site = site().await;
    let (head, body) = site.get("/topics/orders", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 503") && body.contains("being recovered"), "{head} {body}");
    let shards = [FakeShard::new(0, |request| {
        let Request::Topic(TopicSpec { topic, retention }) = request else { panic!("{request:?}") };
        let held = |kept| (0..4).map(|p| (PartitionId(p), kept)).collect::<Vec<_>>();
        match (&*topic, retention) {
            ("full", _) => Err(ApiError::new(ErrorCode::ResourceExhausted, "no room")),
            ("torn", _) => {
                let mut held = held(TopicRetention::Node);
                held[2].1 = TopicRetention::For(5);
                Ok(Reply::Topic(held))
            }
            (_, retention) => Ok(Reply::Topic(held(retention.unwrap_or(TopicRetention::For(7))))),
        }
    })];
    site.shards_are_there(shards.to_vec());
    let (head, body) = site.get("/topics/a%2Fb", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "{\"topic\":\"a/b\",\"retention_ms\":7}\n");
    for (said, answered) in
        [("90", "90"), ("\"forever\"", "\"forever\""), ("\"default\"", "\"default\"")]
    {
        let (head, body) =
            site.put("/topics/orders", &format!("{{\"retention_ms\":{said}}}")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
        assert_eq!(body, format!("{{\"topic\":\"orders\",\"retention_ms\":{answered}}}\n"));
    }
    for wrong in
        ["", "{}", "{\"retention_ms\":0}", "{\"retention_ms\":-1}", "{\"retention_ms\":\"9d\"}"]
    {
        let (head, body) = site.put("/topics/orders", wrong).await;
        assert!(
            head.starts_with("HTTP/1.1 400") && body.contains("error"),
            "{wrong}: {head} {body}"
        );
    }
    let (head, body) = site.get("/topics/torn", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 409") && body.contains("set it again"), "{head} {body}");
    let (head, body) = site.get("/topics/full", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 429") && body.contains("no room"), "{head} {body}");
    let long = "x".repeat(limits::NAME_BYTES);
    let (head, _) = site.get(&format!("/topics/{long}"), "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (head, body) = site.get(&format!("/topics/{long}x"), "*/*").await;
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("255 bytes"), "{head} {body}");
}
