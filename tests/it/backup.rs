//! `chronosdb backup` and `chronosdb restore`: a copy of a server that works has everything that
//! was answered before, and nothing that is damaged becomes a data directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use chronosdb::base::time;
use chronosdb::client::{Client, Event, Published, ReplayOptions, SubscribeOptions};
use serde_json::Value;

use crate::chance::Chance;
use crate::horizon;
use crate::kill_rounds::{check_all, check_restart};
use crate::ledger::{Fate, SharedLedger};
use crate::load::Load;
use crate::server::{Server, Setup, place, program, refused};
use crate::wait::{for_the, until};

/// `chronosdb backup` of a directory; `server` is the one that serves it.
fn backup(setup: &Setup, server: Option<&Server>, dir: &Path) -> Command {
    let mut command = program(&["backup"]);
    command.arg(dir).arg("--data-dir").arg(setup.data()).arg("--json");
    if let Some(server) = server {
        command.arg("--http-addr").arg(server.http.to_string());
    }
    command
}

fn restore(dir: &Path, data: &Path) -> Command {
    let mut command = program(&["restore"]);
    command.arg(dir).arg("--data-dir").arg(data).arg("--json");
    command
}

/// Runs a command that must succeed; the object it prints.
async fn done(mut command: Command) -> Value {
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ran.expect("no panic").expect("the program is built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Lines of a manifest.
fn manifest(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("manifest.jsonl")).expect("complete");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Files of a backup whose names end so.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let all = manifest(dir);
    let names = all.iter().filter_map(|line| line["file"].as_str());
    names.filter(|name| name.ends_with(ending)).map(|name| dir.join(name)).collect()
}

/// The logs of a backup are whole: nothing in them is damaged, nothing even torn.
async fn check_log(dir: &Path) {
    let mut command = program(&["log", "verify", "--json"]);
    command.arg(dir);
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ran.expect("no panic").expect("the program is built");
    let printed = String::from_utf8(output.stdout).expect("text");
    let last = printed.lines().last().expect("a summary");
    let sums: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!((&sums["damaged"], &sums["torn"]), (&0.into(), &0.into()), "{printed}");
}

/// The directory of another server with the same options.
fn beside(setup: &Setup, name: &str) -> Setup {
    setup.at(&setup.data().with_file_name(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_under_load_is_copied_with_all_it_has_answered() {
    let mut chance = Chance::from_environment("CHRONOSDB_BACKUP_SEED");
    let place = place();
    let setup = Setup::new(&place.path().join("data"))
        .with("--segment-size", "32MiB")
        .with("--horizon", "1s")
        .with("--flush-size", "1MiB")
        .with("--max-retries", 1_000);
    let server = setup.start();
    let ledger = SharedLedger::new();
    let load = Load::start(&server, 0, &ledger, &mut chance).await;
    let mut taken = Vec::new();
    for (round, rate) in ["0", "8MiB", "32MiB"].into_iter().enumerate() {
        for_the("progress of the load", ledger.progressed(1_000 + chance.below(3_000))).await;
        let before = ledger.lock().events.clone();
        let dir = place.path().join(format!("backup-{round}"));
        let mut command = backup(&setup, Some(&server), &dir);
        command.args(["--rate", rate]);
        let made = done(command).await;
        assert_eq!((&made["server"], &made["partitions"]), (&"running".into(), &4.into()));
        check_log(&dir).await;
        taken.push((dir, before));
    }
    for_the("more of the load", ledger.progressed(500)).await;
    server.kill();
    load.stop().await;

    for (round, (dir, before)) in taken.iter().enumerate() {
        let other = beside(&setup, &format!("restored-{round}"));
        done(restore(dir, other.data())).await;
        let server = other.start();
        let known = ledger.restored(before);
        let stored = before.values().filter(|known| matches!(known.fate, Fate::Stored(_))).count();
        assert!(stored > 0, "something was acknowledged before the backup");
        check_restart(&server, &known, &mut chance).await;
        if round == taken.len() - 1 {
            check_all(&server, &known, &mut chance).await;
        }
        server.stop();
    }
}

/// Publishes events with these numbers.
async fn publish(client: &Client, numbers: std::ops::Range<u64>) -> Vec<Published> {
    let event = |n| Event::new("orders", format!("m{n}"), format!("payload {n}")).at_ms(1_000 + n);
    let results = client.publish_batch(numbers.map(event).collect()).await;
    results.into_iter().map(|result| result.expect("stored")).collect()
}

/// Ids, payloads and places of all events.
async fn replayed(client: &Client) -> BTreeSet<(i32, i64, String, Vec<u8>)> {
    let mut history = client.replay(ReplayOptions::new("orders")).await.expect("it serves");
    let mut events = BTreeSet::new();
    while let Some(next) = for_the("next event", history.next()).await {
        let event = next.expect("an event").event;
        let row = (event.partition_id, event.offset, event.message_id, event.payload.to_vec());
        assert!(events.insert(row), "each comes once");
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_ids_are_where_they_were() {
    for mode in ["batch", "periodic"] {
        let place = place();
        let setup = Setup::new(&place.path().join("data")).with("--fsync-mode", mode);
        let server = setup.start();
        let client = server.client().await;
        let placed = publish(&client, 0..100).await;
        let options = SubscribeOptions::new("orders", "g");
        let mut subscription = client.subscribe(options.clone()).await.expect("it serves");
        let mut pending: BTreeSet<String> = (0..100).map(|n| format!("m{n}")).collect();
        let mut later = Vec::new();
        for n in 0..60 {
            let next = for_the("delivery", subscription.next()).await;
            let delivery = next.expect("endless").expect("a delivery");
            if n < 40 {
                subscription.ack(&delivery).await.expect("confirmed");
                assert!(pending.remove(&delivery.event.message_id), "each comes once");
            } else {
                later.push(delivery);
            }
        }
        let events = replayed(&client).await;
        let dir = place.path().join("backup");
        done(backup(&setup, Some(&server), &dir)).await;
        // What comes after it is not in it.
        for delivery in &later {
            subscription.ack(delivery).await.expect("confirmed");
        }
        publish(&client, 100..120).await;
        server.stop();

        let other = beside(&setup, "restored");
        let made = done(restore(&dir, other.data())).await;
        assert_eq!(made["data_dir"], other.data().to_str().expect("text"));
        let server = other.start();
        assert_eq!(server.recovered(), 100);
        let client = server.client().await;
        assert_eq!(replayed(&client).await, events, "every event, where it was");
        let mut subscription = client.subscribe(options).await.expect("it serves");
        while !pending.is_empty() {
            let next = for_the("delivery", subscription.next()).await;
            let delivery = next.expect("endless").expect("a delivery");
            let id = &delivery.event.message_id;
            assert!(pending.remove(id), "{id} was acknowledged, or comes twice");
            subscription.ack(&delivery).await.expect("confirmed");
        }
        let again = publish(&client, 0..100).await;
        for (first, again) in placed.iter().zip(&again) {
            assert!(again.duplicate && !first.duplicate);
            assert_eq!((first.partition, first.offset), (again.partition, again.offset));
        }
        assert!(publish(&client, 100..120).await.iter().all(|placed| !placed.duplicate));
        server.kill();
        assert_eq!(other.start().recovered(), 120, "it goes on like any other");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn far_events_in_runs_come_in_their_time() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"))
        .with("--partitions", 1)
        .with("--shards", 1)
        .with("--horizon", "1s")
        .with("--flush-size", "1MiB");
    let server = setup.start();
    let client = server.client().await;
    horizon::publish(&client, time::wall_ms() + 8_000).await;
    let dir = place.path().join("backup");
    until("a run that a checkpoint lists", || {
        let on_disk = horizon::metric(&server, "cronos_scheduler_cold_store_entries");
        let files = std::fs::read_dir(setup.data().join("p-00000")).expect("a partition");
        let mut names = files.map(|entry| entry.expect("an entry").path());
        let saved = names.any(|path| path.extension().is_some_and(|found| found == "checkpoint"));
        (on_disk > 0 && saved).then_some(())
    });
    done(backup(&setup, Some(&server), &dir)).await;
    assert!(!files(&dir, ".run").is_empty() && !files(&dir, ".checkpoint").is_empty());
    server.kill();
    let other = beside(&setup, "restored");
    done(restore(&dir, other.data())).await;
    let server = other.start();
    assert_eq!(server.recovered(), horizon::EVENTS);
    assert!(!server.log().contains("a checkpoint is not used"), "{}", server.log());
    horizon::consume(&server.client().await, "late").await;
    server.stop();
}

/// A stopped node with 20 events, and a backup of it.
async fn backed_up(place: &Path) -> (Setup, PathBuf) {
    let setup = Setup::new(&place.join("data"));
    let server = setup.start();
    publish(&server.client().await, 0..20).await;
    server.stop();
    let dir = place.join("backup");
    let made = done(backup(&setup, None, &dir)).await;
    assert_eq!((&made["server"], &made["files"]), (&"stopped".into(), &9.into()), "{made}");
    (setup, dir)
}

#[tokio::test]
async fn a_stopped_directory_needs_no_server() {
    let place = place();
    let (setup, dir) = backed_up(place.path()).await;
    let lines = manifest(&dir);
    assert_eq!((&lines[0]["chronosdb_backup"], &lines[0]["stopped"]), (&1.into(), &true.into()));
    let mut verify = program(&["restore", "--verify", "--json"]);
    verify.arg(&dir);
    assert_eq!(done(verify).await["files"], 9);
    // An empty directory is as good as none, and as the top of a new file system.
    let other = beside(&setup, "restored");
    std::fs::create_dir_all(other.data().join("lost+found")).expect("new");
    done(restore(&dir, other.data())).await;
    let server = other.start();
    assert_eq!(server.recovered(), 20);
    server.stop();
    for file in manifest(&dir).iter().filter_map(|line| line["file"].as_str()) {
        let same = std::fs::read(dir.join(file)).expect("there")
            == std::fs::read(setup.data().join(file)).expect("there");
        assert!(same, "{file} is as it was");
    }
    // The backup itself is not served.
    let why = setup.at(&dir).refused();
    assert!(why.contains("is a backup") && why.contains("chronosdb restore"), "{why}");
}

#[tokio::test]
async fn damage_is_found_before_anything_is_written() {
    let place = place();
    let (setup, dir) = backed_up(place.path()).await;
    let data = place.path().join("restored");
    let refusal = || {
        let why = refused(restore(&dir, &data));
        assert!(!data.exists(), "nothing is made: {why}");
        why
    };
    for name in ["p-00002/00000000000000000001.seg", "p-00001/replica.state", "chronosdb.toml"] {
        let path = dir.join(name);
        let sound = std::fs::read(&path).expect("there");
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 1;
        std::fs::write(&path, flipped).expect("writable");
        let why = refusal();
        assert!(why.contains(name) && why.contains("its checksum is"), "{why}");
        std::fs::write(&path, &sound[..sound.len() - 1]).expect("writable");
        let why = refusal();
        assert!(why.contains(name) && why.contains("bytes instead of"), "{why}");
        std::fs::remove_file(&path).expect("there");
        let why = refusal();
        assert!(why.contains(name) && why.contains("cannot open"), "{why}");
        std::fs::write(&path, sound).expect("writable");
    }
    let path = dir.join("manifest.jsonl");
    let sound = std::fs::read_to_string(&path).expect("there");
    std::fs::write(&path, sound.replacen(":1,", ":2,", 1)).expect("writable");
    let why = refusal();
    assert!(why.contains("manifest.jsonl has version 2") && why.contains("newer"), "{why}");
    std::fs::write(&path, sound.replacen("p-00001", "p-00003", 1)).expect("writable");
    assert!(refusal().contains("its checksum does not match"));
    // Interrupted: the manifest is what makes it a backup.
    std::fs::remove_file(&path).expect("there");
    let why = refusal();
    assert!(why.contains("interrupted") && why.contains("take another"), "{why}");
    let why = refused(restore(&place.path().join("nowhere"), &data));
    assert!(why.contains("there is no directory"), "{why}");
    std::fs::write(&path, sound).expect("writable");
    // Sound again.
    done(restore(&dir, &data)).await;
    setup.at(&data).start().stop();
}

#[tokio::test]
async fn what_is_there_is_never_written_over() {
    let place = place();
    let (setup, dir) = backed_up(place.path()).await;
    let why = refused(restore(&dir, setup.data()));
    assert!(why.contains("already"), "{why}");
    let why = refused(backup(&setup, None, &dir));
    assert!(why.contains("already"), "{why}");
    let server = setup.start();
    let why = refused(restore(&dir, setup.data()));
    assert!(why.contains("in use by another process"), "{why}");
    // A restore that was interrupted is damage to a server, and is not gone on with.
    let half = beside(&setup, "half");
    std::fs::create_dir_all(half.data().join("p-00000")).expect("new");
    let why = half.refused();
    assert!(why.contains("missing beside partitions") && why.contains("restore"), "{why}");
    let why = refused(restore(&dir, half.data()));
    assert!(why.contains("interrupted restore") && why.contains("remove it"), "{why}");

    // The server that is asked must be the one of the directory.
    let other = beside(&setup, "other").start();
    let target = place.path().join("second");
    let why = refused(backup(&setup, Some(&other), &target));
    assert!(why.contains("other, not") && why.contains("--http-addr"), "{why}");
    let mut command = backup(&setup, None, &target);
    command.args(["--http-addr", &server.native.to_string()]);
    let why = refused(command);
    assert!(why.contains("--http-addr") || why.contains("8080"), "{why}");
    other.stop();
    server.stop();
    let nowhere = setup.at(&place.path().join("nowhere"));
    let why = refused(backup(&nowhere, None, &target));
    assert!(why.contains("is no data directory"), "{why}");
    assert!(!target.exists(), "nothing is made");
}
