//! Redis, two ways: a stream with a consumer group, and the delay queue that people build of a
//! sorted set. Both with `appendonly yes` and `appendfsync always`: answers leave after the sync.
//!
//! A stream knows no time of its own: its events can only be due at once. A sorted set does, but
//! what was taken off it is gone if the consumer dies. Neither looks for duplicates (the sorted set
//! stores a member once, payload and all). A batch is a pipeline: its commands share syncs.

use std::fmt::Write;

use super::wire::Wire;
use super::{Peer, id, payload};
use chronosdb::base::time::wall_ms;

const MOST: &str = "1000";

/// An answer.
#[derive(Debug)]
enum Resp {
    Nil,
    Number(u64),
    Text(String),
    Array(Vec<Resp>),
}

/// A connection.
struct Redis {
    wire: Wire,
    out: String,
}

impl Redis {
    async fn connect(addr: &str) -> Result<Self, String> {
        Ok(Self { wire: Wire::connect(addr).await?, out: String::new() })
    }

    /// Puts a command into the pipeline.
    fn put<'a>(&mut self, words: impl IntoIterator<Item = &'a str, IntoIter: ExactSizeIterator>) {
        let words = words.into_iter();
        let _ = write!(self.out, "*{}\r\n", words.len());
        for word in words {
            let _ = write!(self.out, "${}\r\n{word}\r\n", word.len());
        }
    }

    /// Sends the pipeline.
    async fn flush(&mut self) -> Result<(), String> {
        let sent = self.wire.send(self.out.as_bytes()).await;
        self.out.clear();
        sent
    }

    /// The next answer.
    async fn answer(&mut self) -> Result<Resp, String> {
        let line = self.wire.line().await?;
        let (mark, rest) = line.split_at_checked(1).ok_or("an empty line")?;
        let number = || rest.parse::<i64>().map_err(|_| format!("{rest} is no number"));
        match mark {
            "+" => Ok(Resp::Text(rest.to_owned())),
            ":" => Ok(Resp::Number(u64::try_from(number()?).unwrap_or(0))),
            "$" => match usize::try_from(number()?) {
                Ok(len) => {
                    let body = self.wire.body(len).await?;
                    Ok(Resp::Text(String::from_utf8_lossy(&body).into_owned()))
                }
                Err(_) => Ok(Resp::Nil),
            },
            "*" => {
                let mut items = Vec::new();
                for _ in 0..number()?.max(0) {
                    items.push(Box::pin(self.answer()).await?);
                }
                Ok(Resp::Array(items))
            }
            _ => Err(line),
        }
    }
}

/// A stream and a group on it.
pub struct Stream {
    redis: Redis,
    consumer: String,
    payload: String,
}

impl Peer for Stream {
    async fn connect(addr: &str, count: usize) -> Result<Vec<Self>, String> {
        let mut peers = Vec::new();
        for number in 0..count {
            let mut redis = Redis::connect(addr).await?;
            redis.put(["XGROUP", "CREATE", "events", "g", "0", "MKSTREAM"]);
            redis.flush().await?;
            match redis.answer().await {
                Err(error) if !error.contains("BUSYGROUP") => return Err(error),
                _ => {}
            }
            peers.push(Self { redis, consumer: format!("c{number}"), payload: text() });
        }
        Ok(peers)
    }

    async fn publish(&mut self, first: u64, count: u16) -> Result<(), String> {
        for number in first..first + u64::from(count) {
            let id = id(number);
            self.redis.put(["XADD", "events", "*", "id", &id, "payload", &self.payload]);
        }
        self.redis.flush().await?;
        for _ in 0..count {
            self.redis.answer().await?;
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<u64, String> {
        let consumer = &self.consumer;
        let read = ["XREADGROUP", "GROUP", "g", consumer, "COUNT", MOST, "STREAMS", "events", ">"];
        self.redis.put(read);
        self.redis.flush().await?;
        let ids = entries(self.redis.answer().await?);
        if ids.is_empty() {
            return Ok(0);
        }
        let words = ["XACK", "events", "g"].into_iter().chain(ids.iter().map(String::as_str));
        self.redis.put(words.collect::<Vec<_>>());
        self.redis.flush().await?;
        match self.redis.answer().await? {
            Resp::Number(acked) if acked == ids.len() as u64 => Ok(acked),
            other => Err(format!("{other:?} in place of {}", ids.len())),
        }
    }
}

/// Ids of what `XREADGROUP` gave: `[[stream, [[id, fields] ..]]]`.
fn entries(answer: Resp) -> Vec<String> {
    let inner = |resp: Resp, place: usize| match resp {
        Resp::Array(mut items) if place < items.len() => items.swap_remove(place),
        _ => Resp::Nil,
    };
    let Resp::Array(entries) = inner(inner(answer, 0), 1) else { return Vec::new() };
    let id = |entry| if let Resp::Text(id) = inner(entry, 0) { Some(id) } else { None };
    entries.into_iter().filter_map(id).collect()
}

/// A sorted set by due time; a member is an id and a payload.
pub struct SortedSet {
    redis: Redis,
    payload: String,
}

impl Peer for SortedSet {
    async fn connect(addr: &str, count: usize) -> Result<Vec<Self>, String> {
        let mut peers = Vec::new();
        for _ in 0..count {
            peers.push(Self { redis: Redis::connect(addr).await?, payload: text() });
        }
        Ok(peers)
    }

    async fn publish(&mut self, first: u64, count: u16) -> Result<(), String> {
        let due = wall_ms().to_string();
        for number in first..first + u64::from(count) {
            let member = id(number) + &self.payload;
            self.redis.put(["ZADD", "delayed", &due, &member]);
        }
        self.redis.flush().await?;
        for _ in 0..count {
            self.redis.answer().await?;
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<u64, String> {
        let now = wall_ms().to_string();
        self.redis.put(["ZRANGEBYSCORE", "delayed", "-inf", &now, "LIMIT", "0", MOST]);
        self.redis.flush().await?;
        let Resp::Array(members) = self.redis.answer().await? else { return Ok(0) };
        let member = |resp| if let Resp::Text(member) = resp { Some(member) } else { None };
        let members: Vec<String> = members.into_iter().filter_map(member).collect();
        if members.is_empty() {
            return Ok(0);
        }
        let words = ["ZREM", "delayed"].into_iter().chain(members.iter().map(String::as_str));
        self.redis.put(words.collect::<Vec<_>>());
        self.redis.flush().await?;
        match self.redis.answer().await? {
            // Others have read the same: who removes it has it.
            Resp::Number(removed) => Ok(removed),
            other => Err(format!("{other:?} in place of a number")),
        }
    }
}

fn text() -> String {
    String::from_utf8_lossy(&payload()).into_owned()
}
