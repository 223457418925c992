//! Known-bad builds: the crate with one mistake put in on purpose, which a named test must catch.
//!
//! `CHRONOSDB_BUG=bug_floor_tick cargo test ...` sets `cfg(bug_floor_tick)` for this package alone
//! (RUSTFLAGS would rebuild every dependency with it). Unset or empty, the build is as if this file
//! were not there. `scripts/seeded-bugs.sh` builds each and runs its test.
//!
//! This is the one list: to add one, add a line here, its place in the code, and a line in the
//! script. `tests/tidy.rs` compares the three.

const VARIABLE: &str = "CHRONOSDB_BUG";

/// Every known-bad build, with what is wrong in it.
const BUGS: &[(&str, &str)] = &[
    ("bug_ack_joiners", "a publish that comes during a write is acknowledged by that write"),
    ("bug_backup_beyond_cut", "a backup copies what a server writes behind the cut as well"),
    ("bug_backup_without_gone", "a backup leaves out a file that has gone since the cut"),
    ("bug_checkpoint_ahead", "a checkpoint counts what a flush has begun to carry as carried"),
    ("bug_cut_on_rot", "damage of what was durable is cut off as if it were a torn end"),
    ("bug_cut_in_flight", "a backup's cut lies behind writes that are not done"),
    ("bug_deliver_before_durable", "an event is delivered when its write is submitted, not done"),
    ("bug_drop_without_credit", "an offer that finds no credit is dropped"),
    ("bug_forget_extension", "a lease that was extended ends with those it was given out with"),
    ("bug_forget_staying_grant", "a grant that finds nothing yet is forgotten by the partition"),
    ("bug_floor_tick", "the wheel rounds down"),
    ("bug_forget_dedup_at_restart", "ids published before a restart are forgotten"),
    ("bug_forget_settings_at_restart", "a topic is kept as the node says, after a restart"),
    ("bug_keep_entries_alive", "what waits for a slow consumer keeps whole entries in memory"),
    ("bug_never_hold_back", "publishes do not wait for jobs that are behind"),
    ("bug_open_without_dsync", "the descriptor of durable writes is an ordinary one"),
    ("bug_publish_on_full_disk", "publishes are taken while the disk has only its reserve"),
    ("bug_retention_ignores_pending", "retention asks when events came, not who awaits them"),
    ("bug_retry_after_sync_error", "a sync that fails is tried again, and then believed"),
    ("bug_serve_before_sync", "a recovery serves what it has read and not synced"),
    ("bug_serve_in_order_of_arrival", "who asks for much makes all others wait"),
    ("bug_skip_directory_fsync", "a new segment's directory entry is not made durable"),
    ("bug_skip_id_runs", "ids that have left the memory are not looked for"),
    ("bug_unaligned_levels", "the wheel's upper levels count from wherever it stands"),
    ("bug_write_without_sync", "writes to the log are acknowledged and not synced"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    for (bug, _) in BUGS {
        println!("cargo::rustc-check-cfg=cfg({bug})");
    }
    let wanted = std::env::var_os(VARIABLE).unwrap_or_default();
    if wanted.is_empty() {
        return;
    }
    if let Some((bug, wrong)) = BUGS.iter().find(|(bug, _)| wanted == *bug) {
        println!("cargo::rustc-cfg={bug}");
        println!("cargo::warning=known-bad build {bug}: {wrong}. Never run it on real data.");
    } else {
        let wanted = wanted.display();
        println!("cargo::error={VARIABLE}={wanted} is not in the list of build.rs");
    }
}
