//! `/topics/NAME`: how long a topic's events are kept. GET asks, PUT changes.
//!
//! Both answer with what holds in every partition of the node. A change is durable in all of them
//! by then; one that failed may hold in some: the same again brings them together.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Bridge;
use super::backup::Refusal;
use super::door::Door;
use super::http::{ANSWER, Front};
use crate::base::api::{Reply, Request, TopicSpec};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::PartitionId;
use crate::base::limits::NAME_BYTES;
use crate::base::topic_retention::TopicRetention;

/// Where a topic is found, with its name in the place of `{topic}`, percent-encoded.
pub const PATH: &str = "/topics/{topic}";

/// What a PUT may say, and what both answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSettings {
    /// The topic; not needed in a PUT.
    #[serde(default)]
    pub topic: String,
    /// How long its events are kept beyond their time.
    pub retention_ms: RetentionMs,
}

/// Milliseconds, `"forever"`, or `"default"`: as the node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RetentionMs {
    /// Above 0.
    Ms(u64),
    /// One of the two words.
    Word(String),
}

impl From<TopicRetention> for RetentionMs {
    fn from(retention: TopicRetention) -> Self {
        match retention {
            TopicRetention::For(ms) => Self::Ms(ms),
            word => Self::Word(word.to_string()),
        }
    }
}

impl RetentionMs {
    /// What it means, or what is wrong with it.
    pub fn retention(&self) -> Result<TopicRetention, String> {
        match self {
            Self::Ms(ms) if (1..u64::MAX).contains(ms) => Ok(TopicRetention::For(*ms)),
            Self::Word(word) if word == "forever" => Ok(TopicRetention::Forever),
            Self::Word(word) if word == "default" => Ok(TopicRetention::Node),
            _ => Err("retention_ms: a number of ms above 0, \"forever\" or \"default\"".to_owned()),
        }
    }
}

/// Serves GET of [`PATH`].
pub(super) async fn get<D: Door>(State(front): State<Front<D>>, topic: Path<String>) -> Response {
    respond(ask(&front, &topic, None).await)
}

/// Serves PUT of [`PATH`].
pub(super) async fn put<D: Door>(
    State(front): State<Front<D>>,
    topic: Path<String>,
    body: Bytes,
) -> Response {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let parsed = serde_json::from_slice::<TopicSettings>(&body);
    let parsed = parsed.map_err(|error| bad(format!("the body is not understood: {error}")));
    let wanted = parsed.and_then(|settings| settings.retention_ms.retention().map_err(bad));
    respond(match wanted {
        Ok(retention) => ask(&front, &topic, Some(retention)).await,
        Err(refused) => Err(refused),
    })
}

type Refused = (StatusCode, String);

async fn ask<D: Door>(
    front: &Front<D>,
    topic: &str,
    retention: Option<TopicRetention>,
) -> Result<TopicSettings, Refused> {
    let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    if topic.len() > NAME_BYTES || topic.chars().any(char::is_control) {
        let text = format!("topic: at most {NAME_BYTES} bytes, without control characters");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let bridge = front.bridge().ok_or_else(|| unavailable("partitions are being recovered"))?;
    if bridge.is_stopping() {
        return Err(unavailable("the node is shutting down"));
    }
    let spec = TopicSpec { topic: topic.into(), retention };
    let held = held(bridge, spec).await?;
    let Some(((_, first), rest)) = held.split_first() else {
        return Err(unavailable("no partition has answered"));
    };
    if let Some((other, _)) = rest.iter().find(|(_, kept)| kept != first) {
        let text = format!(
            "the partitions do not agree (0 keeps it {first}, {other} does not): a change has \
             failed half-way; set it again"
        );
        return Err((StatusCode::CONFLICT, text));
    }
    Ok(TopicSettings { topic: topic.to_owned(), retention_ms: (*first).into() })
}

async fn held<D: Door>(
    bridge: &Bridge<D>,
    spec: TopicSpec,
) -> Result<Vec<(PartitionId, TopicRetention)>, Refused> {
    let call = bridge.doors.any().call(Request::Topic(spec));
    let late = "a partition does not answer within 2 s; a change may hold by now: ask again";
    let answered = tokio::time::timeout(ANSWER, call).await;
    match answered.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, late.to_owned()))? {
        Ok(Reply::Topic(held)) => Ok(held),
        Ok(other) => unreachable!("settings were asked for, not {other:?}"),
        Err(error) => Err((status(&error), error.text.to_string())),
    }
}

fn status(error: &ApiError) -> StatusCode {
    match error.code {
        ErrorCode::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorCode::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn respond(answered: Result<TopicSettings, Refused>) -> Response {
    let (status, body) = match answered {
        Ok(settings) => (StatusCode::OK, serde_json::to_string(&settings)),
        Err((status, error)) => (status, serde_json::to_string(&Refusal { error })),
    };
    let head = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, head, body.expect("plain fields are always JSON") + "\n").into_response()
}
