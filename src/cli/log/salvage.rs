//! `--salvage FILE`: the events that can be read behind damage, as JSON lines.
//!
//! They are as `chronosdb replay --json` prints events, so that what a repair cuts can be published
//! again. Their offsets are those they had, and mean nothing after the repair.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use prost::Message;
use serde_json::{Value, json};

use super::files::{Go, Met, Stopped};
use super::findings::Findings;
use crate::cli::output::event_object;
use crate::client::Event;
use crate::engine::log::{Content, Record, Scanned};

/// Writes what can be read behind the damage of these logs to a new file, durably; says how many
/// events that were.
pub fn write(stopped: &Stopped, damaged: &[&Findings], path: &Path) -> Result<u64, String> {
    let fault = |error: std::io::Error| {
        format!("cannot write {}: {error}; give --salvage another FILE", path.display())
    };
    // Payloads are not for everyone; and no file of before is ever replaced.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut out = BufWriter::new(file.map_err(fault)?);
    let mut written = 0;
    for findings in damaged {
        let Some(mut files) = stopped.log(findings.partition)? else { continue };
        files.walk(
            |_| (),
            |met| {
                let Met::Behind(entry) = met else { return Ok(Go::On) };
                let Content::Publish(view) = entry.body.content() else { return Ok(Go::On) };
                for (record, offset) in view.records().zip(entry.header.base_offset.0..) {
                    let object = object(findings, &entry, &record, offset);
                    writeln!(out, "{object}").map_err(fault)?;
                    written += 1;
                }
                Ok(Go::On)
            },
        )?;
    }
    let file = out.into_inner().map_err(|error| fault(error.into_error()))?;
    file.sync_all().map_err(fault)?;
    Ok(written)
}

fn object(findings: &Findings, entry: &Scanned, record: &Record, offset: u64) -> Value {
    let bytes = entry.body.bytes();
    let topic = findings.topics.get(&record.topic);
    let event = Event {
        topic: topic.cloned().unwrap_or_default(),
        message_id: String::from_utf8_lossy(record.message_id.of(bytes)).into_owned(),
        payload: bytes.slice_ref(record.payload.of(bytes)),
        schedule_ts: i64::try_from(record.schedule_ts).unwrap_or(i64::MAX),
        created_ts: i64::try_from(entry.header.append_ts).unwrap_or(i64::MAX),
        partition_id: i32::from(findings.partition.0),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        // Stored as it was published: the encoded entries of this very field.
        meta: Event::decode(record.meta.of(bytes)).map(|event| event.meta).unwrap_or_default(),
        ..Event::default()
    };
    let mut object = event_object(&event);
    if topic.is_none() {
        // The entry that named it is lost; whoever publishes it again has to know it.
        object.insert("topic".to_owned(), Value::Null);
        object.insert("topic_no".to_owned(), json!(record.topic.0));
    }
    Value::Object(object)
}
