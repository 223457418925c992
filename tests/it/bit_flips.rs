//! Flipped bits and lost parts in every file of a stopped node: never a wrong answer.
//!
//! A damaged entry that was durable makes its partition read-only, with what is before it still
//! there, and the other partition unharmed. What nothing vouches for (the last entries of the log)
//! may be cut like a tear. A damaged slot of `replica.state` leaves the other, a damaged
//! `chronosdb.toml` is refused with a sentence. `CHRONOSDB_FLIP_ROUNDS` (1) gives the number of
//! rounds, each with other bits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use chronosdb::base::error::ErrorCode;
use chronosdb::base::ids::{Offset, PartitionId};
use chronosdb::client::{
    Client, ClientError, Event, PartitionInfo, Published, ReplayOptions, ReplayRange,
    SubscribeOptions,
};
use chronosdb::engine::log::EntryHeader;
use chronosdb::engine::log::envelope::{Envelope, HEAD_BYTES, decode_head};

use crate::chance::Chance;
use crate::server::{Server, Setup, place};
use crate::wait::{for_the, until};

const PARTITIONS: u16 = 2;
/// The partition that is damaged.
const DAMAGED: u16 = 0;
const BLOCK: usize = 4096;
/// Fields of an entry's head, as `log/envelope.rs` draws it.
const HEAD: [(&str, Range<usize>); 18] = [
    ("magic", 0..4),
    ("version", 4..6),
    ("kind", 6..7),
    ("zero", 7..8),
    ("cluster", 8..16),
    ("partition", 16..18),
    ("count", 20..24),
    ("segment", 24..32),
    ("synced_index", 32..40),
    ("term", 40..48),
    ("index", 48..56),
    ("base_offset", 56..64),
    ("append_ts", 64..72),
    ("chain", 72..76),
    ("body_len", 76..80),
    ("body_crc", 80..84),
    ("zeros", 84..92),
    ("header_crc", 92..96),
];

/// What may come of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The damaged partition is read-only.
    ReadOnly,
    /// Read-only, or cut there: nothing vouches for what is damaged.
    ReadOnlyOrCut,
    /// Everything is there.
    Unharmed,
    /// It does not start, and says why.
    Refused,
}

/// A stopped node and what its clients know.
struct Stopped {
    data: PathBuf,
    /// Acknowledged events by id.
    events: BTreeMap<String, (Published, Vec<u8>)>,
    /// Ids whose ack was confirmed.
    acked: BTreeSet<String>,
    /// Entries of the damaged partition.
    entries: Vec<Entry>,
    /// Entries up to here were durable when it was started last.
    commit: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    envelope: Envelope,
    header: EntryHeader,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_told_or_does_no_harm() {
    let rounds = std::env::var("CHRONOSDB_FLIP_ROUNDS").ok();
    let rounds = rounds.map_or(1, |text| text.parse().expect("a number of rounds"));
    let mut chance = Chance::from_environment("CHRONOSDB_FLIP_SEED");
    let place = place();
    let stopped = Stopped::make(&place.path().join("data")).await;
    for _ in 0..rounds {
        for (what, expected, damage) in stopped.damages(&mut chance) {
            let copy = place.path().join("copy");
            copy_directory(&stopped.data, &copy);
            damage(&copy);
            println!("{what}: {expected:?}");
            stopped.judge(&copy, &what, expected).await;
            fs::remove_dir_all(&copy).expect("it was made here");
        }
    }
}

type Damage = Box<dyn Fn(&Path)>;

impl Stopped {
    /// Publishes entry by entry over two lives, so that the log has all kinds of entries.
    async fn make(data: &Path) -> Self {
        let mut made = Self {
            data: data.to_owned(),
            events: BTreeMap::new(),
            acked: BTreeSet::new(),
            entries: Vec::new(),
            commit: 0,
        };
        let setup = setup(data);
        for life in 0..2 {
            let server = setup.start();
            let client = server.client().await;
            for number in 0..60 {
                let id = format!("l{life}-{number}");
                let payload = id.repeat(1 + number * 37 % 300).into_bytes();
                let event = Event::new("t", id.as_str(), payload.clone()).at_ms(1);
                let published = client.publish(event).await.expect("stored");
                made.events.insert(id, (published, payload));
            }
            let mut subscription =
                client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
            for _ in 0..30 {
                let next = for_the("delivery", subscription.next()).await;
                let delivery = next.expect("endless").expect("a delivery");
                client.ack(&delivery).await.expect("confirmed");
                made.acked.insert(delivery.event.message_id.clone());
            }
            server.kill();
            made.commit = made.entries.last().map_or(0, |last: &Entry| last.header.index.0);
            made.entries = entries(&fs::read(segment(data, DAMAGED)).expect("a log"));
        }
        assert!(made.commit > 30, "the first life is known to be durable");
        made
    }

