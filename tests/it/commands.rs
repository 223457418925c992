//! The commands of the program, as a user types them.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::server::{Server, Setup, place, program, refused};
use crate::wait::until;

/// Runs a command against a server to its end.
fn run(server: &Server, arguments: &[&str]) -> Output {
    let address = server.native.to_string();
    let mut command: Command = program(arguments);
    command.args(["--addr", &address]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program is built");
    let mut child = Some(child);
    until("the end of the command", || {
        let ended = child.as_mut()?.try_wait().expect("it is our child").is_some();
        ended.then(|| child.take().expect("once").wait_with_output().expect("readable"))
    })
}

/// What it printed; it has to be successful.
fn printed(server: &Server, arguments: &[&str]) -> String {
    let output = run(server, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// What it printed, as one JSON object a line.
fn objects(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let lines = printed(server, arguments);
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn publish_subscribe_replay_and_partitions() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();

    // Before the group exists, and with a delay.
    let text = printed(&server, &["publish", "--topic", "orders", "--at", "+1s", "hello"]);
    assert!(text.starts_with("published: "), "{text}");
    let published = objects(
        &server,
        &[
            "publish", "--topic", "orders", "--id", "order-2", "--key", "k", "--meta", "a=b",
            "--json", "second",
        ],
    );
    assert_eq!(
        (&published[0]["message_id"], &published[0]["duplicate"]),
        (&"order-2".into(), &false.into())
    );
    let again = objects(
        &server,
        &["publish", "--topic", "orders", "--id", "order-2", "--json", "--key", "k", "x"],
    );
    assert_eq!(again[0]["duplicate"], true);
    for same in ["partition", "offset", "schedule_ts"] {
        assert_eq!(again[0][same], published[0][same], "{same} of the original");
    }

    let subscribe = ["subscribe", "--topic", "orders", "--group", "g", "--json", "--count", "2"];
    // Not acknowledged: they come again, to the same group.
    let peeked = objects(&server, &[&subscribe[..], &["--no-ack"]].concat());
    let mut seen = objects(&server, &subscribe);
    assert_eq!(peeked.len(), 2);
    seen.sort_by_key(|event| event["payload"].to_string());
    assert_eq!((&seen[0]["payload"], &seen[1]["payload"]), (&"hello".into(), &"second".into()));
    assert_eq!(seen[1]["meta"]["a"], "b");
    assert_eq!(seen[1]["offset"], published[0]["offset"]);
    assert!(seen.iter().all(|event| event["topic"] == "orders"));
    // Acknowledged: the group gets only what comes now.
    printed(&server, &["publish", "--topic", "orders", "third"]);
    let third = ["subscribe", "--topic", "orders", "--group", "g", "--count", "1"];
    assert!(printed(&server, &third).contains("third"));

    let replayed = objects(&server, &["replay", "--topic", "orders", "--json"]);
    assert_eq!(replayed.len(), 3);
    let count = printed(&server, &["publish", "--topic", "many", "--count", "2500", "x"]);
    assert!(count.contains("2500 events published, 0 duplicates, 0 failed"), "{count}");
    let table = printed(&server, &["partitions"]);
    assert!(table.lines().count() >= 4, "{table}");
    server.stop();
}

#[test]
fn failures_are_one_sentence() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let address = server.native.to_string();
    let long = "i".repeat(129);
    let why =
        refused(program(&["publish", "--topic", "t", "--id", &long, "--addr", &address, "x"]));
    assert!(why.contains("message_id"), "{why}");
    let http = server.http.to_string();
    let why = refused(program(&["publish", "--topic", "t", "--addr", &http, "x"]));
    assert!(why.contains("native protocol"), "{why}");
    server.stop();
    let why = refused(program(&["publish", "--topic", "t", "--addr", &address, "x"]));
    assert!(why.contains("no server listens") && why.contains("chronosdb serve"), "{why}");
}

#[test]
fn a_topic_is_kept_as_was_said_over_restarts() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let topic = |server: &Server, arguments: &[&str]| {
        let http = server.http.to_string();
        let output = program(&["topic", "späte Post/1", "--http-addr", &http])
            .args(arguments)
            .output()
            .expect("the program is built");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    };
    let server = setup.start();
    assert!(topic(&server, &[]).contains("as the server says"));
    let set = topic(&server, &["--retention", "90d"]);
    assert_eq!(set, "späte Post/1 is kept for 90d beyond its time\n");
    server.kill();
    let server = setup.start();
    let shown: Value = serde_json::from_str(&topic(&server, &["--json"])).expect("JSON");
    assert_eq!(shown["retention_ms"], 90 * 86_400_000_u64);
    assert!(topic(&server, &["--retention", "forever"]).contains("for ever"));
    assert!(topic(&server, &["--retention", "default"]).contains("as the server says"));

    // A shorter one hides at once; what is pending is not past.
    let native = server.native.to_string();
    for at in ["2020-01-01T00:00:00Z", "+1h"] {
        let publish = ["publish", "--topic", "späte Post/1", "--at", at, "--addr", &native, "x"];
        assert!(program(&publish).output().expect("built").status.success());
    }
    let replay = ["replay", "--topic", "späte Post/1", "--json"];
    assert_eq!(objects(&server, &replay).len(), 1);
    topic(&server, &["--retention", "1ms"]);
    until("the event to be hidden", || objects(&server, &replay).is_empty().then_some(()));
    let pending = objects(&server, &["partitions", "--json"]);
    assert_eq!(pending.iter().filter_map(|p| p["pending"].as_u64()).sum::<u64>(), 1);

    let http = server.http.to_string();
    let wrong = program(&["topic", "t", "--retention", "0s"]).output().expect("built");
    let why = String::from_utf8_lossy(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && why.contains("longer than nothing"), "{why}");
    server.stop();
    let why = refused(program(&["topic", "t", "--http-addr", &http]));
    assert!(why.contains("no server listens") && why.contains("--http-addr"), "{why}");
}
