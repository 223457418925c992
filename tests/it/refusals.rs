//! What a server refuses to start on: a non-zero exit and one sentence that says what to do.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use chronosdb::client::Event;

use crate::server::{Setup, place, refused};

#[tokio::test]
async fn a_data_directory_in_use_is_refused_and_unharmed() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let first = setup.start();
    let why = setup.refused();
    assert!(why.contains("in use by another process") && why.contains("--data-dir"), "{why}");
    let client = first.client().await;
    client.publish(Event::new("t", "m", "x")).await.expect("the first one serves on");
    first.kill();
    // The lock goes with its process.
    assert_eq!(setup.start().recovered(), 1);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for flag in ["--grpc-addr", "--http-addr", "--native-addr"] {
        let why = setup.clone().with(flag, &address).refused();
        assert!(why.contains(&address) && why.contains(flag), "{flag}: {why}");
    }
    // Another server's ports too, although its shards share theirs.
    let server = setup.start();
    let other = Setup::new(&place.path().join("other"));
    for (flag, address) in [
        ("--grpc-addr", server.grpc),
        ("--http-addr", server.http),
        ("--native-addr", server.native),
    ] {
        let why = other.clone().with(flag, address).refused();
        assert!(why.contains(&address.to_string()) && why.contains(flag), "{flag}: {why}");
    }
    server.stop();
}

#[test]
fn a_changed_number_of_partitions_is_refused() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    setup.start().stop();
    let why = setup.clone().with("--partitions", 8).refused();
    assert!(why.contains("--partitions 4") && why.contains("fixed"), "{why}");
    setup.start().stop();
}

#[test]
fn a_newer_format_is_refused() {
    let place = place();
    let data = place.path().join("data");
    let setup = Setup::new(&data);
    setup.start().stop();
    let file = data.join("chronosdb.toml");
    let text = std::fs::read_to_string(&file).expect("written at the start");
    assert!(text.contains("format = 1"), "{text}");
    std::fs::write(&file, text.replace("format = 1", "format = 2")).expect("writable");
    let why = setup.refused();
    assert!(why.contains("format 2") && why.contains("run the version that wrote it"), "{why}");
}

#[test]
fn addresses_that_others_reach_need_insecure() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    for flag in ["--grpc-addr", "--http-addr", "--native-addr"] {
        let why = setup.clone().with(flag, ":0").refused();
        assert!(why.contains("--insecure") && why.contains(flag), "{flag}: {why}");
    }
    setup.with("--grpc-addr", ":0").with("--insecure", "on").start().stop();
}

#[tokio::test]
async fn a_file_system_without_direct_io_needs_the_operators_word() {
    let memory = Path::new("/dev/shm");
    let Ok(place) = tempfile::tempdir_in(memory) else {
        println!("skipped: there is no writable {}", memory.display());
        return;
    };
    let setup = Setup::new(&place.path().join("data"));
    let why = setup.refused();
    assert!(why.contains("direct I/O") && why.contains("--allow-buffered-io"), "{why}");

    let setup = setup.with("--allow-buffered-io", "on");
    let server = setup.start();
    assert!(server.log().contains("buffered I/O"), "a warning: {}", server.log());
    let client = server.client().await;
    let events = (0..500).map(|n| Event::new("t", format!("m{n}"), vec![9; 300])).collect();
    assert!(client.publish_batch(events).await.iter().all(Result::is_ok));
    server.kill();
    assert_eq!(setup.start().recovered(), 500);
}

/// A command that runs its arguments with 64 KiB of locked memory, if this can be had here.
fn little_locked_memory() -> Option<Command> {
    let mut command = Command::new("prlimit");
    command.arg("--memlock=65536:65536");
    if rustix::process::geteuid().is_root() {
        // The limit does not bind who may lock what it likes.
        command.args(["setpriv", "--bounding-set=-ipc_lock"]);
    }
    let mut probe = Command::new(command.get_program());
    probe.args(command.get_args()).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success()).then_some(command)
}

#[test]
fn too_little_locked_memory_is_told() {
    let Some(mut command) = little_locked_memory() else {
        println!("skipped: prlimit and setpriv can't lower the limit on locked memory here");
        return;
    };
    let place = place();
    let server = Setup::new(&place.path().join("data")).command();
    command.arg(server.get_program()).args(server.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let why = refused(command);
    assert!(why.contains("locked memory") && why.contains("ulimit -l"), "{why}");
}

#[test]
fn bad_options_are_refused_before_anything_is_made() {
    let place = place();
    let data = place.path().join("data");
    for (flag, value) in [
        ("--partitions", "0"),
        ("--shards", "0"),
        ("--segment-size", "1MiB"),
        ("--max-credits", "50001"),
        ("--grpc-addr", "nowhere"),
    ] {
        let why = Setup::new(&data).with(flag, value).refused();
        assert!(why.contains(flag), "{flag}: {why}");
        assert!(!data.exists(), "nothing is made");
    }
}
