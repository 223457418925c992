//! Entries for people and for programs.
//!
//! Topics and groups are numbers in the log; their names come with the entries that define them,
//! and again with each state entry.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::base::ids::{GroupNo, Position, TopicNo};
use crate::base::topic_retention::TopicRetention;
use crate::cli::output::printable;
use crate::cli::when::rfc3339;
use crate::engine::log::segment::file_name;
use crate::engine::log::{
    Content, DeadReason, EntryKind, GroupsView, PublishView, Scanned, SettleKind, SettleView,
    Settlement, StateView,
};

/// Names that the log has given so far.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Of topics.
    pub topics: BTreeMap<TopicNo, String>,
    /// Of groups.
    pub groups: BTreeMap<GroupNo, String>,
}

impl Names {
    /// Takes the names that an entry gives.
    pub fn learn(&mut self, content: &Content<'_>) {
        match content {
            Content::NoOp | Content::Settle(_) => {}
            Content::Publish(view) => self.topics(view.topics()),
            Content::Groups(view) => {
                self.topics(view.topics());
                let groups = view.groups().map(|group| (group.no, group.name.to_owned()));
                self.groups.extend(groups);
            }
            Content::Topics(view) => self.topics(view.topics()),
            Content::State(view) => {
                self.topics(view.topics());
                let groups = view.groups().map(|group| (group.no, group.name.to_owned()));
                self.groups.extend(groups);
            }
        }
    }

    fn topics<'a>(&mut self, topics: impl Iterator<Item = (TopicNo, &'a str)>) {
        self.topics.extend(topics.map(|(no, name)| (no, name.to_owned())));
    }

    fn topic(&self, no: TopicNo) -> String {
        let name = self.topics.get(&no).map(|name| format!("{} ", printable(name)));
        format!("{}(topic {no})", name.unwrap_or_default())
    }

    fn group(&self, no: GroupNo) -> String {
        let name = self.groups.get(&no).map(|name| format!("{} ", printable(name)));
        format!("{}(group {no})", name.unwrap_or_default())
    }
}

/// What an entry holds, in a word.
fn kind(entry: &Scanned) -> &'static str {
    match (entry.header.kind, entry.body.content()) {
        (EntryKind::ConfChange, _) => "conf-change",
        (_, Content::NoOp) => "no-op",
        (_, Content::Publish(_)) => "publish",
        (_, Content::Settle(_)) => "settle",
        (_, Content::Groups(_)) => "groups",
        (_, Content::Topics(_)) => "topics",
        (_, Content::State(_)) => "state",
    }
}

fn time(unix_ms: u64) -> String {
    rfc3339(i64::try_from(unix_ms).unwrap_or(i64::MAX))
}

/// An entry for people: a line, and one below it for everything in it.
#[must_use]
pub fn entry_text(entry: &Scanned, names: &Names) -> String {
    let header = &entry.header;
    let offsets = match header.count {
        0 => format!("before offset {}", header.base_offset),
        1 => format!("offset {}", header.base_offset),
        _ => format!("offsets {} to {}", header.base_offset, header.end_offset().0 - 1),
    };
    let mut text = format!(
        "index {}  term {}  {}  {offsets}  {}  {} bytes at {}:{}",
        header.index,
        header.term,
        kind(entry),
        time(header.append_ts),
        entry.body.entry_len(),
        file_name(entry.place.segment),
        entry.place.position,
    );
    let lines = match entry.body.content() {
        Content::NoOp => Vec::new(),
        Content::Publish(view) => event_lines(entry, &view, names),
        Content::Settle(view) => {
            settlements(&view).map(|settled| settlement_line(&settled, names)).collect()
        }
        Content::Groups(view) => group_lines(&view, names),
        Content::Topics(view) => {
            let topics = view.topics().map(defined);
            topics.chain(view.retention().map(|row| retention_line(row, names))).collect()
        }
        Content::State(view) => state_lines(&view, names),
    };
    for line in lines {
        text.extend(["\n    ", &line]);
    }
    text
}

fn defined((no, name): (TopicNo, &str)) -> String {
    format!("topic {no} is {}", printable(name))
}

fn retention_line((no, retention): (TopicNo, TopicRetention), names: &Names) -> String {
    format!("{} is kept: {retention}", names.topic(no))
}

