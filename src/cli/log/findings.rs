//! What is found in the log of one partition and beside it: its condition, and what exactly is
//! lost.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::beside::{BesideFindings, LogBegin};
use super::files::{Go, LogFiles, Met};
use crate::base::ids::{Index, Offset, PartitionId, Term, TopicNo};
use crate::engine::log::segment::file_name;
use crate::engine::log::{EntryHeader, Hole, Place, RotReport, Scanned};

use super::show::Names;

/// What a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The partition has no directory.
    Missing,
    /// Nothing was ever written.
    New,
    /// Sound to its end.
    Clean,
    /// Behind its end lies what a crash left, or a cut under way: the next start cuts it.
    Torn,
    /// What had been durable is damaged: the partition can only be read.
    Rotten,
}

/// What was found in a log.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Whose log.
    pub partition: PartitionId,
    /// In one word.
    pub condition: Condition,
    /// Segment files.
    pub segments: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Good entries, and the events in them; before the damage, if there is any.
    pub good: Run,
    /// The last good entry.
    pub last: Option<EntryHeader>,
    /// Bytes behind the end that the next start cuts.
    pub torn_bytes: u64,
    /// The log was being cut from here on; the next start goes on with it.
    pub cut_from: Option<Index>,
    /// Bytes that the disk refused to read, and that were taken for zeros.
    pub unreadable: u64,
    /// The damage.
    pub rot: Option<Rot>,
    /// Names that any entry gives to topics.
    pub topics: BTreeMap<TopicNo, String>,
    /// The files beside the log; nothing, where only that was read.
    pub beside: BesideFindings,
}

/// Damage, and what lies behind it.
#[derive(Clone, Debug)]
pub struct Rot {
    /// Where it begins and why it is no tear.
    pub report: RotReport,
    /// What is lost, in order.
    pub holes: Vec<Hole>,
    /// What can be read behind the first hole, in order.
    pub runs: Vec<Run>,
    /// Highest term of any entry behind the damage.
    pub term: Term,
}

/// Entries that follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: Index,
    /// Behind the last; equal to `first` if there is none.
    pub end: Index,
    /// Offset of their first event.
    pub first_offset: Offset,
    /// Behind that of their last; equal to `first_offset` if there is none.
    pub end_offset: Offset,
}

impl Run {
    /// Entries.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.end.0 - self.first.0
    }

    /// Events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.end_offset.0 - self.first_offset.0
    }

    fn add(&mut self, header: &EntryHeader) {
        if self.entries() == 0 {
            (self.first, self.first_offset) = (header.index, header.base_offset);
        }
        (self.end, self.end_offset) = (header.index.next(), header.end_offset());
    }
}

impl Findings {
    /// Of a partition without a directory.
    #[must_use]
    pub fn missing(partition: PartitionId) -> Self {
        Self {
            partition,
            condition: Condition::Missing,
            segments: 0,
            bytes: 0,
            good: Run::default(),
            last: None,
            torn_bytes: 0,
            cut_from: None,
            unreadable: 0,
            rot: None,
            topics: BTreeMap::new(),
            beside: BesideFindings::default(),
        }
    }

    /// Reads a log whole; `read` hears how many bytes of it lie behind.
    pub fn of(files: &mut LogFiles, read: impl FnMut(u64)) -> Result<Self, String> {
        let (mut good, mut behind) = (Run::default(), Vec::new());
        let (mut holes, mut term, mut names) = (Vec::new(), Term(0), Names::default());
        let mut note = |entry: &Scanned| names.learn(&entry.body.content());
        let outcome = files.walk(read, |met| {
            match met {
                Met::Good(entry) => {
                    note(&entry);
                    good.add(&entry.header);
                }
                Met::Hole(hole) => {
                    holes.push(hole);
                    behind.push(Run::default());
                }
                Met::Behind(entry) => {
                    note(&entry);
                    term = term.max(entry.header.term);
                    behind.last_mut().expect("a hole comes first").add(&entry.header);
                }
            }
            Ok(Go::On)
        })?;
        let outcome = outcome.expect("all is read");
        behind.retain(|run| run.entries() > 0);
        let hard = files.mounted.hard_state.unwrap_or_default();
        let cutting = hard.cut_from > Index(0) && outcome.rot.is_none();
        let torn = outcome.torn_bytes > 0 || !outcome.segments_to_remove.is_empty() || cutting;
        let condition = match (&outcome.rot, outcome.end) {
            (Some(_), _) => Condition::Rotten,
            (None, None) => Condition::New,
            (None, Some(_)) if torn => Condition::Torn,
            (None, Some(_)) => Condition::Clean,
        };
        Ok(Self {
            partition: files.mounted.partition,
            condition,
            segments: files.mounted.segments.len(),
            bytes: files.bytes(),
            good,
            last: outcome.last,
            torn_bytes: outcome.torn_bytes,
            cut_from: cutting.then_some(hard.cut_from),
            unreadable: files.unreadable,
            rot: outcome.rot.map(|report| Rot { report, holes, runs: behind, term }),
            topics: names.topics,
            beside: BesideFindings::default(),
        })
    }