    /// One damage of each kind, at places that chance chooses.
    fn damages(&self, chance: &mut Chance) -> Vec<(String, Expected, Damage)> {
        let mut all = Vec::new();
        let log = segment(Path::new(""), DAMAGED);
        let last = self.entries.len() - 1;
        let by_chance = chance.below(last as u64) as usize;
        for number in [0, by_chance, last] {
            let (entry, expected) = (self.entries[number], self.expected(number));
            let body = HEAD_BYTES..HEAD_BYTES + entry.envelope.body_len as usize;
            let mut fields = HEAD.to_vec();
            if number != by_chance {
                // All fields of one entry are enough; of the others any one.
                fields = vec![HEAD[chance.below(HEAD.len() as u64) as usize].clone()];
            }
            if !body.is_empty() {
                fields.push(("body", body));
            }
            for (name, range) in fields {
                let at = entry.at + range.start + chance.below(range.len() as u64) as usize;
                let what = format!("{name} of entry {} of {}", number + 1, last + 1);
                all.push((what, expected, flip(&log, at, chance)));
            }
        }
        self.damages_of_places(chance, &mut all);
        damages_of_other_files(&self.data, chance, &mut all);
        all
    }

    /// Blocks that lie elsewhere, parts that are gone, bytes that carry nothing.
    fn damages_of_places(&self, chance: &mut Chance, all: &mut Vec<(String, Expected, Damage)>) {
        let log = segment(Path::new(""), DAMAGED);
        // An entry of the first life.
        let at = self.entries[self.commit as usize / 2].at;
        let (log, other) = (log.clone(), segment(Path::new(""), 1 - DAMAGED));
        let from = log.clone();
        all.push((
            "a block of the other partition".into(),
            Expected::ReadOnly,
            Box::new(move |data| {
                let (block, other) = (at / BLOCK * BLOCK, fs::read(data.join(&other)));
                let block = block..block + BLOCK;
                let other = other.expect("a log")[block.clone()].to_vec();
                change(&data.join(&from), |log| log[block].copy_from_slice(&other));
            }),
        ));
        let from = log.clone();
        all.push((
            "the log ends early".into(),
            Expected::ReadOnly,
            Box::new(move |data| change(&data.join(&from), |log| log.truncate(at))),
        ));
        let from = log.clone();
        all.push((
            "the log is zero from an entry on".into(),
            Expected::ReadOnly,
            Box::new(move |data| change(&data.join(&from), |log| log[at..].fill(0))),
        ));
        let from = log.clone();
        all.push((
            "the log is gone".into(),
            Expected::ReadOnly,
            Box::new(move |data| fs::remove_file(data.join(&from)).expect("a log")),
        ));
        let end = self.entries[self.entries.len() - 1];
        let behind = end.at + end.envelope.entry_len() as usize;
        let behind = behind + chance.below(3 * BLOCK as u64) as usize;
        all.push(("behind the log".into(), Expected::Unharmed, flip(&log, behind, chance)));
    }

