//! HTTP: `/health`, `/health/ready`, `/metrics`, `/backup/cut` and `/topics/NAME`.
//!
//! Alive means that the process answers; ready, that every shard answers and the node is not
//! stopping. Nothing here changes anything.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Bridge;
use super::accept::Entrance;
use super::backup;
use super::door::Door;
use super::metrics::{Metrics, plain_text};
use super::topics;
use crate::shard::ShardStats;

/// A shard that does not answer within this is not ready.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What HTTP knows. The bridge is there once the shards are.
#[derive(Clone, Debug)]
pub struct Front<D> {
    node_id: Arc<str>,
    started: Instant,
    metrics: Metrics,
    bridge: Arc<OnceLock<Bridge<D>>>,
}

impl<D: Door> Front<D> {
    /// Of a node that starts now.
    #[must_use]
    pub fn new(node_id: &str, metrics: Metrics, bridge: Arc<OnceLock<Bridge<D>>>) -> Self {
        Self { node_id: node_id.into(), started: Instant::now(), metrics, bridge }
    }

    /// The way into the shards, once they are there.
    pub(super) fn bridge(&self) -> Option<&Bridge<D>> {
        self.bridge.get()
    }
}

/// Serves until `stopped`.
pub(super) async fn serve<D: Door>(
    entrance: Entrance,
    front: Front<D>,
    stopped: impl Future<Output = ()> + Send + 'static,
) {
    let server = axum::serve(entrance, router(front)).with_graceful_shutdown(stopped);
    if let Err(error) = server.await {
        tracing::error!(%error, "the HTTP listener ended");
    }
}

/// The routes.
pub fn router<D: Door>(front: Front<D>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/health/ready", get(ready::<D>))
        .route("/metrics", get(metrics::<D>))
        .route(backup::PATH, get(backup::cut::<D>))
        .route(topics::PATH, get(topics::get::<D>).put(topics::put::<D>))
        .with_state(front)
}

async fn health() -> &'static str {
    "OK\n"
}

async fn ready<D: Door>(State(front): State<Front<D>>) -> Response {
    let mut checks = serde_json::Map::new();
    let serving = match front.bridge.get() {
        None => Err("partitions are being recovered"),
        Some(bridge) if bridge.is_stopping() => Err("the node is shutting down"),
        Some(_) => Ok(()),
    };
    let mut healthy = serving.is_ok();
    checks.insert("serving".into(), serving.err().unwrap_or("ok").into());
    if let Some(bridge) = front.bridge.get() {
        for (shard, stats) in stats(bridge).await.into_iter().enumerate() {
            healthy &= stats.is_ok();
            checks.insert(format!("shard-{shard}"), stats.err().unwrap_or("ok").into());
        }
    }
    let body = serde_json::json!({
        "status": if healthy { "ready" } else { "not ready" },
        "node_id": &*front.node_id,
        "uptime_ms": front.started.elapsed().as_millis() as u64,
        "checks": checks,
        "healthy": healthy,
    });
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn metrics<D: Door>(State(front): State<Front<D>>, headers: HeaderMap) -> Response {
    let shards = match front.bridge.get() {
        // A shard that does not answer is missing from the page; `/health/ready` says so.
        Some(bridge) => stats(bridge).await.into_iter().flatten().collect(),
        None => Vec::new(),
    };
    let page = front.metrics.page(shards);
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/openmetrics-text") {
        return ([(CONTENT_TYPE, OPEN_METRICS)], page).into_response();
    }
    ([(CONTENT_TYPE, PLAIN_TEXT)], plain_text(&page)).into_response()
}

/// What each shard counts, or why there is no answer, in order of the shards.
async fn stats<D: Door>(bridge: &Bridge<D>) -> Vec<Result<ShardStats, &'static str>> {
    let asked: Vec<_> = bridge
        .doors
        .all()
        .iter()
        .map(|door| {
            let door = door.clone();
            tokio::spawn(async move { tokio::time::timeout(ANSWER, door.stats()).await })
        })
        .collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.push(match answer.await {
            Ok(Ok(Ok(stats))) => Ok(stats),
            Ok(Ok(Err(_))) => Err("the shard has ended"),
            Ok(Err(_)) | Err(_) => Err("no answer within 2 s"),
        });
    }
    answers
}

#[cfg(test)]
#[path = "http_test.rs"]
mod http_test;