    /// Reads a log and the files beside it; `read` hears how many bytes of all lie behind.
    pub fn of_all(files: &mut LogFiles, mut read: impl FnMut(u64)) -> Result<Self, String> {
        let mut found = Self::of(files, &mut read)?;
        let hard = files.mounted.hard_state.unwrap_or_default();
        let begin = LogBegin {
            segment: hard.log_start,
            offset: (found.good.entries() > 0).then_some(found.good.first_offset),
            has_entries: found.good.entries() > 0 || found.rot.is_some(),
        };
        let done = found.bytes;
        found.beside = files.beside()?.examine(begin, |bytes| read(done + bytes))?;
        found.unreadable += found.beside.unreadable;
        Ok(found)
    }

    /// Whether a start would not serve it as it was, or finds something damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_log_damaged() || self.beside.is_damaged()
    }

    /// Whether the log itself is damaged, or something cannot be read.
    #[must_use]
    pub fn is_log_damaged(&self) -> bool {
        self.rot.is_some() || self.unreadable > 0
    }

    /// For people: a line, and more below it where there is more to say.
    #[must_use]
    pub fn text(&self) -> String {
        let partition = self.partition;
        let mut text = match self.condition {
            Condition::Missing => {
                return format!("partition {partition}: its directory is missing");
            }
            Condition::New => format!("partition {partition}: empty"),
            Condition::Clean => format!("partition {partition}: sound: {}", self.contents()),
            Condition::Torn => format!("partition {partition}: torn: {}{}", self.contents(), {
                let cut = self.cut_from.map_or(String::new(), |index| {
                    format!("\n  it was being cut from entry {index} on; the next start goes on")
                });
                format!(
                    "{cut}\n  {} bytes behind that are what a crash left of a write: the next \
                     start cuts them, nothing acknowledged is lost",
                    self.torn_bytes
                )
            }),
            Condition::Rotten => {
                format!("partition {partition}: DAMAGED: {}, then", self.contents())
            }
        };
        if let Some(rot) = &self.rot {
            for line in rot.lines() {
                text.extend(["\n  ", &line]);
            }
        }
        for line in self.beside.lines(&self.topics) {
            text.extend(["\n  ", &line]);
        }
        if self.unreadable > 0 {
            let line = format!(
                "\n  the disk refuses to read {} bytes (I/O error), taken for zeros here: copy \
                 the data directory to a sound disk",
                self.unreadable
            );
            text.push_str(&line);
        }
        text
    }

    fn contents(&self) -> String {
        let segments = count(self.segments as u64, "segment", "segments");
        let entries = count(self.good.entries(), "entry", "entries");
        let events = count(self.good.events(), "event", "events");
        let index = last(self.good.first.0, self.good.end.0);
        let offset = last(self.good.first_offset.0, self.good.end_offset.0);
        let told = |what: &str, number: Option<u64>| {
            number.map_or(String::new(), |number| format!(", last {what} {number}"))
        };
        let (index, offset) = (told("index", index), told("offset", offset));
        format!("{entries}, {events} in {segments}{index}{offset}")
    }

    /// For programs.
    #[must_use]
    pub fn object(&self) -> Value {
        json!({
            "partition": self.partition.0,
            "condition": match self.condition {
                Condition::Missing => "missing",
                Condition::New => "empty",
                Condition::Clean => "sound",
                Condition::Torn => "torn",
                Condition::Rotten => "rot",
            },
            "segments": self.segments,
            "bytes": self.bytes,
            "entries": self.good.entries(),
            "events": self.good.events(),
            "last_index": last(self.good.first.0, self.good.end.0),
            "last_offset": last(self.good.first_offset.0, self.good.end_offset.0),
            "torn_bytes": self.torn_bytes,
            "cut_from": self.cut_from.map(|index| index.0),
            "unreadable_bytes": self.unreadable,
            "rot": self.rot.as_ref().map(Rot::object),
            "beside": self.beside.object(&self.topics),
        })
    }
}

impl Rot {
    /// Entries that can be read behind the damage.
    #[must_use]
    pub fn entries_behind(&self) -> u64 {
        self.runs.iter().map(Run::entries).sum()
    }

