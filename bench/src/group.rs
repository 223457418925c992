//! Members of a group that receive and acknowledge all that comes, and look at what comes: each
//! event once, in `(due, offset)` order of its partition for each member.
//!
//! Must hold: an event counts as done once its ack is confirmed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chronosdb::base::time::Now;
use chronosdb::client::{Connection, FrameStream, SubscribeOptions};
use chronosdb::wire::frame::Frame;
use chronosdb::wire::kind::FrameKind;
use tokio::sync::{mpsc, oneshot};

use crate::acks::{AckBatch, Acks, acknowledge};
use crate::deliver::collect;
use crate::received::{Place, deliveries};
use crate::recorder::Recorder;
use crate::target::connect_shards;

/// Acks on the way to the collector of a member, in batches.
const ACKS_AHEAD: usize = 64;
/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// What a group has received.
#[derive(Debug)]
pub struct Group {
    /// Counts and latencies; `lateness` is from due to received.
    pub recorder: Arc<Recorder>,
    seen: Mutex<Seen>,
}

/// What came so far.
#[derive(Debug, Default)]
struct Seen {
    /// A bit for each offset, by partition.
    offsets: Vec<Vec<u64>>,
    /// Events received, each once.
    events: u64,
}

impl Seen {
    /// Adds an event; false if it has come before.
    fn add(&mut self, partition: u16, offset: u64) -> bool {
        let words = of(&mut self.offsets, partition);
        let (word, bit) = ((offset / 64) as usize, 1 << (offset % 64));
        if words.len() <= word {
            words.resize((word + 1).next_power_of_two(), 0);
        }
        let is_new = words[word] & bit == 0;
        words[word] |= bit;
        self.events += u64::from(is_new);
        is_new
    }
}

/// What is kept for a partition.
fn of<T: Default>(partitions: &mut Vec<T>, partition: u16) -> &mut T {
    let number = usize::from(partition);
    if partitions.len() <= number {
        partitions.resize_with(number + 1, T::default);
    }
    &mut partitions[number]
}

impl Group {
    /// Subscribes `members` members to a topic, over `connections` connections in turn.
    pub async fn open(
        addr: &str,
        topic: &str,
        members: u16,
        connections: u16,
        credit: u32,
    ) -> Result<Arc<Self>, String> {
        let group = Arc::new(Self { recorder: Recorder::new(), seen: Mutex::default() });
        let connections = connect_shards(addr, usize::from(connections)).await?;
        for (_, connection) in (0..members).zip(connections.iter().cycle()) {
            let options = SubscribeOptions { credit, ..SubscribeOptions::new(topic, "bench") };
            let opened = connection.open_stream(FrameKind::Subscribe, &options.request());
            let stream = opened.map_err(|error| error.to_string())?;
            let (acks, answers) = mpsc::channel(ACKS_AHEAD);
            tokio::spawn(collect(answers, Arc::clone(&group.recorder)));
            // What a partition has ready may come before the last one has answered.
            let (open, opened) = oneshot::channel();
            let member = Arc::clone(&group);
            tokio::spawn(member.consume(connection.clone(), stream, acks, open));
            opened.await.map_err(|_| "the subscription ended as it began")?;
        }
        Ok(group)
    }

    /// Events received, each counted once.
    pub fn received(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).events
    }

    /// Waits until `count` events are acked, or nothing has come for `patience`: then what is
    /// missing are errors. `look` is called about every 5 ms.
    pub async fn drain(&self, count: u64, patience: Duration, mut look: impl FnMut()) {
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let done = self.recorder.done.load(Ordering::Relaxed);
            if done >= count {
                return;
            }
            if done != seen {
                (seen, moved) = (done, Instant::now());
            }
            if moved.elapsed() > patience {
                let missing = count - done;
                let text = format!("{missing} events never came or were not acked");
                return self.recorder.fail(missing, &text);
            }
            look();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Receives and acknowledges until the stream ends.
    async fn consume(
        self: Arc<Self>,
        connection: Connection,
        stream: FrameStream,
        acks: mpsc::Sender<Acks>,
        open: oneshot::Sender<()>,
    ) {
        let (mut last, mut open) = (Vec::new(), Some(open));
        let take = |frame: &Frame, batch: &mut AckBatch| {
            if frame.kind == FrameKind::Subscribed {
                // Nobody waits any more if the run is over.
                let _ = open.take().map(|open| open.send(()));
                return Ok(Vec::new());
            }
            self.take(&frame.body, &mut last, batch)
        };
        acknowledge(&connection, stream, acks, &self.recorder, take).await;
    }

    /// Looks at a frame of deliveries and adds the acks for it; those that are full.
    fn take(
        &self,
        body: &[u8],
        last: &mut Vec<Option<Place>>,
        batch: &mut AckBatch,
    ) -> Result<Vec<AckBatch>, String> {
        let now_us = Now::read().wall_us;
        let (mut full, mut again, mut early, mut disorder) = (Vec::new(), 0, 0, 0);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut walked, mut lates) = (Ok(()), Vec::new());
        deliveries(body, |delivery| {
            full.extend(batch.put(delivery.delivery_id, delivery.schedule_ts));
            lates.push(now_us.saturating_sub(delivery.schedule_ts * 1_000));
            early += u64::from(delivery.schedule_ts * 1_000 > now_us);
            match delivery.place() {
                Ok(place) => {
                    let is_new = seen.add(place.partition, place.offset);
                    again += u64::from(delivery.attempt > 1 || !is_new);
                    let before = of(last, place.partition).replace(place);
                    // What comes again comes behind what it once came before.
                    let is_first = delivery.attempt == 1;
                    disorder += u64::from(is_first && before.is_some_and(|before| before >= place));
                }
                Err(why) => walked = Err(why),
            }
        })?;
        drop(seen);
        walked?;
        self.recorder.lateness.record_all(lates.into_iter());
        self.recorder.redelivered.fetch_add(again, Ordering::Relaxed);
        self.recorder.early.fetch_add(early, Ordering::Relaxed);
        if disorder > 0 {
            self.recorder.fail(disorder, &format!("{disorder} events came out of order"));
        }
        Ok(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_offset_of_a_partition_counts_once() {
        let mut seen = Seen::default();
        assert!(seen.add(0, 7) && seen.add(1, 7) && seen.add(0, 1_000));
        assert!(!seen.add(0, 7) && !seen.add(0, 1_000));
        assert!(seen.add(0, 999));
        assert_eq!(seen.events, 4);
    }
}
