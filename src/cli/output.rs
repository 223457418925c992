//! What commands print: one line per event, for people or (`--json`) one JSON object for programs.
//!
//! Bytes of others never reach the terminal raw: control characters are escaped.

use std::io::{self, ErrorKind, StdoutLock, Write};

use serde_json::{Map, Value, json};

use super::when::rfc3339;
use crate::client::Event;

/// Characters of a payload shown to people.
const SHOWN: usize = 120;

/// Standard output, line by line.
#[derive(Debug)]
pub struct Output {
    out: io::BufWriter<StdoutLock<'static>>,
    json: bool,
    /// The reader has gone (`| head`): no fault, but no reason to go on either.
    closed: bool,
}

impl Output {
    /// Locks standard output.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { out: io::BufWriter::new(io::stdout().lock()), json, closed: false }
    }

    /// Whether lines are JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the line for people, or the object for programs. False once nobody reads any more.
    pub fn line(
        &mut self,
        text: impl FnOnce() -> String,
        object: impl FnOnce() -> Value,
    ) -> Result<bool, String> {
        let line = if self.json { object().to_string() } else { text() };
        let written = writeln!(self.out, "{line}");
        self.check(written)
    }

    /// Brings all lines out. False once nobody reads any more.
    pub fn flush(&mut self) -> Result<bool, String> {
        let flushed = self.out.flush();
        self.check(flushed)
    }

    fn check(&mut self, written: io::Result<()>) -> Result<bool, String> {
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.closed = true,
            Err(error) => return Err(format!("can't write to standard output: {error}")),
        }
        Ok(!self.closed)
    }
}

/// Text of others, safe for a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    let escape = |c: char| if forges(c) { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Escapes, line ends and bidirectional overrides: they change what is shown of other text.
fn forges(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A payload for people: its text, or what it is if it has none.
#[must_use]
pub fn payload_text(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) if text.chars().nth(SHOWN).is_none() => printable(text),
        Ok(text) => {
            let shown: String = text.chars().take(SHOWN).collect();
            format!("{}… ({} bytes)", printable(&shown), payload.len())
        }
        Err(_) => format!("({} bytes, not text)", payload.len()),
    }
}

/// Where and when an event is, and what it says, for people.
#[must_use]
pub fn event_text(event: &Event) -> String {
    let mut text = format!(
        "{}  {}/{}  {}",
        rfc3339(event.schedule_ts),
        event.partition_id,
        event.offset,
        printable(&event.message_id)
    );
    for (key, value) in &event.meta {
        text.extend(["  ", &printable(key), "=", &printable(value)]);
    }
    text.extend(["  ", &payload_text(&event.payload)]);
    text
}

/// An event for programs: `payload` if it is UTF-8, else `payload_base64`.
#[must_use]
pub fn event_object(event: &Event) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("topic", json!(event.topic));
    put("message_id", json!(event.message_id));
    put("partition", json!(event.partition_id));
    put("offset", json!(event.offset));
    put("schedule_ts", json!(event.schedule_ts));
    put("created_ts", json!(event.created_ts));
    put("meta", json!(event.meta));
    match std::str::from_utf8(&event.payload) {
        Ok(text) => put("payload", json!(text)),
        Err(_) => put("payload_base64", json!(base64(&event.payload))),
    };
    object
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_rfc() {
        let vectors = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, expected) in vectors.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), *expected);
        }
    }

    #[test]
    fn a_payload_can_not_drive_the_terminal() {
        assert_eq!(payload_text(b"hi\x1b[2J\nthere"), "hi\\u{1b}[2J\\nthere");
        assert_eq!(payload_text(&[0xff, 0xfe]), "(2 bytes, not text)");
        assert_eq!(payload_text("grün".as_bytes()), "grün");
        assert!(payload_text(&[b'x'; 500]).ends_with("(500 bytes)"));
    }

    #[test]
    fn events_for_programs_keep_every_byte() {
        let event = Event::new("orders", "id-1", "hello").with_meta("k", "v");
        assert_eq!(event_object(&event)["payload"], json!("hello"));
        assert_eq!(event_object(&event)["meta"], json!({"k": "v"}));
        let event = Event::new("orders", "id-1", vec![0xff]);
        assert_eq!(event_object(&event)["payload_base64"], json!("/w=="));
    }
}
