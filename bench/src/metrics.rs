//! What a server says of itself over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// The answer to a request, head and all; `None` if there is none.
pub fn get(addr: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Sum of a metric over all of its labels; `None` if the server does not answer.
pub fn sum(addr: &str, name: &str) -> Option<u64> {
    let text = get(addr, "/metrics")?;
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let lines = lines.filter(|rest| rest.starts_with(['{', ' ']));
    let values = lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    Some(values.sum::<f64>() as u64)
}

/// Bytes that the server has used and written so far.
#[derive(Clone, Copy, Debug)]
pub struct DiskUse {
    log: u64,
    written: u64,
    filled: u64,
    /// Segments that retention has removed.
    removed: u64,
}

impl DiskUse {
    /// As of now; `None` if the server does not answer.
    pub fn read(addr: &str) -> Option<Self> {
        let log = sum(addr, "cronos_wal_bytes")?;
        let written = ["wal", "run", "checkpoint"]
            .map(|kind| sum(addr, &format!("cronos_{kind}_written_bytes_total")));
        let filled = sum(addr, "cronos_wal_zero_filled_bytes_total").unwrap_or(0);
        let removed = sum(addr, "cronos_segments_removed_total").unwrap_or(0);
        Some(Self { log, written: written.into_iter().flatten().sum(), filled, removed })
    }

    /// Reports log space and bytes written since, tail rewrites among them, each per byte of
    /// `published`; zero-fill beside.
    pub fn report(before: Option<Self>, addr: &str, published: u64, to: &mut Map<String, Value>) {
        let (Some(before), Some(now)) = (before, Self::read(addr)) else { return };
        let each = |now: u64, then: u64| {
            let each = now.saturating_sub(then) as f64 / published.max(1) as f64;
            json!((each * 1_000.0).round() / 1_000.0)
        };
        // What was removed meanwhile would not be counted.
        if now.removed == before.removed {
            let space = each(now.log, before.log);
            to.insert("log_bytes_per_published_byte".to_owned(), space);
        }
        let written = each(now.written, before.written);
        to.insert("written_bytes_per_published_byte".to_owned(), written);
        let filled = each(now.filled, before.filled);
        to.insert("zero_filled_bytes_per_published_byte".to_owned(), filled);
    }
}
