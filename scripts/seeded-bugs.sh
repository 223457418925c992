#!/usr/bin/env bash
# Shows that the tests catch known mistakes: builds each known-bad variant of build.rs and runs the
# one test that must turn red in it and green without it.
#
#   scripts/seeded-bugs.sh          all of them (a rebuild of this package each; deps stay)
#   scripts/seeded-bugs.sh NAME...  these
#
# Ends with an error if a mistake is not caught. What each test said: target/seeded-bugs/NAME.log.
set -euo pipefail
cd "$(dirname "$0")/.."

# bug, the target of the test, its full name, and for a run of the simulator its seeds
table='
bug_ack_joiners              sim run::every_seed_keeps_every_rule 0..60
bug_backup_beyond_cut        lib cli::backup::source::source_test::nothing_behind_the_cut_is_copied
bug_backup_without_gone      lib cli::backup::source::source_test::a_file_that_has_gone_asks_for_another_cut
bug_checkpoint_ahead         sim ahead::a_checkpoint_beside_a_flush_leaves_its_events_to_the_log
bug_cut_on_rot               lib engine::log::scan::tests::damage_to_what_was_synced_is_rot_and_said_exactly
bug_cut_in_flight            sim run::every_seed_keeps_every_rule 0..60
bug_deliver_before_durable   sim run::every_seed_keeps_every_rule 0..60
bug_drop_without_credit      sim run::every_seed_keeps_every_rule 0..10
bug_forget_extension         lib engine::flow::lease_test::what_is_not_acked_is_tried_again_and_nothing_else
bug_forget_staying_grant     sim run::every_seed_keeps_every_rule 0..10
bug_floor_tick               lib engine::wheel::tests::fires_at_its_time_and_not_before
bug_forget_dedup_at_restart  sim run::every_seed_keeps_every_rule 0..60
bug_forget_settings_at_restart sim lasting::settings_outlive_the_segments_that_said_them
bug_keep_entries_alive       it crowds::those_of_a_rare_topic_that_never_read_cost_little
bug_never_hold_back          sim holding::publishes_wait_one_behind_the_limit_until_jobs_have_caught_up
bug_open_without_dsync       lib shard::disk::disk_test::a_durable_write_goes_through_a_descriptor_that_syncs
bug_publish_on_full_disk     sim run::every_seed_keeps_every_rule 0..60
bug_retention_ignores_pending sim run::every_seed_keeps_every_rule 0..100
bug_retry_after_sync_error   lib shard::disk::disk_test::a_failed_sync_stops_the_process
bug_serve_before_sync        sim run::power_lost_soon_after_a_restart_takes_nothing_that_was_served
bug_serve_in_order_of_arrival lib shard::requests::tests::who_asks_for_little_does_not_wait_for_who_asks_for_much
bug_skip_directory_fsync     lib shard::disk::disk_test::a_failed_sync_of_a_directory_stops_the_process
bug_skip_id_runs             sim run::every_seed_keeps_every_rule 0..60
bug_unaligned_levels         lib engine::wheel::model_test::agrees_with_a_sorted_map
bug_write_without_sync       sim run::every_seed_keeps_every_rule 0..60
'

target_dir=${CARGO_TARGET_DIR:-target}
logs=$target_dir/seeded-bugs
mkdir -p "$logs"
# A test of the simulator builds the server beside it: a bad one must not stay where people look.
trap 'rm -f "$target_dir/debug/chronosdb"' EXIT

lines=$(sed '/^$/d' <<< "$table")
if [ $# -gt 0 ]; then
    chosen=
    for name in "$@"; do
        chosen+=$(grep "^$name " <<< "$lines" || { echo "$name is not in the table" >&2; exit 2; })$'\n'
    done
    lines=${chosen%$'\n'}
fi

build() { # TARGET: only this package is built anew
    local which=(--lib)
    [ "$1" = lib ] || which=(--test "$1")
    cargo test "${which[@]}" --no-run
}

run() { # TARGET TEST [SEEDS]
    local which=(--lib)
    [ "$1" = lib ] || which=(--test "$1")
    env ${3:+CHRONOSDB_SIM_SEEDS="$3"} cargo test "${which[@]}" -- --exact "$2"
}

# Green without the mistake: each test once. A name that fits no test is not green either.
green() { # TARGET TEST [SEEDS]
    local log=$logs/normal-$1-${2##*::}.log
    build "$1" > "$log" 2>&1 && run "$@" >> "$log" 2>&1 && grep -q "^test $2 \.\.\. ok" "$log"
}

# Red with it: it was built, the test ran, and it failed.
red() { # BUG TARGET TEST [SEEDS]
    local log=$logs/$1.log
    export CHRONOSDB_BUG=$1
    shift
    if ! build "$1" > "$log" 2>&1; then
        echo "it does not build: see $log" >&2
        return 1
    fi
    ! run "$@" >> "$log" 2>&1 && grep -q "^test $2 \.\.\. FAILED" "$log"
}

unset CHRONOSDB_BUG
# What a property test finds in a bad build is no regression of ours.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=1
failed=0
while read -r target test seeds; do
    if ! green "$target" "$test" "$seeds"; then
        echo "NOT GREEN in the normal build: $target $test $seeds" >&2
        failed=1
    fi
done < <(awk '{ print $2, $3, $4 }' <<< "$lines" | sort -u)

row='%-30s | %-92s | %-10s | %7s\n'
# shellcheck disable=SC2059 # the format is the row's
printf "$row" bug "test that turns red" "" seconds
while read -r bug target test seeds; do
    begun=$SECONDS
    verdict=caught
    if ! (red "$bug" "$target" "$test" "$seeds"); then
        verdict="NOT CAUGHT"
        failed=1
    fi
    # shellcheck disable=SC2059
    printf "$row" "$bug" "$test${seeds:+ ($seeds)}" "$verdict" $((SECONDS - begun))
done <<< "$lines"
exit $failed
