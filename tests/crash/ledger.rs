//! What clients asked for and were told, and *when*: at which length of the write log.
//!
//! An answer that came when the log had `n` entries rests on these: it must hold on every image cut
//! at `n` or later. What was asked when it had `n` can't be on an image cut at `n` or before.
//! [`Ledger::as_of`] is what has to hold at a cut.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use chronosdb::base::error::ErrorCode;
use chronosdb::base::route::fnv1a_64;
use chronosdb::base::time;
use chronosdb::client::{ClientError, Event, Published};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Length of the write log, entries.
pub type Position = u64;

/// An event, as it was sent, and all that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Known {
    pub id: String,
    pub topic: String,
    pub key: Option<String>,
    /// Bytes of its payload, which follow from its id.
    pub len: usize,
    /// Before it was sent.
    pub sent: Position,
    /// When its answer came, and what it said. Without one it may be stored or not.
    pub stored: Option<(Position, Place)>,
    /// It was refused: it is not stored.
    pub refused: bool,
    /// Before an ack was sent for the workers, and when it was confirmed.
    pub ack_sent: Option<Position>,
    pub acked: Option<Position>,
}

/// Where an event lies, as the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub partition: u16,
    pub offset: u64,
    pub schedule_ts: u64,
}

impl From<Published> for Place {
    fn from(published: Published) -> Self {
        let Published { partition, offset, schedule_ts, duplicate: _ } = published;
        Self { partition: partition.0, offset: offset.0, schedule_ts }
    }
}

impl Known {
    /// The event as it was sent, without its time.
    pub fn event(&self) -> Event {
        let event = Event::new(self.topic.as_str(), self.id.as_str(), payload(&self.id, self.len));
        match &self.key {
            Some(key) => event.with_key(key.as_str()),
            None => event,
        }
    }

    /// An event that came back is the one that was sent, and not before its time.
    pub fn judge(&self, came: &Event) {
        let (id, sent) = (&self.id, self.event());
        assert!(!self.refused, "{id} was refused, and is here");
        assert!(time::wall_ms() as i64 >= came.schedule_ts, "{id} came before its time");
        assert_eq!((&came.topic, &came.meta), (&sent.topic, &sent.meta), "{id}");
        assert!(came.payload == sent.payload, "{id} has another payload than was sent");
        if let Some((_, stored)) = self.stored {
            assert_eq!(place_of(came), stored, "{id} lies elsewhere than was told");
        }
    }
}

/// Where an event that came back says it lies.
pub fn place_of(event: &Event) -> Place {
    Place {
        partition: event.partition_id as u16,
        offset: event.offset as u64,
        schedule_ts: event.schedule_ts as u64,
    }
}

/// All that is known, by message id.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub events: BTreeMap<String, Known>,
}

impl Ledger {
    /// What is known at a cut. Positions are dropped: it all was before the log of the next round.
    pub fn as_of(&self, cut: Position) -> Self {
        let held = |at: Position| at <= cut;
        let known = self.events.values().filter(|known| known.sent < cut).map(|known| Known {
            sent: 0,
            stored: known.stored.filter(|(at, _)| held(*at)).map(|(_, place)| (0, place)),
            refused: known.refused,
            ack_sent: known.ack_sent.filter(|at| *at < cut).map(|_| 0),
            acked: known.acked.filter(|at| held(*at)).map(|_| 0),
            ..known.clone()
        });
        Self { events: known.map(|known| (known.id.clone(), known)).collect() }
    }

    /// Writes it down, a line per event.
    pub fn save(&self, path: &Path) {
        let line = |known| serde_json::to_string(known).expect("plain fields") + "\n";
        let text: String = self.events.values().map(line).collect();
        std::fs::write(path, text).expect("a place for the ledger");
    }

    /// Reads what was saved.
    pub fn load(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a ledger was saved");
        let known = text.lines().map(|line| serde_json::from_str(line).expect("our own line"));
        Self { events: known.map(|known: Known| (known.id.clone(), known)).collect() }
    }

    /// Events that certainly are stored, and acks that certainly are settled.
    pub fn certain(&self) -> (usize, usize) {
        let stored = self.events.values().filter(|known| known.stored.is_some()).count();
        (stored, self.events.values().filter(|known| known.acked.is_some()).count())
    }
}