    /// Events that can be read behind the damage.
    #[must_use]
    pub fn events_behind(&self) -> u64 {
        self.runs.iter().map(Run::events).sum()
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.report.text.clone()];
        lines.extend(self.holes.iter().map(|hole| format!("lost: {}", hole_text(hole))));
        for run in &self.runs {
            let entries = range("entry", "entries", run.first.0, run.end.0);
            let events = match run.events() {
                0 => "no events".to_owned(),
                _ => range("offset", "offsets", run.first_offset.0, run.end_offset.0),
            };
            lines.push(format!("behind it can be read: {entries}, {events}"));
        }
        if self.runs.is_empty() {
            lines.push("behind it nothing can be read".to_owned());
        }
        lines
    }

    fn object(&self) -> Value {
        let runs = self.runs.iter().map(|run| {
            json!({
                "first_index": run.first.0,
                "last_index": last(run.first.0, run.end.0),
                "first_offset": run.first_offset.0,
                "last_offset": last(run.first_offset.0, run.end_offset.0),
                "events": run.events(),
            })
        });
        json!({
            "what": self.report.text,
            "lost": self.holes.iter().map(hole_object).collect::<Vec<_>>(),
            "readable_behind": runs.collect::<Vec<_>>(),
        })
    }
}

/// A hole for people: entries, offsets and bytes.
#[must_use]
pub fn hole_text(hole: &Hole) -> String {
    let entries = match hole.end {
        Some(end) => range("entry", "entries", hole.first.0, end.0),
        None => format!("entry {} and all behind it", hole.first),
    };
    let offsets = match (hole.first_offset, hole.end_offset) {
        (Some(first), Some(end)) if first == end => "no events".to_owned(),
        (Some(first), Some(end)) => range("offset", "offsets", first.0, end.0),
        (Some(first), None) => format!("offsets from {first} on"),
        (None, Some(end)) => format!("offsets below {end}"),
        (None, None) => "offsets unknown".to_owned(),
    };
    let file = |place: Place| file_name(place.segment);
    let (from, to) = (hole.from, hole.to);
    let bytes = if from.segment == to.segment {
        format!("bytes {} to {} of {}", from.position, to.position, file(from))
    } else {
        format!(
            "from byte {} of {} to byte {} of {}",
            from.position,
            file(from),
            to.position,
            file(to)
        )
    };
    format!("{entries}, {offsets}, {bytes}")
}

/// A hole for programs. Last ones are inclusive, and null where they are not known.
#[must_use]
pub fn hole_object(hole: &Hole) -> Value {
    let place = |place: Place| json!({ "segment": place.segment.0, "byte": place.position });
    let offsets = hole.first_offset.zip(hole.end_offset);
    json!({
        "first_index": hole.first.0,
        "last_index": hole.end.map(|end| end.0 - 1),
        "first_offset": hole.first_offset.map(|offset| offset.0),
        "last_offset": offsets.and_then(|(first, end)| last(first.0, end.0)),
        "events": offsets.map(|(first, end)| end.0 - first.0),
        "from": place(hole.from),
        "to": place(hole.to),
    })
}

/// The last of a half-open range, if it holds any.
pub fn last(first: u64, end: u64) -> Option<u64> {
    (first < end).then(|| end - 1)
}

fn range(one: &str, many: &str, first: u64, end: u64) -> String {
    if end == first + 1 {
        format!("{one} {first}")
    } else {
        format!("{many} {first} to {}", end.saturating_sub(1))
    }
}

/// A number with its noun.
#[must_use]
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_told_as_far_as_they_are_known() {
        let hole = Hole {
            first: Index(5),
            end: Some(Index(8)),
            first_offset: Some(Offset(40)),
            end_offset: Some(Offset(41)),
            from: Place::new(Index(1), 4096),
            to: Place::new(Index(1), 8192),
        };
        let text = "entries 5 to 7, offset 40, bytes 4096 to 8192 of 00000000000000000001.seg";
        assert_eq!(hole_text(&hole), text);
        let open = Hole { end: None, end_offset: None, to: Place::new(Index(9), 96), ..hole };
        let text = hole_text(&open);
        assert!(text.starts_with("entry 5 and all behind it, offsets from 40 on, from byte 4096"));
        assert!(text.ends_with("to byte 96 of 00000000000000000009.seg"), "{text}");
        assert_eq!(hole_object(&open)["last_index"], Value::Null);
        let no_events = Hole { end: Some(Index(6)), end_offset: Some(Offset(40)), ..hole };
        assert!(hole_text(&no_events).starts_with("entry 5, no events, "));
        assert_eq!(hole_object(&no_events)["events"], 0);
        assert_eq!(hole_object(&no_events)["last_offset"], Value::Null);
    }
}
