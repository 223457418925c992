//! `chronosdb log` on what lies beside a log: hard state, checkpoints, runs of records, keys, ids.

use std::fs;
use std::path::{Path, PathBuf};

use chronosdb::base::time::wall_ms;
use chronosdb::client::Event;
use serde_json::Value;

use crate::log_tool::{files, log, objects};
use crate::server::{Setup, place};
use crate::wait::until;

const DAY_MS: u64 = 86_400_000;

/// A stopped node with one partition: runs of all kinds and two checkpoints that list them.
async fn stopped_node(dir: &Path) -> (Setup, PathBuf) {
    let setup = Setup::new(dir).with("--partitions", 1).with("--shards", 1);
    let setup = setup.with("--flush-size", "1MiB");
    let server = setup.start();
    let client = server.client().await;
    let home = dir.join("p-00000");
    for round in 0..2 {
        let due = wall_ms() + DAY_MS;
        let event = |n: u64| {
            let due = if n.is_multiple_of(4) { due + n } else { wall_ms() };
            let id = format!("r{round}-{n}");
            Event::new("orders", id, vec![b'x'; 16 << 10]).with_key("k").at_ms(due)
        };
        for result in client.publish_batch((0..200).map(event).collect()).await {
            result.expect("stored");
        }
        until("another checkpoint", || {
            (named(&home, "checkpoint").len() > round && of_each_kind(&home).is_some())
                .then_some(())
        });
    }
    server.stop();
    (setup, home)
}

/// Files of a partition with this ending, oldest first.
fn named(home: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home).expect("readable").map(|entry| entry.expect("one").path());
    let mut found: Vec<_> =
        entries.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    found.sort();
    found
}

