//! What the clients of a load know: what they asked for and what they were told.
//!
//! Judges every delivery and answer against it, and panics at the first that breaks a promise.
//! Knowledge is conservative: what was not answered may or may not have happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use chronosdb::base::route::fnv1a_64;
use chronosdb::base::time;
use chronosdb::client::{ClientError, Delivery, Event, Published};
use tokio::sync::watch;

/// What is known of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered: it may be stored.
    Unknown,
    /// It certainly was not sent.
    NotStored,
    /// Acknowledged.
    Stored(Published),
}

/// An event that was published, or tried to be, and what the group of workers did with it.
#[derive(Clone, Debug)]
pub struct Known {
    /// As it was sent.
    pub event: Event,
    /// What became of it.
    pub fate: Fate,
    /// An ack was sent.
    pub ack_sent: bool,
    /// An ack was confirmed.
    pub acked: bool,
    /// Nacks sent and nacks confirmed.
    pub nacks: (u32, u32),
}

/// All that is known.
#[derive(Debug)]
pub struct Ledger {
    /// By message id.
    pub events: BTreeMap<String, Known>,
    /// Answers, deliveries and confirmed acks so far.
    progress: watch::Sender<u64>,
}

/// A ledger that tasks share.
#[derive(Clone, Debug)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// One that knows nothing.
    pub fn new() -> Self {
        let ledger = Ledger { events: BTreeMap::new(), progress: watch::Sender::new(0) };
        Self(Arc::new(Mutex::new(ledger)))
    }

    /// What is known of a server that was restored from a backup: for sure is what was known before
    /// the backup was asked for; what happened from then on may be in it or not.
    pub fn restored(&self, before: &BTreeMap<String, Known>) -> Self {
        let restored = Self::new();
        let as_of = |(id, known): (&String, &Known)| {
            let sure = before.get(id);
            let stored = sure.map(|sure| sure.fate).filter(|fate| matches!(fate, Fate::Stored(_)));
            let fate = match known.fate {
                Fate::NotStored => Fate::NotStored,
                Fate::Unknown | Fate::Stored(_) => stored.unwrap_or(Fate::Unknown),
            };
            let acked = sure.is_some_and(|sure| sure.acked);
            let nacks = (known.nacks.0, sure.map_or(0, |sure| sure.nacks.1));
            (id.clone(), Known { fate, acked, nacks, ..known.clone() })
        };
        restored.lock().events = self.lock().events.iter().map(as_of).collect();
        restored
    }

    /// Takes it.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().expect("no check failed")
    }

    /// Waits until `more` steps of progress have been made.
    pub async fn progressed(&self, more: u64) {
        let mut progress = self.lock().progress.subscribe();
        let target = *progress.borrow() + more;
        progress.wait_for(|made| *made >= target).await.expect("the ledger is here");
    }
}

/// The payload of the event with this id: 1 byte to 8 KiB, rarely 100 KiB.
pub fn payload(id: &str) -> Vec<u8> {
    let hash = fnv1a_64(id.as_bytes());
    let length = match hash % 100 {
        0 => 100 << 10,
        1..=20 => 1 + (hash >> 8) % (8 << 10),
        _ => 1 + (hash >> 8) % 256,
    };
    (0..length).map(|i| (hash >> (i % 57)) as u8).collect()
}

impl Ledger {
    /// Before an event is sent.
    pub fn sending(&mut self, event: &Event) {
        let known = Known {
            event: event.clone(),
            fate: Fate::Unknown,
            ack_sent: false,
            acked: false,
            nacks: (0, 0),
        };
        let before = self.events.insert(event.message_id.clone(), known);
        assert!(before.is_none(), "ids of a load are fresh");
    }

    /// The answer to a first publish.
    pub fn answered(&mut self, id: &str, result: &Result<Published, ClientError>) {
        let known = self.events.get_mut(id).expect("it was sent");
        known.fate = match result {
            Ok(placed) => {
                assert!(!placed.duplicate, "{id} is new, and is called a duplicate");
                known.judge_place(placed);
                Fate::Stored(*placed)
            }
            Err(error) if error.may_have_happened() => Fate::Unknown,
            Err(ClientError::NotSent(_) | ClientError::Connect { .. }) => Fate::NotStored,
            Err(error) => panic!("{id} is refused: {error:?}"),
        };
        self.progress.send_modify(|made| *made += 1);
    }

