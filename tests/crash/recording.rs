//! A recording: one load on a real node, on a disk whose writes are logged.
//!
//! ```text
//! start.img     the disk before it
//! log.img       the write log
//! ledger.jsonl  what clients know, with positions in the log
//! about.json    file system, marks and counts
//! ```
//! It is all that the points need, and all that is kept of a failure.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::image::{Images, copy};
use crate::ledger::{Known, Ledger, Position, Scribe};
use crate::load::{Load, PARTITIONS};
use crate::server::{Server, Setup};
use crate::stack::{Chain, FileSystem, Stack};
use crate::wait::for_the;
use crate::write_log::{LogEnd, WriteLog};

/// Events of one life of the node, so that a check of all of them stays quick.
const EVENTS: usize = 1_500;

/// How much is done in a recording.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Lives of the node.
    pub lives: usize,
    /// Payload bytes acknowledged in each.
    pub bytes: u64,
    /// Most bytes of a payload.
    pub payload: u64,
}

/// A recording on the disk.
#[derive(Debug)]
pub struct Recording {
    pub place: PathBuf,
    pub about: About,
    pub ledger: Ledger,
    pub log: WriteLog,
}

/// What is to be known about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    pub system: FileSystem,
    /// Syncs before its answers.
    pub synced: bool,
    /// Where something happened that crashes like best: starts, kills, new segments.
    pub marks: Vec<(Position, String)>,
}

/// How a node on a disk under test is run.
pub fn setup(data: &Path, synced: bool, chance: &mut Chance) -> Setup {
    let mode = match synced {
        false => "periodic",
        true if chance.one_in(4) => "every_event",
        true => "batch",
    };
    Setup::new(data)
        .with("--partitions", PARTITIONS)
        .with("--shards", 1 + chance.below(2))
        .with("--segment-size", "32MiB")
        .with("--max-retries", 1_000)
        .with("--ack-timeout", "10m")
        .with("--fsync-mode", mode)
}

impl Recording {
    /// Makes one in `place`, which holds `start.img`; `before` is what clients know of it.
    pub async fn make(
        place: &Path,
        round: usize,
        (system, synced): (FileSystem, bool),
        before: Ledger,
        size: Size,
        chance: &mut Chance,
    ) -> Self {
        copy(&place.join("start.img"), &place.join("disk.img"));
        let stack = Stack::start(place, system, Chain::Recorded).expect("as in the probe");
        let end = LogEnd::of(&place.join("log.img"));
        let scribe = Scribe::new(before, move || end.now());
        let mut marks = Vec::new();
        for life in 0..size.lives {
            let stem = format!("{}{round}-{life}", system.name());
            live(stack.at(), &stem, synced, size, &scribe, &mut marks, chance).await;
        }
        drop(stack);
        let ledger = scribe.lock().clone();
        ledger.save(&place.join("ledger.jsonl"));
        let about = About { system, synced, marks };
        let text = serde_json::to_string_pretty(&about).expect("plain fields");
        fs::write(place.join("about.json"), text).expect("a place for it");
        let recording = Self::open(place);
        recording.judge_the_recorder();
        recording
    }

    /// Reads one that was made.
    pub fn open(place: &Path) -> Self {
        let about = fs::read_to_string(place.join("about.json")).expect("a recording was kept");
        Self {
            place: place.to_owned(),
            about: serde_json::from_str(&about).expect("our own text"),
            ledger: Ledger::load(&place.join("ledger.jsonl")),
            log: WriteLog::open(&place.join("log.img")),
        }
    }

    /// The disk as it was before.
    pub fn start(&self) -> PathBuf {
        self.place.join("start.img")
    }

    /// All entries of the log, applied in order, make the disk as it was at the end.
    fn judge_the_recorder(&self) {
        let whole = Images::new(&self.log, &self.start(), &self.place.join("whole.img")).whole();
        let disk = self.place.join("disk.img");
        let mut compare = std::process::Command::new("cmp");
        let same = compare.arg(&whole).arg(&disk).status().expect("cmp is here").success();
        assert!(same, "the write log is complete");
        for image in [whole, disk] {
            fs::remove_file(image).expect("it was made here");
        }
    }
}

/// One life of the node: a start on what is there, a load, and an end, mostly by SIGKILL.
async fn live(
    at: &Path,
    stem: &str,
    synced: bool,
    size: Size,
    scribe: &Scribe,
    marks: &mut Vec<(Position, String)>,
    chance: &mut Chance,
) {
    let data = at.join("deep/er/data");
    let mut mark = |what: &str| marks.push((scribe.now(), format!("{stem} {what}")));
    mark("starts");
    let server = setup(&data, synced, chance).start();
    mark("serves");
    resolve(&server, scribe).await;
    let mut progress = scribe.progress();
    let goal = progress.borrow().0 + size.bytes;
    let most = scribe.lock().events.len() + EVENTS;
    let load = Load::start(&server, stem, size.payload, scribe, chance).await;
    let mut segments = count_segments(&data);
    while progress.borrow_and_update().0 < goal && scribe.lock().events.len() < most {
        let step = for_the("progress of the load", progress.changed()).await;
        step.expect("the scribe is here");
        let now = count_segments(&data);
        if now != segments {
            mark("has a new segment");
            segments = now;
        }
    }
    mark("ends");
    if chance.one_in(3) {
        server.stop();
    } else {
        server.kill();
    }
    load.stop().await;
}

/// Publishes again what is in doubt since the last end: then it is known.
async fn resolve(server: &Server, scribe: &Scribe) {
    let doubtful = |known: &&Known| known.stored.is_none();
    let events: Vec<_> = scribe.lock().events.values().filter(doubtful).map(Known::event).collect();
    let ids: Vec<_> = events.iter().map(|event| event.message_id.clone()).collect();
    let results = server.client().await.publish_batch(events).await;
    for (id, result) in ids.iter().zip(results) {
        scribe.resolved(id, result.expect("it serves"));
    }
}

fn count_segments(data: &Path) -> usize {
    let partitions = (0..PARTITIONS).map(|number| data.join(format!("p-{number:05}")));
    let files = partitions.filter_map(|partition| fs::read_dir(partition).ok()).flatten();
    files
        .filter(|file| {
            let path = file.as_ref().expect("readable").path();
            path.extension().is_some_and(|ending| ending == "seg")
        })
        .count()
}
