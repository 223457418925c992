//! `chronosdb subscribe`: prints deliveries and settles them.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, event_object, event_text};
use super::remote::{Remote, block_on, explain};
use super::when::duration_ms;
use crate::base::ids::{Offset, PartitionId};
use crate::base::limits;
use crate::client::{Delivery, Start, SubscribeOptions, Subscription};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb subscribe --topic orders --group billing
      every event once per group, acknowledged when it is printed
  chronosdb subscribe --topic orders --group billing --from now --count 1 --json
      the next event, as JSON
  chronosdb subscribe --topic orders --group peek --no-ack
      look only: the events come again when their time for an ack is up
  chronosdb subscribe --topic orders --group test --nack --delay 5s
      refuse everything; it comes again after 5 s, and at last becomes a dead letter";

/// Deliveries in flight if the user asks for no number: enough to hide the way to the server.
const CREDIT: u32 = 1_000;

/// Options of `chronosdb subscribe`.
#[derive(Args, Clone, Debug)]
pub struct SubscribeArgs {
    /// Topic to consume
    #[arg(long, short)]
    pub topic: String,

    /// Consumer group; its members share the events
    #[arg(long, short)]
    pub group: String,

    /// Name of this member, for people
    #[arg(long, value_name = "NAME", default_value = "")]
    pub member: String,

    /// Where a new group starts: beginning, now, or an offset; an old one goes on where it is
    #[arg(long, value_name = "START", default_value = "beginning", value_parser = start)]
    pub from: Start,

    /// Only this partition; may be repeated
    #[arg(long, value_name = "N")]
    pub partition: Vec<u16>,

    /// Deliveries in flight
    #[arg(long, value_name = "N", default_value_t = CREDIT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::CREDIT_MAX)))]
    pub credit: u32,

    /// Stop after so many deliveries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Do not acknowledge
    #[arg(long, conflicts_with = "nack")]
    pub no_ack: bool,

    /// Refuse every delivery, so that it is tried again
    #[arg(long)]
    pub nack: bool,

    /// With --nack: try again after this time in place of the server's backoff
    #[arg(long, value_name = "TIME", requires = "nack", value_parser = duration_ms)]
    pub delay: Option<i64>,

    /// Print a JSON object per delivery
    #[arg(long)]
    pub json: bool,

    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

fn start(text: &str) -> Result<Start, String> {
    match text {
        "beginning" => Ok(Start::Beginning),
        "now" => Ok(Start::Now),
        offset => match u64::from_str(offset) {
            Ok(offset) => Ok(Start::Offset(Offset(offset))),
            Err(_) => Err("say beginning, now, or an offset".to_owned()),
        },
    }
}

/// Runs the command.
pub fn run(args: &SubscribeArgs) -> Result<(), String> {
    block_on(subscribe(args))
}

async fn subscribe(args: &SubscribeArgs) -> Result<(), String> {
    let client = args.remote.connect().await?;
    // What is not asked for would be taken from other members, and given back at the end.
    let count = args.count.unwrap_or(u64::MAX);
    let credit = args.credit.min(u32::try_from(count).unwrap_or(u32::MAX));
    let options = SubscribeOptions {
        member: args.member.clone(),
        partitions: args.partition.iter().map(|partition| PartitionId(*partition)).collect(),
        start: args.from,
        credit,
        ..SubscribeOptions::new(args.topic.as_str(), args.group.as_str())
    };
    let mut deliveries = client.subscribe(options).await.map_err(|error| explain(&error))?;
    let mut output = Output::new(args.json);
    let (mut seen, mut reconnects) = (0, 0);
    while seen < count {
        let next = tokio::select! {
            next = deliveries.next_batch() => next,
            _ = tokio::signal::ctrl_c() => break,
        };
        let batch = match next {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => return Err(explain(&error)),
            None => break,
        };
        if deliveries.reconnects() > reconnects {
            reconnects = deliveries.reconnects();
            eprintln!("chronosdb: the connection was lost and is back; some events may come again");
        }
        let wanted = usize::try_from(count - seen).unwrap_or(usize::MAX);
        let batch = &batch[..batch.len().min(wanted)];
        let mut open = true;
        for delivery in batch {
            open &= output.line(|| text(delivery), || object(delivery))?;
        }
        // Nothing is acknowledged that may not have been printed.
        if !(open && output.flush()?) {
            break;
        }
        settle(args, &deliveries, batch).await?;
        seen += batch.len() as u64;
    }
    confirm(&deliveries).await
}

/// The verdict on what was printed.
async fn settle(
    args: &SubscribeArgs,
    deliveries: &Subscription,
    batch: &[Delivery],
) -> Result<(), String> {
    let delay = args.delay.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    for delivery in batch {
        let said = if args.nack {
            deliveries.nack(delivery, delay, "refused on the command line").await
        } else if args.no_ack {
            Ok(())
        } else {
            deliveries.ack_later(delivery).await
        };
        said.map_err(|error| explain(&error))?;
    }
    Ok(())
}

/// Waits for the acks that are under way.
async fn confirm(deliveries: &Subscription) -> Result<(), String> {
    let summary = deliveries.settled().await;
    match summary.error {
        None => Ok(()),
        Some(error) => Err(format!(
            "{} acks were not confirmed, these events may come again; the first: {error}",
            summary.failed
        )),
    }
}

fn text(delivery: &Delivery) -> String {
    let again = match delivery.attempt {
        1 => String::new(),
        attempt => format!("  (attempt {attempt})"),
    };
    event_text(&delivery.event) + &again
}

fn object(delivery: &Delivery) -> Value {
    let mut object = event_object(&delivery.event);
    object.insert("delivery_id".to_owned(), json!(delivery.delivery_id));
    object.insert("attempt".to_owned(), json!(delivery.attempt));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_or_an_offset() {
        assert_eq!(start("beginning"), Ok(Start::Beginning));
        assert_eq!(start("now"), Ok(Start::Now));
        assert_eq!(start("17"), Ok(Start::Offset(Offset(17))));
        assert!(start("-1").is_err() && start("end").is_err());
    }
}
