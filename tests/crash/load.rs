//! Publishers and workers on one node, which note all they do and are told.

use std::sync::Arc;
use std::time::Duration;

use chronosdb::base::time;
use chronosdb::client::{Client, ClientError, ClientOptions, Event, SubscribeOptions};
use tokio::task::{JoinHandle, JoinSet};

use crate::chance::Chance;
use crate::ledger::Scribe;
use crate::server::Server;

/// Topics of a load.
pub const TOPICS: [&str; 2] = ["orders", "mail"];
/// The group whose members acknowledge.
pub const WORKERS: &str = "workers";
/// Partitions of a node under test.
pub const PARTITIONS: u16 = 2;

/// A load under way.
#[derive(Debug)]
pub struct Load {
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins. `stem` makes its ids fresh; payloads have up to `most` bytes.
    pub async fn start(
        server: &Server,
        stem: &str,
        most: u64,
        scribe: &Scribe,
        chance: &mut Chance,
    ) -> Self {
        let mut load = Self { tasks: Vec::new() };
        for publisher in 0..6 {
            let events = Events {
                stem: format!("{stem}-{publisher}"),
                made: 0,
                most,
                chance: chance.fork(),
            };
            let (client, scribe) = (impatient(server).await, scribe.clone());
            let batch = if publisher == 0 { 40 } else { 1 };
            load.tasks.push(tokio::spawn(publish(client, events, batch, scribe)));
        }
        for topic in TOPICS {
            let (client, scribe) = (impatient(server).await, scribe.clone());
            load.tasks.push(tokio::spawn(consume(client, topic, scribe, chance.fork())));
        }
        load
    }

    /// Stops it; nothing of it happens afterwards.
    ///
    /// # Panics
    /// If a check has failed.
    pub async fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// A client that does not wait for a server that is gone.
pub async fn impatient(server: &Server) -> Client {
    let options = ClientOptions { reconnect_within: Duration::ZERO, ..ClientOptions::default() };
    Client::connect_with(&server.native.to_string(), options).await.expect("it serves")
}

struct Events {
    stem: String,
    made: u64,
    most: u64,
    chance: Chance,
}

impl Events {
    /// One more: mostly small, due in the past, now, soon, after a restart or two, or far ahead.
    fn next(&mut self) -> Event {
        self.made += 1;
        let (chance, now) = (&mut self.chance, time::wall_ms());
        let len = match chance.below(8) {
            0 => 1 + chance.below(self.most),
            1 | 2 => 1 + chance.below(self.most / 16 + 1),
            _ => 1 + chance.below(300),
        };
        let id = format!("{}-{}", self.stem, self.made);
        let topic = TOPICS[chance.below(TOPICS.len() as u64) as usize];
        let event = Event::new(topic, id.as_str(), crate::ledger::payload(&id, len as usize));
        let event = match chance.below(8) {
            0 => event,
            1 => event.at_ms(1 + chance.below(1_000)),
            2 => event.at_ms(now),
            3 | 4 => event.at_ms(now + chance.below(3_000)),
            5 | 6 => event.at_ms(now + 10_000 + chance.below(60_000)),
            _ => event.after_ms(24 * 3_600_000),
        };
        if chance.one_in(4) {
            return event.with_key(format!("key-{}", chance.below(20)));
        }
        event
    }
}

async fn publish(client: Client, mut events: Events, batch: u64, scribe: Scribe) {
    loop {
        let count = 1 + events.chance.below(batch);
        let sent: Vec<_> = (0..count).map(|_| events.next()).collect();
        let ids: Vec<_> = sent.iter().map(|event| event.message_id.clone()).collect();
        for event in &sent {
            scribe.sending(event);
        }
        let results = match <[Event; 1]>::try_from(sent) {
            Ok([event]) => vec![client.publish(event).await],
            Err(many) => client.publish_batch(many).await,
        };
        let go_on = ids.iter().zip(&results).map(|(id, result)| scribe.answered(id, result));
        if go_on.filter(|go_on| !go_on).count() > 0 {
            return;
        }
    }
}

/// A worker: acknowledges most, gives some back, forgets some.
async fn consume(client: Client, topic: &str, scribe: Scribe, mut chance: Chance) {
    let options = SubscribeOptions { credit: 500, ..SubscribeOptions::new(topic, WORKERS) };
    // The server may be gone at any moment.
    let Ok(mut subscription) = client.subscribe(options).await else { return };
    let client = Arc::new(client);
    let mut verdicts = JoinSet::new();
    while let Some(Ok(delivery)) = subscription.next().await {
        scribe.delivered(&delivery.event);
        let verdict = chance.below(12);
        if verdict == 0 {
            continue;
        }
        let (client, scribe) = (Arc::clone(&client), scribe.clone());
        verdicts.spawn(async move {
            let id = &delivery.event.message_id;
            if verdict == 1 {
                // Whether it is given back or comes again by itself is all the same here.
                let _given_back = client.nack(&delivery, Some(Duration::ZERO), "by chance").await;
                return;
            }
            scribe.acking(id);
            match client.ack(&delivery).await {
                Ok(()) => scribe.acked(id),
                Err(ClientError::Refused(error)) => panic!("ack of {id}: {error}"),
                Err(_lost) => {}
            }
        });
        while let Some(done) = verdicts.try_join_next() {
            done.expect("its checks hold");
        }
    }
}
