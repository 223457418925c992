//! `chronosdb publish`: one event, or many of a kind.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, printable};
use super::remote::{Remote, block_on, explain};
use super::when::{When, rfc3339};
use crate::base::{limits, time};
use crate::client::{Client, ClientError, Event, PublishOptions, Published};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb publish --topic orders hello
      due at once
  chronosdb publish --topic orders --at +5s 'hello'
      due in five seconds
  chronosdb publish --topic orders --at 2026-12-24T18:00:00Z --id xmas-1 --file letter.json
      due at a given time; published again with the same id, it is stored once
  date | chronosdb publish --topic orders --key customer-7 -
      payload from standard input; events of one key keep their order
  chronosdb publish --topic load --count 100000 --at +10s x
      many, with ids of their own";

/// Events of one request with `--count`.
const BATCH: u64 = 1_000;
const _: () = assert!(BATCH as usize <= limits::BATCH_EVENTS);
/// Up to so many events each gets a line; more get a summary.
const LINES: u64 = 10;

/// Options of `chronosdb publish`.
#[derive(Args, Clone, Debug)]
pub struct PublishArgs {
    /// Topic to publish to
    #[arg(long, short)]
    pub topic: String,

    /// When it is due: now, +5s, +1h30m, 2026-12-24T18:00:00Z, or Unix ms
    #[arg(long, value_name = "TIME", default_value = "now")]
    pub at: When,

    /// What the event says; `-` reads it from standard input
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub payload: Option<String>,

    /// Read the payload from a file
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Name of the event: published again, it is stored once [default: made up]
    #[arg(long)]
    pub id: Option<String>,

    /// Partition key: events of one key go to one partition, in order
    #[arg(long)]
    pub key: Option<String>,

    /// Metadata that is handed back unchanged; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub meta: Vec<(String, String)>,

    /// Store it even if its id was published before
    #[arg(long)]
    pub allow_duplicate: bool,

    /// How many: ids get -0, -1, ... behind them
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub count: u64,

    /// Print a JSON object per event
    #[arg(long)]
    pub json: bool,

    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is written KEY=VALUE".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: &PublishArgs) -> Result<(), String> {
    let event = template(args)?;
    block_on(publish(args, event))
}

/// The event to publish; its id is a stem if there are several.
fn template(args: &PublishArgs) -> Result<Event, String> {
    let payload = match (&args.payload, &args.file) {
        (_, Some(path)) => std::fs::read(path)
            .map_err(|error| format!("can't read {}: {error}", path.display()))?,
        (Some(payload), None) if payload == "-" => {
            let mut payload = Vec::new();
            // One byte more than allowed is enough to tell that it is too long.
            let most = limits::PAYLOAD_BYTES as u64 + 1;
            let read = std::io::stdin().lock().take(most).read_to_end(&mut payload);
            read.map_err(|error| format!("can't read standard input: {error}"))?;
            payload
        }
        (payload, None) => payload.clone().unwrap_or_default().into_bytes(),
    };
    if payload.is_empty() {
        return Err("payload is required, and this one is empty".to_owned());
    }
    if payload.len() > limits::PAYLOAD_BYTES {
        let most = limits::PAYLOAD_BYTES;
        return Err(format!(
            "payload exceeds the limit of {most} bytes; store a reference instead"
        ));
    }
    let id = args.id.clone().unwrap_or_else(fresh_id);
    let mut event = Event::new(args.topic.as_str(), id, payload);
    event = match args.at {
        // By the server's clock, so a clock that differs here does not matter.
        When::Relative(ms) => event.after_ms(u64::try_from(ms).unwrap_or(0)),
        When::Absolute(ms) => event.at_ms(ms),
    };
    event.meta.extend(args.meta.iter().cloned());
    Ok(match &args.key {
        Some(key) => event.with_key(key),
        None => event,
    })
}

/// An id that no other event has: the time, and 64 random bits.
fn fresh_id() -> String {
    // The standard library seeds these from the system's source of randomness.
    let random = RandomState::new().hash_one(std::process::id());
    format!("{:012x}-{random:016x}", time::wall_ms())
}

/// The `number`-th of `count` events.
fn numbered(event: &Event, number: u64, count: u64) -> Event {
    let mut event = event.clone();
    if count > 1 {
        event.message_id = format!("{}-{number}", event.message_id);
    }
    event
}

