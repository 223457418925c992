//! Options that all loads share.

use std::time::Duration;

use chronosdb::base::limits;
use chronosdb::cli::when::duration_ms;
use clap::{Args, ValueEnum};

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Frames over TCP, each connection to a shard.
    Native,
    /// gRPC, through the bridge.
    Grpc,
}

/// How events spread over partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartitionKey {
    /// One key per connection: each of its batches goes to one partition, of its shard.
    Fixed,
    /// Routed by id: over all partitions of the connection's shard, and over all there are with
    /// fewer connections than shards.
    Spread,
    /// Routed by id: over all partitions of the connection's shard, however few connections there
    /// are: what a client that knows the shards does with single events.
    Near,
}

/// The load.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Server [default: 127.0.0.1:7700, for gRPC 127.0.0.1:9000]
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,

    /// How requests travel
    #[arg(long, value_enum, default_value = "native")]
    pub transport: Transport,

    /// Connections; native ones are dealt out to the shards in turn
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: u16,

    /// Events of a request; 1 uses the single-event request [default: 1000, for latency 1]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=limits::BATCH_EVENTS as i64))]
    pub batch: Option<u16>,

    /// Requests of a connection without an answer; a fixed rate knows no such bound
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=limits::SESSION_IN_FLIGHT as i64))]
    pub in_flight: u16,

    /// Payload of an event, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=limits::PAYLOAD_BYTES as i64))]
    pub payload: u32,

    /// Publish for so long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = lasting)]
    pub duration: Duration,

    /// Publish so many events, however long it takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Events are due so long after they are sent; 0 is at once
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = lasting)]
    pub delay: Duration,

    /// ... and spread evenly over this time behind it
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = lasting)]
    pub spread: Duration,

    /// Topic [default: a new one]
    #[arg(long)]
    pub topic: Option<String>,

    /// How events spread over partitions
    #[arg(long, value_enum, default_value = "spread")]
    pub partition_key: PartitionKey,

    /// Threads of the generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub threads: u16,

    /// HTTP address of the server, for what it says of its disk [default: 127.0.0.1:8080]
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        hide_default_value = true
    )]
    pub http_addr: String,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

impl Load {
    /// What no option at all means.
    pub fn standard() -> Self {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            load: Load,
        }
        <Only as clap::Parser>::parse_from([""]).load
    }

    /// `host:port` to connect to.
    pub fn address(&self) -> &str {
        let default = match self.transport {
            Transport::Native => "127.0.0.1:7700",
            Transport::Grpc => "127.0.0.1:9000",
        };
        self.addr.as_deref().unwrap_or(default)
    }

    /// Events of a request.
    pub fn batch(&self) -> u16 {
        self.batch.unwrap_or(1_000)
    }

    /// Checks what no single option tells.
    pub fn check(&self) -> Result<(), String> {
        // Names, keys and tags of an event are under 1 KiB.
        let bytes = usize::from(self.batch()) * (self.payload as usize + 1024);
        let most = limits::MESSAGE_BYTES;
        if bytes > most {
            return Err(format!(
                "a request may have {bytes} bytes, {most} are allowed; take a smaller --batch"
            ));
        }
        let topic = self.topic.as_ref().map_or(0, String::len);
        if topic > limits::NAME_BYTES {
            return Err(format!("--topic exceeds {} bytes", limits::NAME_BYTES));
        }
        Ok(())
    }

    /// When events are due.
    pub fn due(&self) -> Due {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Due { delay_ms: ms(self.delay), spread_ms: ms(self.spread), instant_ms: None }
    }
}

/// A duration, not negative.
pub fn lasting(text: &str) -> Result<Duration, String> {
    let ms = u64::try_from(duration_ms(text)?).map_err(|_| "it can't be negative".to_owned())?;
    Ok(Duration::from_millis(ms))
}

/// When events are due.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // units come last in names
pub struct Due {
    delay_ms: u64,
    spread_ms: u64,
    /// All of them at this instant, Unix ms.
    pub instant_ms: Option<u64>,
}

impl Due {
    /// Due time of the `number`-th event, sent at `now_ms` (both Unix ms).
    pub fn at(&self, now_ms: u64, number: u64) -> u64 {
        let spread = match self.spread_ms {
            0 => 0,
            // Steps of the golden ratio cover the range evenly however many there are.
            ms => {
                let step = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                ((step * u128::from(ms)) >> 64) as u64
            }
        };
        self.instant_ms.unwrap_or(now_ms + self.delay_ms) + spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_cover_the_spread_evenly() {
        let due = Due { delay_ms: 1_000, spread_ms: 100, instant_ms: None };
        let mut hit = [0_u32; 100];
        for number in 0..10_000 {
            hit[(due.at(50, number) - 1_050) as usize] += 1;
        }
        assert!(hit.iter().all(|hit| (90..=110).contains(hit)), "{hit:?}");
        let at_once = Due { instant_ms: Some(7_000), spread_ms: 0, ..due };
        assert_eq!(at_once.at(50, 3), 7_000);
    }
}