/// A run of records, of keys and of ids, if there is one of each.
fn of_each_kind(home: &Path) -> Option<[PathBuf; 3]> {
    let runs = named(home, "run");
    let of = |magic: &[u8], kind: Option<u8>| {
        let is = |path: &&PathBuf| {
            let bytes = fs::read(path).unwrap_or_default();
            bytes.starts_with(magic) && kind.is_none_or(|kind| bytes[7] == kind)
        };
        runs.iter().find(is).cloned()
    };
    Some([of(b"CDBr", Some(1))?, of(b"CDBr", Some(2))?, of(b"CDBd", None)?])
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[at] ^= 4;
    fs::write(path, bytes).expect("writable");
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// What verify says of the one partition, with its exit code.
fn verified(dir: &Path) -> (i32, Value) {
    let (code, found) = objects(&["verify"], dir);
    assert_eq!(found.len(), 2, "a partition and a summary");
    assert_eq!(found[1]["damaged"], u8::from(code == 2));
    (code, found[0].clone())
}

#[tokio::test]
async fn an_intact_directory_passes_and_a_flipped_bit_is_named_in_each_kind_of_file() {
    let place = place();
    let dir = place.path().join("data");
    let (setup, home) = stopped_node(&dir).await;
    let before = files(&dir);
    let (code, found) = verified(&dir);
    assert_eq!(code, 0, "{found}");
    assert_eq!(
        (&found["condition"], &found["beside"]["damaged"]),
        (&"sound".into(), &Value::Array(vec![]))
    );
    assert_eq!(found["beside"]["checkpoints"], 2);
    assert_eq!(found["beside"]["runs"], named(&home, "run").len());
    let read: u64 = before
        .iter()
        .filter(|(path, _)| path.starts_with(&home))
        .map(|(_, b)| b.len() as u64)
        .sum();
    let (_, all) = objects(&["verify"], &dir);
    assert_eq!(all[1]["bytes"], read, "all files are read");

    let [carried, keys, ids] = of_each_kind(&home).expect("there");
    let checkpoint = named(&home, "checkpoint").pop().expect("two");
    let state = home.join("replica.state");
    let last = |path: &Path| fs::metadata(path).expect("there").len() as usize - 4_096;
    let cases = [
        (&carried, 40, "due run", "header", "time"),
        (&carried, 4_096 + 300, "due run", "block 0", "time"),
        (&carried, last(&carried) - 4_000, "due run", "directory", "time"),
        (&carried, last(&carried) + 40, "due run", "footer", "time"),
        (&keys, 4_096 + 200, "due index", "block 0", "time"),
        (&ids, 4_096 + 100, "run of ids", "block 1", "time"),
        (&ids, 100, "run of ids", "block 0", "time"),
        (&ids, last(&ids) + 80, "run of ids", "block", "time"),
        (&checkpoint, 100, "checkpoint", "file", "none"),
        (&state, 30, "hard state", "slot 0", "none"),
        (&state, 4_096 + 30, "hard state", "slot 1", "none"),
    ];
    for (path, at, what, part, cost) in cases {
        let intact = fs::read(path).expect("readable");
        flip(path, at);
        let (code, found) = verified(&dir);
        let damaged = &found["beside"]["damaged"];
        let case = format!("{what}, byte {at}: {damaged}");
        assert_eq!((code, damaged.as_array().map(Vec::len)), (2, Some(1)), "{case}");
        assert_eq!(damaged[0]["file"], name(path).as_str(), "{case}");
        assert_eq!(
            (&damaged[0]["what"], &damaged[0]["cost"]),
            (&what.into(), &cost.into()),
            "{case}"
        );
        let told = damaged[0]["parts"][0]["part"].as_str().expect("text");
        assert!(told.starts_with(part), "{case}");
        let (_, text) = log(&["verify"], &dir);
        let sentence = format!("DAMAGED: {} ({what}", name(path));
        assert!(text.contains(&sentence) && text.contains("1 damaged"), "{case}: {text}");
        fs::write(path, intact).expect("writable");
    }
    assert_eq!(files(&dir), before, "nothing was changed");
    setup.start().stop();
    assert_eq!(verified(&dir).0, 0);
}

#[tokio::test]
async fn a_damaged_block_tells_its_events_and_a_repair_has_its_run_made_anew() {
    let place = place();
    let dir = place.path().join("data");
    let (setup, home) = stopped_node(&dir).await;
    let [carried, ..] = of_each_kind(&home).expect("there");
    flip(&carried, 4_096 + 300);
    let before = files(&dir);
    let (_, found) = verified(&dir);
    let part = &found["beside"]["damaged"][0]["parts"][0];
    assert!(part["records"].as_u64() >= Some(1), "{part}");
    assert_eq!((&part["from"], &part["topics"][0]["topic"]), (&4_096.into(), &"orders".into()));
    let due = |which: &str| part["topics"][0][which].as_u64().expect("a time");
    assert!(due("first_due") <= due("last_due") && due("first_due") > wall_ms(), "{part}");

    let (code, text) = log(&["repair"], &dir);
    assert!(code == 2 && text.contains("would make the runs anew"), "{text}");
    assert!(text.contains("nothing was changed"), "{text}");
    assert_eq!(files(&dir), before, "nothing was changed");
    let (code, text) = log(&["repair", "--yes"], &dir);
    assert!(code == 0 && text.contains("makes the runs anew"), "{text}");
    assert!(carried.exists(), "the next start removes it");
    assert_eq!(verified(&dir).0, 0);

    let server = setup.start();
    let client = server.client().await;
    let partitions = client.partitions().await.expect("it serves");
    assert!(!partitions[0].read_only && partitions[0].high_watermark == 400, "{partitions:?}");
    server.stop();
    assert_eq!(verified(&dir).0, 0);
}

#[tokio::test]
async fn what_is_missing_is_named_and_what_a_crash_left_is_no_damage() {
    let place = place();
    let dir = place.path().join("data");
    let (_, home) = stopped_node(&dir).await;
    // A job that did not come to its end, and a checkpoint that was being written.
    fs::write(home.join("00000000000000009999.run"), [7; 100]).expect("writable");
    fs::write(home.join("00000000000000009999.checkpoint.new"), "half").expect("writable");
    let (code, found) = verified(&dir);
    assert_eq!((code, &found["beside"]["left_over"]), (0, &1.into()), "{found}");
    let [carried, ..] = of_each_kind(&home).expect("there");
    fs::remove_file(&carried).expect("there");
    fs::remove_file(home.join("replica.state")).expect("there");
    let (code, found) = verified(&dir);
    let damaged = found["beside"]["damaged"].as_array().expect("a list");
    let names: Vec<_> = damaged.iter().map(|file| file["file"].clone()).collect();
    assert_eq!((code, names), (2, vec!["replica.state".into(), name(&carried).into()]));
    assert!(damaged.iter().all(|file| file["parts"][0]["fault"] == "it is missing"), "{found}");
}
