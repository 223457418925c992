//! A load: publishers and consumers that write down what they do, until they are stopped.

use std::sync::Arc;
use std::time::Duration;

use chronosdb::base::ids::{Offset, PartitionId};
use chronosdb::base::time;
use chronosdb::client::{Client, ClientError, ClientOptions, Event, Published, SubscribeOptions};
use chronosdb::wire::events::PublishRequest;
use tokio::task::{JoinHandle, JoinSet};

use crate::chance::Chance;
use crate::ledger::{SharedLedger, payload};
use crate::server::Server;

/// Topics that a load uses.
pub const TOPICS: [&str; 3] = ["orders", "mail", ""];
/// The group whose members acknowledge.
pub const WORKERS: &str = "workers";

/// A load under way.
pub struct Load {
    tasks: Vec<JoinHandle<()>>,
    ledger: SharedLedger,
}

/// A client that does not wait for a server that is gone.
pub async fn impatient(server: &Server) -> Client {
    let options = ClientOptions { reconnect_within: Duration::ZERO, ..ClientOptions::default() };
    Client::connect_with(&server.native.to_string(), options).await.expect("it serves")
}

impl Load {
    /// Publishers over both transports and consumers, on a server that serves. `round` makes the
    /// ids fresh.
    pub async fn start(
        server: &Server,
        round: usize,
        ledger: &SharedLedger,
        chance: &mut Chance,
    ) -> Self {
        let mut load = Self { tasks: Vec::new(), ledger: ledger.clone() };
        for publisher in 0..8 {
            let client = impatient(server).await;
            let batches = publisher % 4 == 0;
            let events = Events::new(format!("r{round}-p{publisher}"), chance.fork());
            let ledger = ledger.clone();
            load.tasks.push(tokio::spawn(async move {
                if batches {
                    publish_batches(client, events, ledger).await;
                } else {
                    publish_singly(client, events, ledger).await;
                }
            }));
        }
        let events = Events::new(format!("r{round}-g"), chance.fork());
        load.tasks.push(tokio::spawn(publish_by_grpc(
            server.events().await,
            events,
            ledger.clone(),
        )));
        load.consume(server, chance, false).await;
        load
    }

    /// Consumers alone, that acknowledge everything.
    pub async fn drain(server: &Server, ledger: &SharedLedger, chance: &mut Chance) -> Self {
        let mut load = Self { tasks: Vec::new(), ledger: ledger.clone() };
        load.consume(server, chance, true).await;
        load
    }

    async fn consume(&mut self, server: &Server, chance: &mut Chance, diligent: bool) {
        for topic in TOPICS {
            for credit in [1, 5_000] {
                let client = impatient(server).await;
                let options = SubscribeOptions {
                    credit,
                    member: "worker".to_owned(),
                    ..SubscribeOptions::new(topic, WORKERS)
                };
                let (ledger, chance) = (self.ledger.clone(), chance.fork());
                self.tasks.push(tokio::spawn(consume(client, options, ledger, chance, diligent)));
            }
        }
    }

    /// Stops it; nothing of it happens afterwards.
    ///
    /// # Panics
    /// If a check has failed.
    pub async fn stop(self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Events with ids of their own.
struct Events {
    stem: String,
    made: u64,
    chance: Chance,
}

impl Events {
    fn new(stem: String, chance: Chance) -> Self {
        Self { stem, made: 0, chance }
    }

    /// One more: of any topic, due in the past, now or soon.
    fn next(&mut self) -> Event {
        self.made += 1;
        let id = format!("{}-{}", self.stem, self.made);
        let topic = TOPICS[self.chance.below(TOPICS.len() as u64) as usize];
        let event = Event::new(topic, id.as_str(), payload(&id));
        let event = match self.chance.below(6) {
            0 => event,
            1 => event.at_ms(1 + self.chance.below(1_000)),
            2 => event.at_ms(time::wall_ms()),
            3 => event.after_ms(1 + self.chance.below(50)),
            _ => event.at_ms(time::wall_ms() + self.chance.below(3_000)),
        };
        if self.chance.one_in(4) {
            return event.with_key(format!("key-{}", self.chance.below(20)));
        }
        event
    }
}

async fn publish_singly(client: Client, mut events: Events, ledger: SharedLedger) {
    loop {
        let event = events.next();
        ledger.lock().sending(&event);
        let id = event.message_id.clone();
        let result = client.publish(event).await;
        ledger.lock().answered(&id, &result);
        if result.is_err() {
            return;
        }
    }
}

async fn publish_batches(client: Client, mut events: Events, ledger: SharedLedger) {
    loop {
        let count = 1 + events.chance.below(200);
        let batch: Vec<_> = (0..count).map(|_| events.next()).collect();
        let ids: Vec<_> = batch.iter().map(|event| event.message_id.clone()).collect();
        for event in &batch {
            ledger.lock().sending(event);
        }
        let results = client.publish_batch(batch).await;
        let mut ledger = ledger.lock();
        ids.iter().zip(&results).for_each(|(id, result)| ledger.answered(id, result));
        if results.iter().any(Result::is_err) {
            return;
        }
    }
}

/// A gRPC client.
pub type GrpcEvents =
    chronosdb::wire::events::event_service_client::EventServiceClient<tonic::transport::Channel>;

async fn publish_by_grpc(mut client: GrpcEvents, mut events: Events, ledger: SharedLedger) {
    loop {
        let event = events.next();
        ledger.lock().sending(&event);
        let id = event.message_id.clone();
        let request = PublishRequest { event: Some(event), allow_duplicate: false };
        let result = match client.publish(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                assert!(answer.success, "{id} is refused: {answer:?}");
                Ok(Published {
                    partition: PartitionId(answer.partition_id as u16),
                    offset: Offset(answer.offset as u64),
                    schedule_ts: answer.schedule_ts as u64,
                    duplicate: answer.duplicate,
                })
            }
            Err(status) => Err(ClientError::Unknown(status.message().into())),
        };
        ledger.lock().answered(&id, &result);
        if result.is_err() {
            return;
        }
    }
}

/// A worker: acknowledges most, refuses some, forgets some (unless it is `diligent`).
async fn consume(
    client: Client,
    options: SubscribeOptions,
    ledger: SharedLedger,
    mut chance: Chance,
    diligent: bool,
) {
    // The server may be killed at any moment.
    let Ok(mut subscription) = client.subscribe(options).await else { return };
    let client = Arc::new(client);
    let mut verdicts = JoinSet::new();
    while let Some(batch) = subscription.next_batch().await {
        let Ok(batch) = batch else { return };
        for delivery in batch {
            ledger.lock().delivered(&delivery);
            let ack = diligent || !chance.one_in(10);
            if !ack && chance.one_in(5) {
                continue;
            }
            let (client, ledger) = (Arc::clone(&client), ledger.clone());
            verdicts.spawn(async move {
                let id = delivery.event.message_id.clone();
                ledger.lock().judging(&id, ack);
                let judged = if ack {
                    client.ack(&delivery).await
                } else {
                    client.nack(&delivery, Some(Duration::ZERO), "by chance").await
                };
                match judged {
                    Ok(()) => ledger.lock().judged(&id, ack),
                    Err(ClientError::Refused(error)) => panic!("verdict on {id}: {error}"),
                    Err(_lost) => {}
                }
            });
        }
        while let Some(done) = verdicts.try_join_next() {
            done.expect("its checks hold");
        }
    }
}
