//! `GET /backup/cut`: where a copy of the data directory would end now, for `chronosdb backup` on
//! the same machine.
//!
//! Changes nothing, and promises nothing for long: files that a cut names may be removed at any
//! time (superseded checkpoints, merged runs). Who copies opens all of them first, since an open
//! file stays, and asks again if one has gone. Numbers only: both sides make the names of files of
//! them by the same functions, so that no answer can name a file elsewhere.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, absolute};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Bridge;
use super::door::Door;
use super::http::{ANSWER, Front};
use crate::engine::{Cut, NoCut};

/// Where it is asked for.
pub const PATH: &str = "/backup/cut";
/// Version of the answer.
pub const VERSION: u32 = 1;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutAnswer {
    /// [`VERSION`]; another one has other fields.
    pub version: u32,
    /// The server's name for its data directory.
    pub data_dir: String,
    /// Device and inode of it: two directories are the same if both are.
    pub identity: (u64, u64),
    /// Of every partition of the directory, in order.
    pub partitions: Vec<PartitionCut>,
}

/// The cut of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCut {
    /// Which.
    pub partition: u16,
    /// Highest term seen.
    pub term: u64,
    /// Node voted for in it; 0 for none.
    pub vote: u64,
    /// Last entry that is committed; it lies before `end`.
    pub commit: u64,
    /// The segment that the log begins with; 0: the first one.
    pub log_start: u64,
    /// First indexes of the segments, oldest first. Never empty.
    pub segments: Vec<u64>,
    /// Bytes of the last segment that are for good.
    pub end: u64,
    /// Numbers of checkpoints, oldest first.
    pub checkpoints: Vec<u64>,
    /// Numbers of runs that they list.
    pub runs: Vec<u64>,
}

/// What is said instead of a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One sentence.
    pub error: String,
}

/// The device and the inode of a directory.
pub fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Serves [`PATH`].
pub(super) async fn cut<D: Door>(State(front): State<Front<D>>) -> Response {
    let answered = match front.bridge() {
        None => Err((StatusCode::SERVICE_UNAVAILABLE, "partitions are being recovered".into())),
        Some(bridge) => answer(bridge).await,
    };
    let (status, body) = match answered {
        Ok(answer) => (StatusCode::OK, serde_json::to_string(&answer)),
        Err((status, error)) => (status, serde_json::to_string(&Refusal { error })),
    };
    let head = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, head, body.expect("plain fields are always JSON") + "\n").into_response()
}

async fn answer<D: Door>(bridge: &Bridge<D>) -> Result<CutAnswer, (StatusCode, String)> {
    let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    if bridge.is_stopping() {
        return Err(unavailable("the node is shutting down"));
    }
    let mut partitions = Vec::new();
    for door in bridge.doors.all() {
        let cuts = tokio::time::timeout(ANSWER, door.cuts()).await;
        let cuts = cuts.map_err(|_| unavailable("a shard does not answer within 2 s"))?;
        for cut in cuts.map_err(|error| unavailable(&error.text))? {
            partitions.push(of_partition(cut.map_err(|why| refusal(&why))?));
        }
    }
    partitions.sort_unstable_by_key(|cut| cut.partition);
    let identity = identity(&bridge.data_dir);
    let identity = identity.map_err(|error| unavailable(&format!("no data directory: {error}")))?;
    let data_dir = absolute(&bridge.data_dir).unwrap_or_else(|_| bridge.data_dir.clone());
    let data_dir = data_dir.display().to_string();
    Ok(CutAnswer { version: VERSION, data_dir, identity, partitions })
}

fn refusal(why: &NoCut) -> (StatusCode, String) {
    let status = match why {
        // Asking again does not help.
        NoCut::ReadOnly { .. } => StatusCode::CONFLICT,
        NoCut::NotServing { .. } => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, why.to_string())
}

fn of_partition(cut: Cut) -> PartitionCut {
    PartitionCut {
        partition: cut.ids.partition.0,
        term: cut.hard_state.term.0,
        vote: cut.hard_state.vote,
        log_start: cut.hard_state.log_start.0,
        commit: cut.hard_state.commit.0,
        segments: cut.segments.iter().map(|first| first.0).collect(),
        end: cut.end.position,
        checkpoints: cut.checkpoints,
        runs: cut.runs.iter().map(|run| run.0).collect(),
    }
}
