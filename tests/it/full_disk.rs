//! A disk that is really full: publishes are refused before anything is written, verdicts go on out
//! of the reserve, and when there is space everything goes on by itself.
//!
//! The disk is a small one in memory that only the server sees: it is mounted in a namespace of its
//! own, and reached from here through `/proc/<pid>/root`. Where that is not allowed the test says
//! so and does nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chronosdb::base::error::ErrorCode;
use chronosdb::base::ids::Offset;
use chronosdb::client::{
    Client, ClientError, Event, ReplayOptions, ReplayRange, SubscribeOptions, Subscription,
};

use crate::http;
use crate::server::{Server, Setup, place, serving};
use crate::wait::{for_the, until};

const MIB: u64 = 1 << 20;
/// The reserve is an eighth of it, 24 MiB, and an eighth of that is a file.
const DISK: u64 = 192 * MIB;
/// So many dead letters with so long a reason take more than the logs are filled ahead.
const EVENTS: usize = 8_000;
const REASON: usize = 1_000;

/// A command as it is, but in a namespace of its own that has the disk at `at`.
fn on_a_small_disk(command: &Command, at: &Path) -> Command {
    let script =
        format!("mount -t tmpfs -o size={DISK} tmpfs \"$1\" || exit 1; shift; exec \"$@\"");
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]).arg(at);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    wrapped
}

/// What keeps this machine from having such a disk.
fn obstacle(at: &Path) -> Option<String> {
    match on_a_small_disk(&Command::new("true"), at).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

struct Disk {
    at: PathBuf,
}

impl Disk {
    fn of(server: &Server, at: &Path) -> Self {
        let inside = at.strip_prefix("/").expect("an absolute path");
        Self { at: PathBuf::from(format!("/proc/{}/root", server.id())).join(inside) }
    }

    /// Another program takes all that is left.
    fn fill(&self) {
        let mut filler = File::create(self.at.join("filler")).expect("there is room for a name");
        for size in [MIB as usize, 4096] {
            while filler.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.at.join("filler")).expect("it was made here");
    }

    /// Bytes of the reserve's file.
    fn reserve(&self) -> u64 {
        std::fs::metadata(self.at.join("data/reserve")).map_or(0, |about| about.len())
    }
}

/// Publishes until one comes to the end that is waited for; returns who was refused before.
async fn publish_until(client: &Client, stem: &str, stored: bool) -> Vec<String> {
    let mut refused = Vec::new();
    let publishes = async {
        for number in 0.. {
            let id = format!("{stem}-{number}");
            match client.publish(Event::new("t", id.as_str(), "x")).await {
                Ok(_) if stored => return,
                Ok(_) => {}
                Err(ClientError::Refused(error)) => {
                    assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error}");
                    assert!(error.text.contains("the disk is full: "), "{error}");
                    refused.push(id);
                    if !stored {
                        return;
                    }
                }
                Err(error) => panic!("{id}: {error:?}"),
            }
        }
    };
    for_the("end of publishing", publishes).await;
    refused
}

async fn nack_all(subscription: &mut Subscription, count: usize) {
    let reason = "r".repeat(REASON);
    for _ in 0..count {
        let delivery = for_the("delivery", subscription.next()).await;
        let delivery = delivery.expect("endless").expect("a delivery");
        let nack = subscription.nack(&delivery, None, &reason);
        for_the("confirmation", nack).await.expect("a dead letter");
    }
}

async fn all_ids(client: &Client) -> BTreeSet<String> {
    let range = ReplayRange::Offsets { start: Offset(0), count: u64::from(u32::MAX) };
    let options = ReplayOptions { range, ..ReplayOptions::new("t") };
    let mut replay = client.replay(options).await.expect("it serves");
    let mut ids = BTreeSet::new();
    while let Some(replayed) = for_the("replay", replay.next()).await {
        ids.insert(replayed.expect("readable").event.message_id);
    }
    ids
}

#[tokio::test]
async fn publishes_are_refused_and_verdicts_go_on_until_there_is_space() {
    let place = place();
    let at = place.path().join("disk");
    std::fs::create_dir(&at).expect("new");
    if let Some(obstacle) = obstacle(&at) {
        println!("skipped: no disk in a namespace of its own: {obstacle}");
        return;
    }
    let setup = Setup::new(&at.join("data")).with("--partitions", 2).with("--max-retries", 0);
    let setup = setup.with("--allow-buffered-io", "on");
    let server = serving(on_a_small_disk(&setup.command(), &at));
    let disk = Disk::of(&server, &at);
    let reserve = disk.reserve();
    assert_eq!(reserve, DISK / 64, "made at the start: {}", server.log());
    let client = server.client().await;
    for batch in 0..EVENTS / 1_000 {
        let events = (0..1_000).map(|n| Event::new("t", format!("early-{batch}-{n}"), "x"));
        assert!(client.publish_batch(events.collect()).await.iter().all(Result::is_ok));
    }
    let mut subscription =
        client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
    nack_all(&mut subscription, 10).await;

    disk.fill();
    let refused = publish_until(&client, "full", false).await;
    // Until the room that was there is used up, and then some.
    let mut dead = 10;
    while disk.reserve() == reserve {
        nack_all(&mut subscription, 10).await;
        dead += 10;
    }
    nack_all(&mut subscription, 200).await;
    dead += 200;
    println!("{dead} dead letters, {} of {reserve} bytes of the reserve left", disk.reserve());
    // Each shard looks once a second.
    until("the metrics of a full disk", || {
        let page = http::get(server.http, "/metrics");
        let full = page.sum("cronos_disk_free_bytes") < (24 * MIB) as f64
            && page.sum("cronos_disk_space_low") >= 2.0;
        (full && page.sum("cronos_disk_full_rejected_total") >= 1.0).then_some(())
    });
    let still = publish_until(&client, "still", false).await;

    disk.empty();
    let again = publish_until(&client, "again", true).await;
    until("the reserve", || (disk.reserve() == reserve).then_some(()));
    let ids = all_ids(&client).await;
    assert!(ids.len() > EVENTS, "all that was acknowledged: {}", ids.len());
    for id in refused.iter().chain(&still).chain(&again) {
        assert!(!ids.contains(id), "{id} was refused, and is there");
    }
    let counted = http::get(server.http, "/metrics").sum("cronos_dead_letters_total");
    assert_eq!(counted as usize, dead, "each once");
    server.stop();
}
