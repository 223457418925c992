//! `chronosdb log`: a stopped node's logs looked at, damaged, and repaired.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use chronosdb::client::{Client, Event, ReplayOptions};
use serde_json::Value;

use crate::server::{Server, Setup, place, program, refused};
use crate::wait::{for_the, until};

/// Runs `chronosdb log` to its end; exit code and what it printed.
pub fn log(arguments: &[&str], dir: &Path) -> (i32, String) {
    let mut command = program(&["log"]);
    let Output { status, stdout, stderr } =
        command.args(arguments).arg(dir).output().expect("the program is built");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(said, "", "no progress where nobody looks, and no complaints");
    (status.code().expect("no signal"), String::from_utf8(stdout).expect("text"))
}

/// The same with `--json`: an object per line.
pub fn objects(arguments: &[&str], dir: &Path) -> (i32, Vec<Value>) {
    let (code, printed) = log(&[arguments, &["--json"]].concat(), dir);
    (code, printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

/// Every file below a directory, with its bytes.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("readable");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// Publishes these ids in one partition, each by itself: an entry each.
async fn publish(client: &Client, ids: std::ops::Range<u64>) {
    for n in ids {
        // Due at once, and not in a moment: what is replayed is what was due by then.
        let event = Event::new("orders", format!("m{n}"), format!("payload {n}"));
        let event = event.with_key("k").at_ms(chronosdb::base::time::wall_ms());
        client.publish(event).await.expect("stored");
    }
}

/// Ids of all events, in the order of their offsets.
async fn replayed(client: &Client) -> Vec<String> {
    let opened = client.replay(ReplayOptions::new("orders")).await;
    let mut history = opened.expect("it serves");
    let mut events = Vec::new();
    while let Some(next) = for_the("next event", history.next()).await {
        events.push(next.expect("an event").event);
    }
    events.sort_by_key(|event| event.offset);
    events.into_iter().map(|event| event.message_id).collect()
}

fn ids(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("m{n}")).collect()
}

/// The directory of a stopped node that holds 20 events, and their partition.
async fn stopped_node(setup: &Setup) -> u64 {
    let server = setup.start();
    let client = server.client().await;
    publish(&client, 0..20).await;
    let partition = client.partitions().await.expect("it serves");
    let partition = partition.iter().find(|p| p.high_watermark == 20).expect("one has them all");
    server.stop();
    partition.partition_id as u64
}

/// The dumped entry that holds the event with this id.
fn entry_of(dir: &Path, id: &str) -> Value {
    let (_, dumped) = objects(&["dump"], dir);
    let holds = |entry: &&Value| {
        entry["events"]
            .as_array()
            .is_some_and(|events| events.iter().any(|e| e["message_id"] == id))
    };
    dumped.iter().find(holds).expect("it was published").clone()
}

fn segment(dir: &Path, entry: &Value) -> PathBuf {
    dir.join(format!("p-{:05}", entry["partition"].as_u64().expect("a number")))
        .join(format!("{:020}.seg", entry["segment"].as_u64().expect("a number")))
}

/// The partitions that a server can only read.
async fn damaged(server: &Server) -> Vec<u64> {
    let partitions = server.client().await.partitions().await.expect("it serves");
    partitions.iter().filter(|p| p.read_only).map(|p| p.partition_id as u64).collect()
}

/// Flips a bit in the body of the entry that holds this event.
fn flip(dir: &Path, id: &str) -> Value {
    let entry = entry_of(dir, id);
    let path = segment(dir, &entry);
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[entry["byte"].as_u64().expect("a number") as usize + 120] ^= 4;
    std::fs::write(path, bytes).expect("writable");
    entry
}

#[tokio::test]
async fn a_sound_directory_is_verified_and_dumped() {
    let place = place();
    let dir = place.path().join("data");
    let partition = stopped_node(&Setup::new(&dir)).await;
    let before = files(&dir);
    let (code, found) = objects(&["verify"], &dir);
    assert_eq!((code, found.len()), (0, 5), "four partitions and a summary");
    let one = found.iter().find(|f| f["partition"] == partition).expect("of each");
    assert_eq!((&one["condition"], &one["events"]), (&"sound".into(), &20.into()));
    assert_eq!((&one["last_offset"], &one["rot"]), (&19.into(), &Value::Null));
    assert_eq!((&found[4]["events"], &found[4]["damaged"]), (&20.into(), &0.into()));
    let (code, text) = log(&["verify"], &dir);
    assert_eq!(code, 0);
    assert!(text.contains("4 partitions: nothing is damaged; 20 events"), "{text}");
    let (code, text) = log(&["repair", "--yes"], &dir);
    assert_eq!((code, text.as_str()), (0, "nothing to repair\n"));

    let number = partition.to_string();
    let (code, dumped) = objects(&["dump", "--partition", &number], &dir);
    assert_eq!(code, 0);
    let kinds: Vec<_> =
        dumped.iter().map(|entry| entry["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds[..3], ["state", "no-op", "publish"], "{kinds:?}");
    let indexes: Vec<_> = dumped.iter().map(|entry| entry["index"].as_u64()).collect();
    assert_eq!(indexes, (1..=dumped.len() as u64).map(Some).collect::<Vec<_>>());
    let event = &dumped[2]["events"][0];
    assert_eq!((&event["topic"], &event["message_id"]), (&"orders".into(), &"m0".into()));
    assert_eq!(event["payload_bytes"], 9);
    let (_, some) = objects(&["dump", "--partition", &number, "--from", "4", "--to", "6"], &dir);
    assert_eq!(some[..], dumped[3..6]);
    let (_, text) = log(&["dump", "--partition", &number, "--from", "3", "--to", "3"], &dir);
    assert!(text.contains("index 3  term 1  publish  offset 0  20"), "{text}");
    assert!(text.contains("offset 0  m0  orders (topic 0)  due 20"), "{text}");
    assert_eq!(files(&dir), before, "nothing was changed");
}

#[tokio::test]
async fn a_flipped_bit_is_told_exactly() {
    let place = place();
    let dir = place.path().join("data");
    let partition = stopped_node(&Setup::new(&dir)).await;
    let entry = flip(&dir, "m12");
    let index = entry["index"].as_u64().expect("a number");

    let (code, found) = objects(&["verify"], &dir);
    assert_eq!(code, 2);
    let one = found.iter().find(|f| f["partition"] == partition).expect("of each");
    assert_eq!((&one["condition"], &one["events"]), (&"rot".into(), &12.into()));
    let lost = &one["rot"]["lost"];
    assert_eq!(lost.as_array().map(Vec::len), Some(1));
    for (what, expected) in [
        ("first_index", index),
        ("last_index", index),
        ("first_offset", 12),
        ("last_offset", 12),
        ("events", 1),
    ] {
        assert_eq!(lost[0][what], expected, "{what}");
    }
    let end = entry["byte"].as_u64().expect("a byte") + entry["bytes"].as_u64().expect("bytes");
    assert_eq!(lost[0]["from"]["byte"], entry["byte"]);
    assert!(lost[0]["to"]["byte"].as_u64() >= Some(end), "{lost}");
    assert_eq!(one["rot"]["readable_behind"][0]["first_offset"], 13);
    assert_eq!(one["rot"]["readable_behind"][0]["events"], 7);
    let (code, text) = log(&["verify"], &dir);
    let sentence = format!("lost: entry {index}, offset 12, bytes ");
    assert!(code == 2 && text.contains("DAMAGED") && text.contains(&sentence), "{text}");
    let (code, dumped) = objects(&["dump", "--partition", &partition.to_string()], &dir);
    assert_eq!(code, 2);
    assert!(dumped.iter().any(|line| line["lost"]["first_index"] == index));
    let behind = dumped.iter().filter(|line| line["behind_damage"] == true);
    assert!(behind.count() >= 7, "it goes on behind");
}

#[tokio::test]
async fn a_repair_waits_for_the_operators_word() {
    let place = place();
    let dir = place.path().join("data");
    let setup = Setup::new(&dir);
    let partition = stopped_node(&setup).await;
    flip(&dir, "m12");
    // A server only reads the partition.
    let server = setup.start();
    assert_eq!(damaged(&server).await, [partition]);
    let said = format!("partition {partition} can only be read: ");
    until("the damage in the log", || server.log().contains(&said).then_some(()));
    let client = server.client().await;
    assert_eq!(replayed(&client).await, ids(0..12));
    let event = Event::new("orders", "new", "x").with_key("k");
    client.publish(event).await.expect_err("it is read-only");
    server.stop();

    let before = files(&dir);
    let (code, text) = log(&["repair"], &dir);
    assert!(code == 2 && text.contains("nothing was changed") && text.contains("--yes"), "{text}");
    assert_eq!(files(&dir), before, "nothing was changed");
}

#[tokio::test]
async fn a_repair_cuts_the_log_and_keeps_what_it_cuts() {
    let place = place();
    let dir = place.path().join("data");
    let setup = Setup::new(&dir);
    let partition = stopped_node(&setup).await;
    let entry = flip(&dir, "m12");
    let before = files(&dir);
    let salvage = place.path().join("behind.jsonl");
    let salvage = salvage.to_str().expect("text");
    let (code, text) = log(&["repair", "--yes", "--salvage", salvage], &dir);
    assert_eq!(code, 0, "{text}");
    let last = entry["index"].as_u64().expect("a number") - 1;
    assert!(text.contains(&format!("the log is cut behind entry {last}; ")), "{text}");
    let kept = dir.join(format!("lost/p-{partition:05}.1"));
    assert!(text.contains(kept.to_str().expect("text")), "{text}");
    let path = segment(&dir, &entry);
    let name = path.file_name().expect("a name");
    assert_eq!(std::fs::read(kept.join(name)).expect("kept"), before[&path]);
    let lines = std::fs::read_to_string(salvage).expect("written");
    let salvaged: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<_> = salvaged.iter().map(|event| event["message_id"].clone()).collect();
    assert_eq!(names, ids(13..20).into_iter().map(Value::from).collect::<Vec<_>>());
    assert!(salvaged.iter().all(|e| e["topic"] == "orders" && e["meta"]["partition_key"] == "k"));
    assert_eq!(log(&["verify"], &dir).0, 0);

    // It serves again: what was before the damage is there, what comes goes on behind it.
    let server = setup.start();
    assert!(damaged(&server).await.is_empty());
    let client = server.client().await;
    assert_eq!(replayed(&client).await, ids(0..12));
    publish(&client, 12..15).await;
    publish(&client, 3..4).await; // Known from before the damage.
    assert_eq!(replayed(&client).await, ids(0..15));
    server.kill();
    let server = setup.start();
    assert_eq!(replayed(&server.client().await).await, ids(0..15));
    server.stop();
}

#[tokio::test]
async fn a_torn_end_is_no_damage() {
    let place = place();
    let dir = place.path().join("data");
    let setup = Setup::new(&dir);
    let partition = stopped_node(&setup).await;
    // A write that did not get through: a head without its body, behind the last entry.
    let (_, dumped) = objects(&["dump", "--partition", &partition.to_string()], &dir);
    let last = dumped.last().expect("entries");
    let path = segment(&dir, last);
    let mut bytes = std::fs::read(&path).expect("readable");
    let from = last["byte"].as_u64().expect("a byte") as usize;
    let end = from + last["bytes"].as_u64().expect("bytes") as usize;
    bytes.copy_within(from..from + 96, end);
    std::fs::write(&path, bytes).expect("writable");
    let (code, found) = objects(&["verify"], &dir);
    let one = found.iter().find(|f| f["partition"] == partition).expect("of each");
    assert_eq!((code, &one["condition"], &one["torn_bytes"]), (0, &"torn".into(), &96.into()));
    let (_, text) = log(&["verify"], &dir);
    assert!(text.contains("nothing acknowledged is lost"), "{text}");
    let (code, text) = log(&["repair", "--yes"], &dir);
    assert_eq!((code, text.as_str()), (0, "nothing to repair\n"));
    let server = setup.start();
    assert_eq!(replayed(&server.client().await).await, ids(0..20));
    server.stop();
    assert_eq!(objects(&["verify"], &dir).1[4]["torn"], 0);
}

#[tokio::test]
async fn a_lost_segment_file_makes_the_partition_read_only() {
    let place = place();
    let dir = place.path().join("data");
    let setup = Setup::new(&dir);
    let partition = stopped_node(&setup).await;
    setup.start().stop(); // From here on the hard state knows what is committed.
    let path = dir.join(format!("p-{partition:05}/00000000000000000001.seg"));
    std::fs::remove_file(path).expect("there");
    let (code, text) = log(&["verify"], &dir);
    assert!(code == 2 && text.contains("the file is missing"), "{text}");
    let server = setup.start();
    assert_eq!(damaged(&server).await, [partition]);
    server.stop();
    let (code, text) = log(&["repair", "--yes"], &dir);
    assert!(code == 0 && text.contains("begins anew, at offset 0"), "{text}");
    let server = setup.start();
    let client = server.client().await;
    publish(&client, 0..3).await;
    assert_eq!(replayed(&client).await, ids(0..3));
    server.stop();
}

#[test]
fn what_is_no_stopped_node_is_refused() {
    let place = place();
    let dir = place.path().join("data");
    let refusal = |dir: &Path| {
        let dir = dir.to_str().expect("text");
        let all =
            ["verify", "dump", "repair"].map(|command| refused(program(&["log", command, dir])));
        assert!(all.iter().all(|why| *why == all[0]), "{all:?}");
        all[0].clone()
    };
    let why = refusal(&dir);
    assert!(why.contains("is no data directory") && why.contains("--data-dir"), "{why}");
    assert!(!dir.exists(), "nothing is made");
    std::fs::create_dir(&dir).expect("new");
    std::fs::write(dir.join("letter.txt"), "x").expect("writable");
    assert!(refusal(&dir).contains("holds no chronosdb.toml"));
    std::fs::remove_file(dir.join("letter.txt")).expect("there");

    let setup = Setup::new(&dir);
    let server = setup.start();
    let why = refusal(&dir);
    assert!(why.contains("in use by another process; stop the server first"), "{why}");
    server.stop();
    assert_eq!(log(&["verify"], &dir).0, 0);
    let why = refused(program(&["log", "verify", "--partition", "4", dir.to_str().expect("text")]));
    assert!(why.contains("partitions 0 to 3"), "{why}");
    // A slip of the fingers is no damage.
    let output = program(&["log", "verify", "--wrong"]).output().expect("the program is built");
    assert_eq!(output.status.code(), Some(1));
}