    /// What comes of damage to an entry.
    fn expected(&self, number: usize) -> Expected {
        let index = self.entries[number].header.index;
        let vouched = index.0 <= self.commit
            || self.entries[number + 1..].iter().any(|e| e.envelope.synced_index >= index);
        if vouched { Expected::ReadOnly } else { Expected::ReadOnlyOrCut }
    }

    async fn judge(&self, data: &Path, what: &str, expected: Expected) {
        let setup = setup(data);
        if expected == Expected::Refused {
            let said = setup.refused();
            assert!(said.contains("chronosdb.toml") || said.contains("format"), "{what}: {said}");
            return;
        }
        let server = setup.start();
        let client = server.client().await;
        let partitions = client.partitions().await.expect("it serves");
        let damaged = &partitions[usize::from(DAMAGED)];
        let there = self.replay(&client, &partitions, what).await;
        let whole = there.len() == self.events.len();
        assert!(!partitions[usize::from(1 - DAMAGED)].read_only, "{what}: {partitions:?}");
        match expected {
            Expected::ReadOnly => assert!(damaged.read_only, "{what}: {damaged:?}"),
            Expected::Unharmed => assert!(!damaged.read_only && whole, "{what}: {damaged:?}"),
            Expected::ReadOnlyOrCut | Expected::Refused => {}
        }
        let unharmed = self.events.values().filter(|(at, _)| at.partition.0 != DAMAGED).count();
        let least = there.len() >= unharmed;
        assert!(least, "{what}: {} of {} in the other partition", there.len(), unharmed);
        self.publish_again(&client, &there, damaged.read_only, what).await;
        if !damaged.read_only {
            self.deliveries(&client, &there, expected, what).await;
        }
        tell(&server, damaged, what);
        server.kill();
    }

    /// Ids of all that can be replayed: as they were published, and of each partition the first.
    async fn replay(
        &self,
        client: &Client,
        partitions: &[PartitionInfo],
        what: &str,
    ) -> BTreeSet<String> {
        let mut there = BTreeSet::new();
        for partition in partitions {
            let range = ReplayRange::Offsets { start: Offset(0), count: u64::from(u32::MAX) };
            let only = vec![PartitionId(partition.partition_id as u16)];
            let options = ReplayOptions { partitions: only, range, ..ReplayOptions::new("t") };
            let mut replay = client.replay(options).await.expect("it serves");
            let mut offset = 0;
            while let Some(next) = for_the("the end of a replay", replay.next()).await {
                let event = next.expect("a replay").event;
                let id = &event.message_id;
                let (published, payload) = &self.events[id];
                assert!(event.payload == *payload, "{what}: the payload of {id}");
                assert_eq!(event.offset, offset, "{what}: {id}");
                assert_eq!(event.partition_id, i32::from(published.partition.0), "{what}: {id}");
                assert_eq!(event.offset, published.offset.0 as i64, "{what}: {id}");
                there.insert(id.clone());
                offset += 1;
            }
        }
        there
    }

    /// Every id again: what is there says so, and what is read-only takes nothing.
    async fn publish_again(
        &self,
        client: &Client,
        there: &BTreeSet<String>,
        read_only: bool,
        what: &str,
    ) {
        let again = |id: &String| Event::new("t", id.as_str(), "again").after_ms(86_400_000);
        let results = client.publish_batch(self.events.keys().map(again).collect()).await;
        for ((id, (published, _)), result) in self.events.iter().zip(results) {
            if read_only && published.partition.0 == DAMAGED {
                let refused = matches!(&result, Err(ClientError::Refused(error))
                    if error.code == ErrorCode::DataLoss);
                assert!(refused, "{what}: {id}: {result:?}");
                continue;
            }
            let answer = result.unwrap_or_else(|error| panic!("{what}: {id}: {error}"));
            assert_eq!(answer.duplicate, there.contains(id), "{what}: {id}");
            if answer.duplicate {
                assert_eq!(answer.offset, published.offset, "{what}: {id}");
            }
        }
    }

