//! `/health`, `/health/ready` and `/metrics` of a running server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use chronosdb::base::time;
use chronosdb::client::{Event, SubscribeOptions};

use crate::server::{Setup, place};
use crate::wait::{PATIENCE, for_the};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Head, lower case.
    pub head: String,
    /// Body.
    pub text: String,
}

impl Answer {
    /// Sum of a metric over its labels.
    pub fn sum(&self, name: &str) -> f64 {
        let values = self.text.lines().filter_map(|line| {
            let (metric, value) = line.rsplit_once(' ')?;
            let own = metric.split('{').next() == Some(name);
            own.then(|| value.parse::<f64>().expect("a number"))
        });
        let values: Vec<f64> = values.collect();
        assert!(!values.is_empty(), "{name} is on the page:\n{}", self.text);
        values.iter().sum()
    }
}

/// GET.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("settable");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), text: text.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_tell_what_happens() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let health = get(server.http, "/health");
    assert!(health.status == 200 && health.text.starts_with("OK"), "{health:?}");
    let ready = get(server.http, "/health/ready");
    assert!(ready.status == 200 && ready.head.contains("application/json"), "{ready:?}");
    let ready: serde_json::Value = serde_json::from_str(&ready.text).expect("JSON");
    assert_eq!((&ready["healthy"], &ready["node_id"]), (&true.into(), &"it-node".into()));
    for key in ["status", "uptime_ms", "checks"] {
        assert!(!ready[key].is_null(), "{key}: {ready}");
    }
    assert_eq!(get(server.http, "/nothing").status, 404);

    let client = server.client().await;
    let now = time::wall_ms();
    for n in 0..10 {
        let due = if n < 7 { now } else { now + 3_600_000 };
        client.publish(Event::new("t", format!("m{n}"), "x").at_ms(due)).await.expect("stored");
    }
    assert!(client.publish(Event::new("t", "m0", "x")).await.expect("a place").duplicate);
    let mut subscription =
        client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
    for n in 0..7 {
        let next = for_the("delivery", subscription.next()).await;
        let delivery = next.expect("endless").expect("a delivery");
        if n < 5 {
            subscription.ack(&delivery).await.expect("confirmed");
        }
    }
    let page = get(server.http, "/metrics");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("text/plain; version=0.0.4"), "{}", page.head);
    for (name, value) in [
        ("cronos_events_published_total", 10.0),
        ("cronos_events_duplicate_total", 1.0),
        ("cronos_events_fired_total", 7.0),
        ("cronos_deliveries_total", 7.0),
        ("cronos_acks_total", 5.0),
        ("cronos_scheduler_active_timers", 3.0),
        ("cronos_deliveries_in_flight", 2.0),
        ("cronos_scheduler_ready_events", 0.0),
        ("cronos_wal_high_watermark", 10.0),
        ("cronos_lateness_seconds_count", 7.0),
        ("cronos_consumer_group_lag", 2.0),
    ] {
        assert!((page.sum(name) - value).abs() < 0.5, "{name} is {}", page.sum(name));
    }
    for name in [
        "cronos_wal_append_latency_seconds_count",
        "cronos_commit_size_bytes_count",
        "cronos_commits_total",
        "cronos_consumer_group_members",
        "cronos_dispatch_latency_seconds_count",
    ] {
        assert!(page.sum(name) > 0.0, "{name}");
    }
    for shard in ["shard=\"0\"", "shard=\"1\""] {
        assert!(page.text.contains(shard), "per shard");
    }
    server.stop();
}
