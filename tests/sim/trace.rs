//! What happened, as a hash (always) and as the last lines (when a failing seed runs once more).

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use chronosdb::base::api::{Delivery, Reply, StoredEvent};
use chronosdb::engine::jobs::JobSpec;
use chronosdb::engine::mesh::MeshMessage;
use chronosdb::engine::{Effect, Input};

use super::rng::mix;

/// Lines that a failure prints.
const LINES: usize = 60;

#[derive(Default)]
pub struct Trace {
    hash: u64,
    /// Keeps lines.
    verbose: bool,
    /// Prints every line.
    echo: bool,
    lines: VecDeque<String>,
}

impl Trace {
    pub fn new(verbose: bool, echo: bool) -> Self {
        Self { hash: 0, verbose, echo, lines: VecDeque::new() }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn note(&mut self, time_us: u64, what: fmt::Arguments<'_>) {
        let mut digest = Digest { hash: self.hash ^ mix(time_us) };
        digest.write_fmt(what).expect("hashing does not fail");
        self.hash = mix(digest.hash);
        if self.verbose {
            let line = format!("{:>12.3} ms  {what}", time_us as f64 / 1_000.0);
            if self.echo {
                println!("{line}");
            }
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    /// The last lines, oldest first.
    pub fn tail(&self) -> String {
        self.lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

/// Hashes what is written to it.
struct Digest {
    hash: u64,
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash.rotate_left(23) ^ u64::from_le_bytes(word))
                .wrapping_mul(0xff51_afd7_ed55_8ccd);
        }
        Ok(())
    }
}

/// Prints an input without the bytes in it.
pub struct ShownInput<'a>(pub &'a Input);

impl fmt::Display for ShownInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use chronosdb::base::api::Request;
        match self.0 {
            Input::ReadDone { partition, read, data } => {
                write!(f, "ReadDone p{partition} #{read} {} B {:x}", data.len(), crc(data))
            }
            Input::JobDone { partition, outcome } => {
                let run = outcome.run.as_ref().map(|run| (run.head().ids.run, run.records()));
                let index = outcome.index.as_ref().map(|run| (run.head().ids.run, run.records()));
                let ids = outcome.ids.as_ref().map(|run| (run.ids().run, run.rows()));
                write!(f, "JobDone p{partition} {run:?} {index:?} {ids:?} {:?}", outcome.fault)
            }
            Input::Mount { partition, segments, hard_state, checkpoints } => {
                write!(f, "Mount p{partition} {segments:?} {hard_state:?} {:?}", checkpoints.kept)
            }
            Input::Mesh { from, message } => write!(f, "Mesh from {from}: {}", Shown(message)),
            Input::Request { from, request: Request::Publish(message) } => {
                write!(f, "Publish {}.{} ", from.session, from.correlation)?;
                let events = message.events.len();
                write!(f, "{events} events {:x}", crc(&message.bytes))?;
                write!(f, "{}", if message.allow_duplicate { " allow_duplicate" } else { "" })
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// Prints an effect without the bytes in it.
pub struct ShownEffect<'a>(pub &'a Effect);

impl fmt::Display for ShownEffect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Effect::Deliver { to, subscription, group, deliveries, bytes, not_before } => {
                write!(f, "Deliver {}.{} sub {subscription} ", to.session, to.correlation)?;
                write!(f, "{group} {bytes} B not before {not_before}")?;
                deliveries.iter().try_for_each(|d| write!(f, " {}", Shown(d)))
            }
            Effect::Replay { to, subscription, events, bytes, not_before } => {
                write!(f, "Replay {}.{} sub {subscription} ", to.session, to.correlation)?;
                write!(f, "{bytes} B not before {not_before}")?;
                events.iter().try_for_each(|r| write!(f, " {}={}", r.index, Shown(&r.event)))
            }
            Effect::StartJob { partition, job: JobSpec::Flush(flush) } => {
                let (run, offsets, far) = (flush.run, &flush.offsets, flush.far);
                write!(f, "Flush p{partition} run {run} {offsets:?} behind {far}")
            }
            Effect::StartJob { partition, job: JobSpec::Merge(merge) } => {
                write!(f, "Merge p{partition} {} runs into {}", merge.inputs.len(), merge.run)
            }
            Effect::SaveCheckpoint { partition, number, bytes } => {
                write!(f, "SaveCheckpoint p{partition} {number} {:x}", crc(bytes))
            }
            Effect::StartJob { partition, job: JobSpec::FlushIds(flush) } => {
                let (run, offsets) = (flush.run.run, &flush.frozen.offsets);
                let ids = flush.frozen.window.len();
                write!(f, "FlushIds p{partition} run {run} {ids} of {offsets:?}")
            }
            Effect::StartJob { partition, job: JobSpec::MergeIds(merge) } => {
                let (runs, run) = (merge.inputs.len(), merge.run.run);
                write!(f, "MergeIds p{partition} {runs} runs into {run}")
            }
            Effect::Mesh { to, message } => write!(f, "Mesh to {to}: {}", Shown(message)),
            Effect::Reply { to, reply: Reply::Published { outcomes, .. } } => {
                write!(f, "Published {}.{} {outcomes:?}", to.session, to.correlation)
            }
            other => write!(f, "{other:?}"),
        }
    }
}

struct Shown<'a, T>(&'a T);

impl fmt::Display for Shown<'_, StoredEvent> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.0;
        let (p, offset, due) = (event.partition, event.offset, event.position().due);
        write!(f, "{p}/{offset}@{due}#{:x}", event.checksum)
    }
}

impl fmt::Display for Shown<'_, Delivery> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} t{}", Shown(&self.0.event), self.0.attempt, self.0.term)
    }
}

impl fmt::Display for Shown<'_, MeshMessage> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MeshMessage::Publish { request, partition, bytes, events, .. } => {
                let (events, crc) = (events.len(), crc(bytes));
                write!(f, "Publish r{request} p{partition} {events} events {crc:x}")
            }
            MeshMessage::Granted { subscription, partition, deliveries, offer } => {
                write!(f, "Granted sub {subscription} p{partition} {offer:?}")?;
                deliveries.iter().try_for_each(|d| write!(f, " {}", Shown(d)))
            }
            MeshMessage::Replayed { subscription, partition, events, next, error } => {
                write!(f, "Replayed sub {subscription} p{partition} {next:?} {error:?}")?;
                events.iter().try_for_each(|e| write!(f, " {}", Shown(e)))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