    /// The answer to a publish of an id that was published before.
    pub fn answered_again(&mut self, id: &str, result: &Result<Published, ClientError>) {
        let known = self.events.get_mut(id).expect("it was sent");
        let placed = result.as_ref().unwrap_or_else(|error| panic!("{id} again: {error}"));
        match known.fate {
            Fate::Stored(first) => {
                assert!(placed.duplicate, "{id} is stored twice: {first:?} and {placed:?}");
                let first = (first.partition, first.offset, first.schedule_ts);
                assert_eq!(first, (placed.partition, placed.offset, placed.schedule_ts), "{id}");
            }
            Fate::NotStored => {
                assert!(!placed.duplicate, "{id} was not sent, and is stored: {placed:?}");
            }
            Fate::Unknown => {}
        }
        known.judge_place(placed);
        known.fate = Fate::Stored(Published { duplicate: false, ..*placed });
    }

    /// An event that came back, in whatever way.
    pub fn came_back(&self, event: &Event) {
        assert!(
            time::wall_ms() as i64 >= event.schedule_ts,
            "{} came before its time",
            event.message_id
        );
        let known = self.events.get(&event.message_id).unwrap_or_else(|| {
            panic!("{} was never published", event.message_id);
        });
        assert_eq!(event.topic, known.event.topic);
        assert_eq!(event.payload, known.event.payload, "payload of {}", event.message_id);
        assert_eq!(event.checksum, crc32fast::hash(&event.payload));
        assert_eq!(event.meta, known.event.meta);
        match known.fate {
            Fate::Stored(placed) => {
                let place = (i32::from(placed.partition.0), placed.offset.0 as i64);
                assert_eq!((event.partition_id, event.offset), place, "{}", event.message_id);
                assert_eq!(event.schedule_ts, placed.schedule_ts as i64, "{}", event.message_id);
            }
            Fate::Unknown => {}
            Fate::NotStored => panic!("{} was not sent, and is here", event.message_id),
        }
    }

    /// A delivery to the workers. A confirmed ack ends them for good; restarts and disconnects
    /// count no attempt.
    pub fn delivered(&mut self, delivery: &Delivery) {
        self.came_back(&delivery.event);
        let known = self.events.get_mut(&delivery.event.message_id).expect("it came back");
        let id = &delivery.delivery_id;
        assert!(!known.acked, "{id} comes again after its ack was confirmed");
        let (sent, confirmed) = known.nacks;
        let attempts = 1 + confirmed..=1 + sent;
        assert!(attempts.contains(&delivery.attempt), "{id}: {attempts:?} {}", delivery.attempt);
        self.progress.send_modify(|made| *made += 1);
    }

    /// Before a verdict is sent.
    pub fn judging(&mut self, id: &str, ack: bool) {
        let known = self.events.get_mut(id).expect("it was delivered");
        if ack {
            known.ack_sent = true;
        } else {
            known.nacks.0 += 1;
        }
    }

    /// The verdict is confirmed.
    pub fn judged(&mut self, id: &str, ack: bool) {
        let known = self.events.get_mut(id).expect("it was delivered");
        if ack {
            known.acked = true;
        } else {
            known.nacks.1 += 1;
        }
        self.progress.send_modify(|made| *made += 1);
    }

    /// Events whose fate is not known to be stored.
    pub fn unresolved(&self) -> Vec<Event> {
        let open = |known: &&Known| !matches!(known.fate, Fate::Stored(_));
        self.events.values().filter(open).map(|known| known.event.clone()).collect()
    }

    /// Events stored in a partition, by offset. All fates must be resolved.
    pub fn stored_in(&self, partition: u16) -> Vec<(u64, &Known)> {
        let place = |known: &Known| match known.fate {
            Fate::Stored(placed) => placed,
            _ => panic!("{} is resolved before", known.event.message_id),
        };
        let mut stored: Vec<_> = self
            .events
            .values()
            .map(|known| (place(known), known))
            .filter(|(placed, _)| placed.partition.0 == partition)
            .map(|(placed, known)| (placed.offset.0, known))
            .collect();
        stored.sort_unstable_by_key(|(offset, _)| *offset);
        stored
    }

    /// Latest `schedule_ts` of what is stored.
    pub fn last_due(&self) -> u64 {
        let due = |known: &Known| match known.fate {
            Fate::Stored(placed) => placed.schedule_ts,
            _ => 0,
        };
        self.events.values().map(due).max().unwrap_or(0)
    }
}

impl Known {
    /// A place as the answer tells it.
    fn judge_place(&self, placed: &Published) {
        let asked = self.event.schedule_ts as u64;
        if asked > 0 {
            assert_eq!(placed.schedule_ts, asked, "{}", self.event.message_id);
        }
    }
}
