//! `--reserve-memory`: taken before anything is served, and still there after load.

use chronosdb::client::Event;

use crate::server::{Setup, place};

const MIB: u64 = 1 << 20;
/// Much more than a server of these tests needs.
const RESERVED: u64 = 192 * MIB;

#[tokio::test]
async fn memory_is_taken_before_serving_and_used() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let plain = setup.start();
    let needed = plain.status_number("VmRSS") * 1024;
    plain.stop();
    let server = setup.with("--reserve-memory", RESERVED).start();
    let before = server.status_number("VmRSS") * 1024;
    assert!(needed < RESERVED && before > RESERVED, "{needed} and {before} bytes");
    let client = server.client().await;
    // 100 MiB of payloads, of which little is left at last.
    for batch in 0..100 {
        let payload = vec![b'x'; 1_000];
        let event = |n| Event::new("t", format!("{batch}-{n}"), payload.clone());
        assert!(
            client.publish_batch((0..1_000).map(event).collect()).await.iter().all(Result::is_ok)
        );
    }
    let after = server.status_number("VmRSS") * 1024;
    println!("{} MiB plain, {} reserved, {} later", needed / MIB, before / MIB, after / MIB);
    assert!(after > RESERVED, "nothing is given back: {before}, then {after} bytes");
    assert!(after < before + RESERVED / 2, "what was taken is used: {before}, then {after} bytes");
    server.stop();
}

#[test]
fn more_than_there_is_is_refused_in_a_sentence() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let said = setup.with("--reserve-memory", "16TiB").refused();
    assert!(said.contains("--reserve-memory") && said.contains("are available"), "{said}");
}