fn event_lines(entry: &Scanned, view: &PublishView<'_>, names: &Names) -> Vec<String> {
    let topics = view.topics().map(defined);
    let events = view.records().zip(entry.header.base_offset.0..).map(|(record, offset)| {
        let id = String::from_utf8_lossy(record.message_id.of(entry.body.bytes()));
        let again = if record.allow_duplicate { "  duplicate allowed" } else { "" };
        format!(
            "offset {offset}  {}  {}  due {}  {} bytes{again}",
            printable(&id),
            names.topic(record.topic),
            time(record.schedule_ts),
            record.payload.len,
        )
    });
    topics.chain(events).collect()
}

fn settlements<'a>(view: &SettleView<'a>) -> impl Iterator<Item = Settlement<'a>> {
    let view = *view;
    (0..view.len()).map(move |i| view.settlement(i))
}

fn settlement_line(settled: &Settlement<'_>, names: &Names) -> String {
    let what = match settled.kind {
        SettleKind::Acked => "acked".to_owned(),
        SettleKind::Retry { not_before_ms } => format!("retry not before {}", time(not_before_ms)),
        SettleKind::Released => "released".to_owned(),
        SettleKind::Dead { reason, text } => {
            format!("dead ({}): {}", reason_word(reason), printable(text))
        }
        SettleKind::Passed => "passed by the frontier, not settled".to_owned(),
        SettleKind::Frontier => "frontier".to_owned(),
    };
    format!(
        "{}  {}  {what}  attempts {}  releases {}",
        names.group(settled.group),
        position(settled.position),
        settled.attempts,
        settled.releases,
    )
}

fn position(position: Position) -> String {
    format!("offset {} due {}", position.offset, time(position.due))
}

fn reason_word(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Nacked => "nacked",
        DeadReason::Expired => "expired",
        DeadReason::Disconnected => "disconnected",
        DeadReason::Gone => "gone",
    }
}

fn group_lines(view: &GroupsView<'_>, names: &Names) -> Vec<String> {
    let topics = view.topics().map(defined);
    let groups = view.groups().map(|group| {
        format!(
            "group {} is {} of {}, from offset {} and due {} on",
            group.no,
            printable(group.name),
            names.topic(group.topic),
            group.min_offset,
            time(group.min_due),
        )
    });
    topics.chain(groups).collect()
}

fn state_lines(view: &StateView<'_>, names: &Names) -> Vec<String> {
    let head = view.head();
    let mut lines = vec![format!(
        "part {} of {}: next offset {}, ids kept for {} ms, log from entry {} on",
        view.part() + 1,
        view.parts(),
        head.next_offset,
        head.dedup_ttl_ms,
        head.truncated_index.next(),
    )];
    lines.extend(view.topics().map(defined));
    lines.extend(view.retention().map(|row| retention_line(row, names)));
    lines.extend(view.groups().map(|group| {
        format!(
            "group {} is {} of {}, settled up to {}",
            group.no,
            printable(group.name),
            names.topic(group.topic),
            position(group.frontier),
        )
    }));
    lines.extend(
        view.settled()
            .map(|(group, at)| format!("{}  {}  settled", names.group(group), position(at))),
    );
    lines.extend(view.unsettled().map(|event| {
        format!(
            "{}  {}  not settled  attempts {}",
            names.group(event.group),
            position(event.position),
            event.attempts,
        )
    }));
    lines.extend(view.dead().map(|dead| {
        format!(
            "{}  {}  dead ({}): {}",
            names.group(dead.group),
            position(dead.position),
            reason_word(dead.reason),
            printable(dead.text),
        )
    }));
    lines
}

