//! `chronosdb topic`: how long a topic's events are kept.

use std::io::ErrorKind;

use clap::Args;
use serde_json::json;

use super::http::{Ask, exchange, segment};
use super::output::{Output, printable};
use super::settings::shown_ms;
use super::when::duration_ms;
use crate::base::topic_retention::TopicRetention;
use crate::control::backup::Refusal;
use crate::control::topics::{PATH, RetentionMs, TopicSettings};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb topic orders
      how long events of orders are kept
  chronosdb topic orders --retention 90d
      longer than the server's --retention-max-age-hours, or shorter: from then on replays, and
      groups that are new, do not see what is older; what a group has not settled is kept anyway
  chronosdb topic audit --retention forever
  chronosdb topic orders --retention default
      as the server says, again";

/// Bytes of an answer at most.
const ANSWER_BYTES: u64 = 64 << 10;

/// Options of `chronosdb topic`.
#[derive(Args, Clone, Debug)]
pub struct TopicArgs {
    /// Topic
    #[arg(value_name = "TOPIC")]
    pub topic: String,

    /// Keep events this long beyond their time: 90d, 12h, forever, or default
    #[arg(long, value_name = "TIME", value_parser = retention)]
    pub retention: Option<TopicRetention>,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,

    /// Server's HTTP listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    #[arg(env = "CHRONOS_HTTP_ADDR", hide_env_values = true, help_heading = "Server")]
    pub http_addr: String,
}

fn retention(text: &str) -> Result<TopicRetention, String> {
    match text {
        "default" => Ok(TopicRetention::Node),
        "forever" => Ok(TopicRetention::Forever),
        text => match u64::try_from(duration_ms(text)?) {
            Ok(ms) if ms > 0 => Ok(TopicRetention::For(ms)),
            _ => Err("it must be longer than nothing; or say default or forever".to_owned()),
        },
    }
}

/// Runs the command.
pub fn run(args: &TopicArgs) -> Result<(), String> {
    if args.topic.is_empty() {
        return Err("the topic without a name has no settings: name one".to_owned());
    }
    let path = PATH.replace("{topic}", &segment(&args.topic));
    let body = args
        .retention
        .map(|retention| json!({ "retention_ms": RetentionMs::from(retention) }).to_string());
    let settings = ask(&args.http_addr, &path, body.as_deref())?;
    let kept = settings.retention_ms.retention()?;
    let mut output = Output::new(args.json);
    output.line(
        || format!("{} is kept {}", printable(&args.topic), shown(kept)),
        || json!({ "topic": args.topic, "retention_ms": settings.retention_ms }),
    )?;
    output.flush().map(drop)
}

fn shown(kept: TopicRetention) -> String {
    match kept {
        TopicRetention::Node => "as the server says (--retention-max-age-hours)".to_owned(),
        TopicRetention::Forever => "for ever".to_owned(),
        TopicRetention::For(ms) => format!("for {} beyond its time", shown_ms(ms)),
    }
}

fn ask(address: &str, path: &str, body: Option<&str>) -> Result<TopicSettings, String> {
    let method = if body.is_some() { "PUT" } else { "GET" };
    let ask = Ask { method, address, path, body: body.unwrap_or(""), limit: ANSWER_BYTES };
    let (status, answer) = exchange(&ask).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => format!(
            "no server listens on {address}; start one with `chronosdb serve`, or name its HTTP \
             listener with --http-addr HOST:PORT"
        ),
        ErrorKind::InvalidData => {
            format!("{address} does not speak HTTP as expected; it is on port 8080 by default")
        }
        _ => format!("cannot ask {address}: {error}; name the HTTP listener with --http-addr"),
    })?;
    let other = || {
        format!(
            "{address} answers {path} with status {status}: name the HTTP listener of a server of \
             this version with --http-addr"
        )
    };
    if status == 200 {
        return serde_json::from_slice(&answer).map_err(|_| other());
    }
    let refusal = serde_json::from_slice::<Refusal>(&answer).map_err(|_| other())?;
    Err(refusal.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_typed_as_people_say_it() {
        assert_eq!(retention("90d"), Ok(TopicRetention::For(90 * 86_400_000)));
        assert_eq!(retention("forever"), Ok(TopicRetention::Forever));
        assert_eq!(retention("default"), Ok(TopicRetention::Node));
        assert!(retention("0s").is_err() && retention("90").is_err() && retention("").is_err());
        assert_eq!(shown(TopicRetention::For(7_200_000)), "for 2h beyond its time");
    }
}