    /// The group gets what is there and not acknowledged.
    async fn deliveries(
        &self,
        client: &Client,
        there: &BTreeSet<String>,
        expected: Expected,
        what: &str,
    ) {
        let mut open: BTreeSet<_> = there.difference(&self.acked).cloned().collect();
        let mut subscription =
            client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
        while !open.is_empty() {
            let next = for_the("delivery", subscription.next()).await;
            let id = next.expect("endless").expect("a delivery").event.message_id;
            // The last acks may be what was cut.
            let again = expected == Expected::ReadOnlyOrCut && self.acked.contains(&id);
            assert!(open.remove(&id) || again, "{what}: {id} is delivered");
        }
    }
}

/// Damage to what is beside the logs.
fn damages_of_other_files(
    data: &Path,
    chance: &mut Chance,
    all: &mut Vec<(String, Expected, Damage)>,
) {
    let state = PathBuf::from(format!("p-{DAMAGED:05}/replica.state"));
    for slot in 0..2 {
        let at = slot * BLOCK + chance.below(60) as usize;
        all.push((format!("slot {slot}"), Expected::Unharmed, flip(&state, at, chance)));
    }
    let both = state.clone();
    all.push((
        "both slots".into(),
        Expected::Unharmed,
        Box::new(move |data| change(&data.join(&both), |state| state.fill(0x55))),
    ));
    all.push((
        "no slots".into(),
        Expected::Unharmed,
        Box::new(move |data| fs::remove_file(data.join(&state)).expect("slots")),
    ));
    let format = PathBuf::from("chronosdb.toml");
    let text = fs::read_to_string(data.join(&format)).expect("it was made");
    let keys = ["format", "cluster", "dedup_key", "partitions", "checksum"];
    for line in keys.map(|key| format!("{key} = ")) {
        let start = text.find(&line).expect("it has all keys");
        let end = text[start..].find('\n').expect("a line");
        let at = start + chance.below(end as u64) as usize;
        let what = format!("chronosdb.toml: {line}");
        all.push((what, Expected::Refused, flip(&format, at, chance)));
    }
    all.push((
        "chronosdb.toml is gone".into(),
        Expected::Refused,
        Box::new(move |data| fs::remove_file(data.join(&format)).expect("it was made")),
    ));
}

/// A read-only partition says so where people look.
fn tell(server: &Server, damaged: &PartitionInfo, what: &str) {
    let told = || server.log().lines().any(|line| line.contains("can only be read"));
    if damaged.read_only {
        until("the damage in the log", || told().then_some(()));
    }
    assert_eq!(told(), damaged.read_only, "{what}: {}", server.log());
    assert!(!server.log().contains("panicked"), "{what}: {}", server.log());
}

fn setup(data: &Path) -> Setup {
    Setup::new(data)
        .with("--partitions", PARTITIONS)
        .with("--shards", 1)
        .with("--segment-size", "32MiB")
}

fn segment(data: &Path, partition: u16) -> PathBuf {
    data.join(format!("p-{partition:05}/{:020}.seg", 1))
}

/// Entries of a log, by their heads.
fn entries(log: &[u8]) -> Vec<Entry> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + HEAD_BYTES <= log.len() {
        match decode_head(&log[at..]) {
            Ok((envelope, header)) => {
                found.push(Entry { at, envelope, header });
                at += envelope.entry_len() as usize;
            }
            // A gap up to the next block, or the end.
            Err(_) if !at.is_multiple_of(BLOCK) => at = at.next_multiple_of(BLOCK),
            Err(_) => break,
        }
    }
    found
}

fn flip(file: &Path, at: usize, chance: &mut Chance) -> Damage {
    let (file, bit) = (file.to_owned(), chance.below(8) as u8);
    Box::new(move |data| change(&data.join(&file), |bytes| bytes[at] ^= 1 << bit))
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("it is there");
    change(&mut bytes);
    fs::write(file, bytes).expect("it can be changed");
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a place for it");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("there is room");
        }
    }
}