/// An entry for programs.
#[must_use]
pub fn entry_object(entry: &Scanned, names: &Names) -> Value {
    let header = &entry.header;
    let mut object = json!({
        "index": header.index.0,
        "term": header.term.0,
        "kind": kind(entry),
        "base_offset": header.base_offset.0,
        "count": header.count,
        "append_ts": header.append_ts,
        "append_time": time(header.append_ts),
        "segment": entry.place.segment.0,
        "byte": entry.place.position,
        "bytes": entry.body.entry_len(),
    });
    let mut put = |key: &str, rows: Vec<Value>| object[key] = Value::Array(rows);
    match entry.body.content() {
        Content::NoOp => {}
        Content::Publish(view) => {
            put("topics", view.topics().map(topic_object).collect());
            put("events", event_objects(entry, &view, names));
        }
        Content::Settle(view) => {
            let rows = settlements(&view).map(|settled| settlement_object(&settled, names));
            put("settlements", rows.collect());
        }
        Content::Groups(view) => {
            put("topics", view.topics().map(topic_object).collect());
            let rows = view.groups().map(|group| {
                json!({
                    "no": group.no.0, "name": group.name, "topic_no": group.topic.0,
                    "min_offset": group.min_offset.0, "min_due": group.min_due,
                })
            });
            put("groups", rows.collect());
        }
        Content::Topics(view) => {
            put("topics", view.topics().map(topic_object).collect());
            put("retention", view.retention().map(retention_object).collect());
        }
        Content::State(view) => object["state"] = state_object(&view),
    }
    object
}

fn topic_object((no, name): (TopicNo, &str)) -> Value {
    json!({ "no": no.0, "name": name })
}

/// 0: as the node says; 2^64 - 1: for ever.
fn retention_object((no, retention): (TopicNo, TopicRetention)) -> Value {
    json!({ "topic_no": no.0, "retention_ms": retention.number() })
}

fn event_objects(entry: &Scanned, view: &PublishView<'_>, names: &Names) -> Vec<Value> {
    let events = view.records().zip(entry.header.base_offset.0..).map(|(record, offset)| {
        json!({
            "offset": offset,
            "message_id": String::from_utf8_lossy(record.message_id.of(entry.body.bytes())),
            "topic_no": record.topic.0,
            "topic": names.topics.get(&record.topic),
            "schedule_ts": record.schedule_ts,
            "payload_bytes": record.payload.len,
            "allow_duplicate": record.allow_duplicate,
        })
    });
    events.collect()
}

fn settlement_object(settled: &Settlement<'_>, names: &Names) -> Value {
    let mut object = json!({
        "group_no": settled.group.0,
        "group": names.groups.get(&settled.group),
        "offset": settled.position.offset.0,
        "due": settled.position.due,
        "attempts": settled.attempts,
        "releases": settled.releases,
    });
    object["became"] = json!(match settled.kind {
        SettleKind::Acked => "acked",
        SettleKind::Retry { not_before_ms } => {
            object["not_before"] = json!(not_before_ms);
            "retry"
        }
        SettleKind::Released => "released",
        SettleKind::Dead { reason, text } => {
            object["reason"] = json!(reason_word(reason));
            object["text"] = json!(text);
            "dead"
        }
        SettleKind::Passed => "passed",
        SettleKind::Frontier => "frontier",
    });
    object
}

fn row(group: GroupNo, at: Position) -> Value {
    json!({ "group_no": group.0, "offset": at.offset.0, "due": at.due })
}

fn state_object(view: &StateView<'_>) -> Value {
    let head = view.head();
    let retention = view.retention().map(retention_object);
    let groups = view.groups().map(|group| {
        json!({
            "no": group.no.0, "name": group.name, "topic_no": group.topic.0,
            "min_offset": group.min_offset.0, "min_due": group.min_due,
            "frontier_due": group.frontier.due, "frontier_offset": group.frontier.offset.0,
        })
    });
    let dead = view.dead().map(|dead| {
        let mut object = row(dead.group, dead.position);
        object["reason"] = json!(reason_word(dead.reason));
        object["text"] = json!(dead.text);
        object
    });
    let unsettled = view.unsettled().map(|event| {
        let mut object = row(event.group, event.position);
        object["attempts"] = json!(event.attempts);
        object["not_before"] = json!(event.not_before_ms);
        object
    });
    let settled = view.settled().map(|(group, at)| row(group, at));
    json!({
        "part": view.part(),
        "parts": view.parts(),
        "next_offset": head.next_offset.0,
        "dedup_ttl_ms": head.dedup_ttl_ms,
        "truncated_index": head.truncated_index.0,
        "truncated_term": head.truncated_term.0,
        "topics": view.topics().map(topic_object).collect::<Vec<_>>(),
        "retention": retention.collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
        "settled": settled.collect::<Vec<_>>(),
        "unsettled": unsettled.collect::<Vec<_>>(),
        "dead": dead.collect::<Vec<_>>(),
    })
}
