//! ChronosDB itself, by the same loop. Duplicates are looked for, events have a due time, and what
//! was acknowledged can still be replayed: peers do less in places.

use std::time::Duration;

use bytes::BytesMut;
use chronosdb::base::limits;
use chronosdb::base::time::wall_ms;
use chronosdb::client::{Connection, FrameStream, SubscribeOptions};
use chronosdb::wire::kind::FrameKind;

use super::{BATCH, PAYLOAD, Peer};
use crate::args::Load;
use crate::received::{ack_counts, deliveries, put_ack};
use crate::target::{Publisher, Run, publishers};
use crate::template::EventMaker;

const TOPIC: &str = "peer";
/// Nothing is left if nothing has come for so long.
const PATIENCE: Duration = Duration::from_millis(300);

/// A connection.
pub struct Chronos {
    publisher: Publisher,
    maker: EventMaker,
    stream: Option<FrameStream>,
}

impl Chronos {
    fn connection(&self) -> Result<&Connection, String> {
        match &self.publisher {
            Publisher::Native(connection) => Ok(connection),
            Publisher::Grpc(_) => Err("the native protocol is what is measured".to_owned()),
        }
    }

    fn subscribe(&self) -> Result<FrameStream, String> {
        let connection = self.connection()?;
        let topology = connection.topology();
        let options = SubscribeOptions {
            partitions: topology.owned_by(topology.shard).collect(),
            ..SubscribeOptions::new(TOPIC, "g")
        };
        let opened = connection.open_stream(FrameKind::Subscribe, &options.request());
        opened.map_err(|error| error.to_string())
    }
}

/// Acks of what was received, in bodies of at most `ACK_BATCH`.
#[derive(Default)]
struct Acks {
    bodies: Vec<BytesMut>,
    body: BytesMut,
    count: usize,
}

impl Acks {
    /// Adds those for a frame of deliveries.
    fn put(&mut self, frame: &[u8]) -> Result<(), String> {
        deliveries(frame, |delivery| {
            put_ack(&mut self.body, delivery.delivery_id);
            self.count += 1;
            if self.count.is_multiple_of(limits::ACK_BATCH) {
                self.bodies.push(self.body.split());
            }
        })
    }

    /// Sends them and waits until all are confirmed; how many.
    async fn confirm(mut self, connection: &Connection) -> Result<u64, String> {
        self.bodies.push(self.body);
        let mut answers = Vec::new();
        for body in self.bodies.iter().filter(|body| !body.is_empty()) {
            let fill = |out: &mut BytesMut| out.extend_from_slice(body);
            let sent = connection.send(FrameKind::AckBatch, body.len(), fill).await;
            answers.push(sent.map_err(|error| error.to_string())?);
        }
        let mut acked = 0;
        for answer in answers {
            let frame = answer.await.map_err(|error| error.to_string())?;
            let (confirmed, error) = ack_counts(&frame.body, frame.kind == FrameKind::AckedBatch)?;
            match error {
                None => acked += confirmed,
                Some(error) => return Err(error),
            }
        }
        Ok(acked)
    }
}

impl Peer for Chronos {
    async fn connect(addr: &str, count: usize) -> Result<Vec<Self>, String> {
        let load = Load {
            addr: Some(addr.to_owned()),
            connections: count as u16,
            payload: PAYLOAD as u32,
            topic: Some(TOPIC.to_owned()),
            ..Load::standard()
        };
        // A number of its own: no id comes twice.
        let run = Run::new(&load);
        let publishers = publishers(&load).await?.into_iter().enumerate();
        let peer = |(number, publisher): (usize, Publisher)| {
            let maker = publisher.maker(&load, &run, number, 0);
            Self { publisher, maker, stream: None }
        };
        Ok(publishers.map(peer).collect())
    }

    async fn publish(&mut self, _: u64, count: u16) -> Result<(), String> {
        let now_ms = wall_ms();
        let counts = self.publisher.publish(&mut self.maker, count, |_| now_ms).await?;
        match counts.error {
            None if counts.stored == u64::from(count) => Ok(()),
            error => Err(error.unwrap_or_else(|| format!("{} stored", counts.stored))),
        }
    }

    async fn take(&mut self) -> Result<u64, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.subscribe()?,
        };
        let mut acks = Acks::default();
        let mut next = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap_or_default();
        // As many as the peers take in one go; what has come is there at once.
        while let Some(received) = next {
            let frame = received.map_err(|error| error.to_string())?;
            // The first frame only says that the subscription stands.
            let first = frame.kind == FrameKind::Subscribed;
            if !first {
                acks.put(&frame.body)?;
            }
            next = match stream.try_next() {
                _ if acks.count >= usize::from(BATCH) => None,
                None if first => {
                    tokio::time::timeout(PATIENCE, stream.next()).await.unwrap_or_default()
                }
                more => more,
            };
        }
        let acked = acks.confirm(self.connection()?).await?;
        self.stream = Some(stream);
        Ok(acked)
    }
}