/// A ledger that tasks write, with a look at the log's length.
#[derive(Clone)]
pub struct Scribe {
    ledger: Arc<Mutex<Ledger>>,
    length: Arc<dyn Fn() -> Position + Send + Sync>,
    /// Payload bytes known to be stored, and confirmed acks.
    progress: Arc<watch::Sender<(u64, u64)>>,
}

impl fmt::Debug for Scribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scribe").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Scribe {
    /// Goes on with a ledger.
    pub fn new(ledger: Ledger, length: impl Fn() -> Position + Send + Sync + 'static) -> Self {
        Self {
            ledger: Arc::new(Mutex::new(ledger)),
            length: Arc::new(length),
            progress: Arc::default(),
        }
    }

    /// The log's length.
    pub fn now(&self) -> Position {
        (self.length)()
    }

    /// Takes the ledger.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no check failed")
    }

    /// Bytes stored and acks confirmed since it was made.
    pub fn progress(&self) -> watch::Receiver<(u64, u64)> {
        self.progress.subscribe()
    }

    /// Before an event is sent.
    pub fn sending(&self, event: &Event) {
        let known = Known {
            id: event.message_id.clone(),
            topic: event.topic.clone(),
            key: event.meta.get(chronosdb::client::event::PARTITION_KEY).cloned(),
            len: event.payload.len(),
            sent: self.now(),
            stored: None,
            refused: false,
            ack_sent: None,
            acked: None,
        };
        let before = self.lock().events.insert(known.id.clone(), known);
        assert!(before.is_none(), "ids are fresh");
    }

    /// An answer has come. Returns whether the publisher can go on.
    pub fn answered(&self, id: &str, result: &Result<Published, ClientError>) -> bool {
        let now = self.now();
        let mut ledger = self.lock();
        let known = ledger.events.get_mut(id).expect("it was sent");
        match result {
            Ok(published) => {
                assert!(!published.duplicate, "{id} is new, and is called a duplicate");
                known.stored = Some((now, (*published).into()));
                self.progress.send_modify(|(bytes, _)| *bytes += known.len as u64);
                true
            }
            Err(ClientError::Refused(error)) if error.code == ErrorCode::ResourceExhausted => {
                known.refused = true;
                false
            }
            Err(ClientError::NotSent(_) | ClientError::Connect { .. }) => {
                known.refused = true;
                false
            }
            Err(error) if error.may_have_happened() => false,
            Err(error) => panic!("{id} is refused: {error}"),
        }
    }

    /// An event of doubt was published again, and is stored now.
    pub fn resolved(&self, id: &str, published: Published) {
        let now = self.now();
        let mut ledger = self.lock();
        let known = ledger.events.get_mut(id).expect("it was sent");
        (known.stored, known.refused) = (Some((now, published.into())), false);
    }

    /// A delivery to the workers has come.
    pub fn delivered(&self, event: &Event) {
        let ledger = self.lock();
        let id = &event.message_id;
        let known = ledger.events.get(id).unwrap_or_else(|| panic!("{id} was never published"));
        known.judge(event);
        assert!(known.acked.is_none(), "{id} comes again after its ack was confirmed");
    }

    /// Before an ack is sent.
    pub fn acking(&self, id: &str) {
        let now = self.now();
        let mut ledger = self.lock();
        let sent = &mut ledger.events.get_mut(id).expect("it was delivered").ack_sent;
        // The first one may have settled it already.
        *sent = sent.or(Some(now));
    }

    /// An ack is confirmed.
    pub fn acked(&self, id: &str) {
        let now = self.now();
        self.lock().events.get_mut(id).expect("it was delivered").acked = Some(now);
        self.progress.send_modify(|(_, acks)| *acks += 1);
    }
}

/// The payload of the event with this id.
pub fn payload(id: &str, len: usize) -> Vec<u8> {
    let hash = fnv1a_64(id.as_bytes()) | 1;
    (0..len as u64).map(|i| (hash.wrapping_mul(i + 1) >> 40) as u8).collect()
}