async fn publish(args: &PublishArgs, event: Event) -> Result<(), String> {
    let client = args.remote.connect().await?;
    let options = PublishOptions { allow_duplicate: args.allow_duplicate };
    let (mut stored, mut duplicates, mut failed, mut first) = (0_u64, 0_u64, 0_u64, None);
    let mut output = Output::new(args.json);
    let mut next = 0;
    while next < args.count {
        let end = args.count.min(next + BATCH);
        let events: Vec<_> = (next..end).map(|n| numbered(&event, n, args.count)).collect();
        let results = send(&client, events, options).await;
        for (number, result) in (next..end).zip(results) {
            match &result {
                Ok(placed) if placed.duplicate => duplicates += 1,
                Ok(_) => stored += 1,
                Err(error) => {
                    failed += 1;
                    first.get_or_insert_with(|| explain(error));
                }
            }
            if args.json || (result.is_ok() && args.count <= LINES) {
                let id = numbered(&event, number, args.count).message_id;
                output.line(|| text(&id, &result), || object(&id, &result))?;
            }
        }
        output.flush()?;
        next = end;
    }
    if !args.json && args.count > LINES {
        let line = format!("{stored} events published, {duplicates} duplicates, {failed} failed");
        output.line(|| line, || Value::Null)?;
        output.flush()?;
    }
    match first {
        None => Ok(()),
        Some(why) if args.count == 1 => Err(why),
        Some(why) => Err(format!("{failed} of {} events failed; the first: {why}", args.count)),
    }
}

async fn send(
    client: &Client,
    mut events: Vec<Event>,
    options: PublishOptions,
) -> Vec<Result<Published, ClientError>> {
    match (events.len(), events.pop()) {
        (1, Some(event)) => vec![client.publish_with(event, options).await],
        (_, last) => {
            events.extend(last);
            client.publish_batch_with(events, options).await
        }
    }
}

fn text(id: &str, result: &Result<Published, ClientError>) -> String {
    match result {
        Ok(placed) => {
            let what = if placed.duplicate { "published before" } else { "published" };
            let due = rfc3339(i64::try_from(placed.schedule_ts).unwrap_or(i64::MAX));
            let (partition, offset) = (placed.partition, placed.offset);
            format!("{what}: {} in {partition}/{offset}, due {due}", printable(id))
        }
        Err(error) => format!("failed: {}: {}", printable(id), explain(error)),
    }
}

fn object(id: &str, result: &Result<Published, ClientError>) -> Value {
    match result {
        Ok(placed) => json!({
            "message_id": id,
            "partition": placed.partition.0,
            "offset": placed.offset.0,
            "schedule_ts": placed.schedule_ts,
            "duplicate": placed.duplicate,
        }),
        Err(error) => json!({ "message_id": id, "error": error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        publish: PublishArgs,
    }

    fn parse(words: &[&str]) -> Result<PublishArgs, String> {
        let words = ["publish"].iter().chain(words);
        Line::try_parse_from(words).map(|l| l.publish).map_err(|e| e.to_string())
    }

    #[test]
    fn options_become_an_event() {
        let line = ["--topic", "orders", "--at", "+5s", "--key", "c-7", "--meta", "a=b=c", "hello"];
        let event = template(&parse(&line).expect("it is sound")).expect("an event");
        assert_eq!((event.topic.as_str(), event.delay_ms, event.schedule_ts), ("orders", 5_000, 0));
        assert_eq!(event.meta["a"], "b=c");
        assert_eq!(event.routing_key(), b"c-7");
        assert_eq!(&event.payload[..], b"hello");
        let other = template(&parse(&line).expect("it is sound")).expect("an event");
        assert_ne!(event.message_id, other.message_id);
        assert!(event.message_id.len() <= limits::MESSAGE_ID_BYTES);
    }

    #[test]
    fn a_payload_is_needed_and_may_start_with_anything_but_a_dash() {
        assert!(parse(&["--topic", "orders"]).is_err());
        assert!(parse(&["--topic", "orders", "--meta", "=x", "hello"]).is_err());
        let empty = parse(&["--topic", "orders", ""]).expect("it parses");
        assert!(template(&empty).is_err());
        let absent = parse(&["--topic", "orders", "--file", "/nowhere/at/all"]).expect("it parses");
        assert!(template(&absent).is_err_and(|error| error.contains("/nowhere/at/all")));
    }

    #[test]
    fn several_events_have_ids_of_their_own() {
        let event = Event::new("orders", "id", "x");
        assert_eq!(numbered(&event, 7, 10).message_id, "id-7");
        assert_eq!(numbered(&event, 0, 1).message_id, "id");
    }
}
