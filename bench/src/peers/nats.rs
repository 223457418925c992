//! NATS JetStream: a file stream that finds duplicates by message id, and a durable pull consumer
//! with explicit, confirmed acks. Durable only with `sync_interval: always`, which came with 2.10.
//! It knows no time of delivery in these versions. A batch is a pipeline of publishes.

use super::wire::Wire;
use super::{Peer, id, payload};

const MAKE_STREAM: &str = r#"{"name":"EVENTS","subjects":["events"],"storage":"file"}"#;
const MAKE_CONSUMER: &str = r#"{"stream_name":"EVENTS","config":
    {"durable_name":"g","ack_policy":"explicit","max_ack_pending":100000}}"#;
const NEXT: &str = r#"{"batch":1000,"no_wait":true}"#;
const MOST: usize = 1_000;

/// A connection.
pub struct Nats {
    wire: Wire,
    inbox: String,
    payload: Vec<u8>,
    out: Vec<u8>,
}

/// A message.
struct Message {
    reply: Option<String>,
    /// The status line of its headers, if it has one: no message of the stream.
    status: Option<String>,
    body: String,
}

impl Nats {
    async fn open(addr: &str, number: usize) -> Result<Self, String> {
        let mut wire = Wire::connect(addr).await?;
        let hello = wire.line().await?;
        if !hello.starts_with("INFO") {
            return Err(hello);
        }
        let inbox = format!("_INBOX.{}.{number}", std::process::id());
        let connect = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true}"#;
        wire.send(format!("{connect}\r\nSUB {inbox} 1\r\n").as_bytes()).await?;
        Ok(Self { wire, inbox, payload: payload(), out: Vec::new() })
    }

    fn put(&mut self, subject: &str, body: &[u8]) {
        let head = format!("PUB {subject} {} {}\r\n", self.inbox, body.len());
        self.out.extend_from_slice(head.as_bytes());
        self.out.extend_from_slice(body);
        self.out.extend_from_slice(b"\r\n");
    }

    fn put_event(&mut self, number: u64) {
        let headers = format!("NATS/1.0\r\nNats-Msg-Id: {}\r\n\r\n", id(number));
        let (len, all) = (headers.len(), headers.len() + self.payload.len());
        let head = format!("HPUB events {} {len} {all}\r\n{headers}", self.inbox);
        self.out.extend_from_slice(head.as_bytes());
        self.out.extend_from_slice(&self.payload);
        self.out.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> Result<(), String> {
        let sent = self.wire.send(&self.out).await;
        self.out.clear();
        sent
    }

    async fn message(&mut self) -> Result<Message, String> {
        loop {
            let line = self.wire.line().await?;
            let words: Vec<&str> = line.split(' ').collect();
            let number = |word: &str| word.parse::<usize>().map_err(|_| line.clone());
            match words[..] {
                ["PING"] => self.wire.send(b"PONG\r\n").await?,
                ["PONG" | "+OK" | "INFO", ..] => {}
                ["MSG", _, _, ref rest @ .., len] => {
                    let body = self.wire.body(number(len)?).await?;
                    let body = String::from_utf8_lossy(&body).into_owned();
                    let reply = rest.first().map(ToString::to_string);
                    return Ok(Message { reply, status: None, body });
                }
                ["HMSG", _, _, ref rest @ .., headers, len] => {
                    let (headers, len) = (number(headers)?, number(len)?);
                    let body = self.wire.body(len).await?;
                    let head = String::from_utf8_lossy(&body[..headers.min(body.len())]);
                    let status = head.lines().next().and_then(|l| l.strip_prefix("NATS/1.0 "));
                    let reply = rest.first().map(ToString::to_string);
                    let status = status.map(str::to_owned);
                    return Ok(Message { reply, status, body: String::new() });
                }
                _ => return Err(line),
            }
        }
    }

    async fn ask(&mut self, subject: &str, body: &str) -> Result<(), String> {
        self.put(subject, body.as_bytes());
        self.flush().await?;
        let answer = self.message().await?.body;
        // What is there already with the same settings is fine.
        if answer.contains("\"error\"") { Err(answer) } else { Ok(()) }
    }
}

impl Peer for Nats {
    async fn connect(addr: &str, count: usize) -> Result<Vec<Self>, String> {
        let mut peers = Vec::new();
        for number in 0..count {
            let mut nats = Self::open(addr, number).await?;
            nats.ask("$JS.API.STREAM.CREATE.EVENTS", MAKE_STREAM).await?;
            nats.ask("$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.g", MAKE_CONSUMER).await?;
            peers.push(nats);
        }
        Ok(peers)
    }

    async fn publish(&mut self, first: u64, count: u16) -> Result<(), String> {
        for number in first..first + u64::from(count) {
            self.put_event(number);
        }
        self.flush().await?;
        for _ in 0..count {
            let answer = self.message().await?.body;
            if !answer.contains("\"seq\"") {
                return Err(answer);
            }
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<u64, String> {
        self.put("$JS.API.CONSUMER.MSG.NEXT.EVENTS.g", NEXT.as_bytes());
        self.flush().await?;
        let mut taken = 0;
        while taken < MOST {
            let message = self.message().await?;
            // 404: nothing there; 408 and 409: no more for now.
            let Some(reply) = message.reply.filter(|_| message.status.is_none()) else { break };
            self.put(&reply, b"+ACK");
            taken += 1;
        }
        self.flush().await?;
        for _ in 0..taken {
            self.message().await?;
        }
        Ok(taken as u64)
    }
}
