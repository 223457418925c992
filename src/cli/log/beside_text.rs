//! What was found beside a log, told: for people, and for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::beside::{BadFile, BesideFindings, Cost};
use super::findings::{count, last};
use super::run_file::{BadPart, BadTopic};
use crate::base::ids::TopicNo;
use crate::cli::output::printable;
use crate::cli::when::rfc3339;

/// Names of topics.
type Names = BTreeMap<TopicNo, String>;

impl BesideFindings {
    /// Whether something is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Whether something is lost that nothing else has.
    #[must_use]
    pub fn has_lost_data(&self) -> bool {
        self.damaged.iter().any(|file| file.cost == Cost::Data)
    }

    /// For people: a line for each damaged file, and one for each damaged part of it.
    #[must_use]
    pub fn lines(&self, names: &Names) -> Vec<String> {
        let mut lines = Vec::new();
        for file in &self.damaged {
            let offsets = match file.offsets.map(|(first, end)| (first.0, last(first.0, end.0))) {
                Some((first, Some(last))) => format!(", offsets {first} to {last}"),
                _ => String::new(),
            };
            let cost = cost_text(file.cost);
            lines.push(format!("DAMAGED: {} ({}{offsets}): {cost}", file.name, file.what));
            lines.extend(
                file.parts.iter().map(|part| format!("  {}", part_text(file, part, names))),
            );
        }
        lines
    }

    /// For programs.
    #[must_use]
    pub fn object(&self, names: &Names) -> Value {
        json!({
            "runs": self.files.0,
            "checkpoints": self.files.1,
            "bytes": self.bytes,
            "left_over": self.left_over,
            "damaged": self.damaged.iter().map(|f| file_object(f, names)).collect::<Vec<_>>(),
        })
    }
}

fn cost_text(cost: Cost) -> &'static str {
    match cost {
        Cost::Before => "the one before it counts",
        Cost::Time => "the next start reads the whole log instead",
        Cost::Renewal => {
            "the log still has all of it: it can be made anew, and nothing but time is lost"
        }
        Cost::Data => "LOST: the log begins behind what it held; restore a backup",
    }
}

fn part_text(file: &BadFile, part: &BadPart, names: &Names) -> String {
    let bytes = match &part.bytes {
        bytes if bytes.is_empty() => String::new(),
        bytes => format!(", bytes {} to {}", bytes.start, bytes.end),
    };
    let what = match (file.what, part.records) {
        (_, None) => String::new(),
        ("due run", Some(records)) => format!(": {}", count(records, "event", "events")),
        ("run of ids", Some(records)) => format!(": {}", count(records, "id", "ids")),
        (_, Some(records)) => format!(": {}", count(records, "key", "keys")),
    };
    let topics = part.topics.iter().map(|topic| topic_text(topic, names)).collect::<Vec<_>>();
    let topics = if topics.is_empty() { String::new() } else { format!(" {}", topics.join("; ")) };
    format!("{}{bytes}: {}{what}{topics}", part.part, part.fault)
}

fn topic_text(topic: &BadTopic, names: &Names) -> String {
    let name = names.get(&topic.topic).map_or(String::new(), |name| printable(name) + " ");
    let due = |ms: u64| rfc3339(i64::try_from(ms).unwrap_or(i64::MAX));
    let (first, last) = (due(topic.first_due), due(topic.last_due));
    format!("of {name}(topic {}) due {first} to {last}", topic.topic.0)
}

fn file_object(file: &BadFile, names: &Names) -> Value {
    let part = |part: &BadPart| {
        let topics = part.topics.iter().map(|topic| {
            json!({
                "topic": names.get(&topic.topic),
                "topic_no": topic.topic.0,
                "records_at_most": topic.records,
                "first_due": topic.first_due,
                "last_due": topic.last_due,
            })
        });
        json!({
            "part": part.part,
            "from": part.bytes.start,
            "to": part.bytes.end,
            "fault": part.fault,
            "records": part.records,
            "topics": topics.collect::<Vec<_>>(),
        })
    };
    json!({
        "file": file.name,
        "what": file.what,
        "first_offset": file.offsets.map(|(first, _)| first.0),
        "last_offset": file.offsets.and_then(|(first, end)| last(first.0, end.0)),
        "cost": match file.cost {
            Cost::Before => "none",
            Cost::Time | Cost::Renewal => "time",
            Cost::Data => "data",
        },
        "parts": file.parts.iter().map(part).collect::<Vec<_>>(),
    })
}
