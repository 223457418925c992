//! Every limit of the system, and how they must relate to one another.
//!
//! Bad input beyond a limit is refused with the field's name and nothing is written; internal
//! limits are reached by back-pressure, never by dropping. Each public limit is tested at the limit
//! and at limit + 1 over both transports (`tests/it/limits.rs`).

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// What a client may send.

/// Body of a native frame, and a gRPC message, bytes.
pub const MESSAGE_BYTES: usize = 16 * MIB;
/// Body of a native request that neither publishes nor acknowledges, bytes.
pub const SMALL_REQUEST_BYTES: usize = 64 * KIB;
/// Payload of an event, bytes. An empty one is refused.
pub const PAYLOAD_BYTES: usize = 4 * MIB;
/// Events of one publish request.
pub const BATCH_EVENTS: usize = 4096;
/// `message_id`, bytes.
pub const MESSAGE_ID_BYTES: usize = 128;
/// Topic, group and member names, bytes.
pub const NAME_BYTES: usize = 255;
/// Entries of an event's `meta`.
pub const META_ENTRIES: usize = 64;
/// An event's `meta` as it lies in the message (tags and lengths included), bytes.
pub const META_BYTES: usize = 16 * KIB;
/// How far ahead or back `schedule_ts` may lie: 100 years, ms.
pub const SCHEDULE_HORIZON_MS: u64 = 100 * 366 * 86_400_000;
/// Deliveries in flight that a subscription may ask for.
pub const CREDIT_MAX: u32 = 50_000;
/// Deliveries in flight of a subscription that asks for none in particular.
pub const CREDIT_DEFAULT: u32 = 10_000;
/// Acks in one native batch frame.
pub const ACK_BATCH: usize = 4096;
/// Longest `delivery_id` read: a fully percent-encoded group name and six numbers.
pub const DELIVERY_ID_BYTES: usize = 3 * NAME_BYTES + 160;
/// Error text a client may send with a nack, bytes; the rest is cut.
pub const NACK_REASON_BYTES: usize = 1024;
/// Longest delay of a nack, ms (24 h).
pub const RETRY_DELAY_MAX_MS: u64 = 86_400_000;
/// Events of one replay by offset without a count.
pub const REPLAY_COUNT_DEFAULT: u64 = 1_000;

// What an operator may configure.

/// Partitions of a data directory.
pub const PARTITIONS_MAX: u16 = 4_096;
/// Shards of a node.
pub const SHARDS_MAX: u16 = 256;
/// Free space below which publishes are refused, bytes, unless another is configured.
pub const DISK_RESERVE_BYTES: u64 = 64 * MIB as u64;
/// Least free space that is kept for what is not a publish, bytes.
pub const DISK_RESERVE_BYTES_MIN: u64 = MIB as u64;
/// Most of it.
pub const DISK_RESERVE_BYTES_MAX: u64 = 1024 * 1024 * MIB as u64;
/// The reserve is at most this part of its file system.
pub const DISK_RESERVE_SHARE: u64 = 8;
/// This part of the reserve is a file, so that other writers can't take it.
pub const DISK_RESERVE_FILE_SHARE: u64 = 8;
/// Smallest segment file, bytes: the largest entry and the state entry before it fit.
pub const SEGMENT_BYTES_MIN: u64 = 32 * MIB as u64;
/// Least bytes of a partition's log between two flushes.
pub const FLUSH_BYTES_MIN: u64 = MIB as u64;
/// Most of them: a flush holds as many.
pub const FLUSH_BYTES_MAX: u64 = 1024 * MIB as u64;
/// Furthest that memory looks ahead, ms (24 h).
pub const HORIZON_MS_MAX: u64 = 86_400_000;
/// Largest segment file, bytes.
pub const SEGMENT_BYTES_MAX: u64 = 16 * 1024 * MIB as u64;

// Connections.

/// Client connections of a node.
pub const CONNECTIONS: usize = 10_000;
/// Connections to the HTTP listener, which serves probes and scrapers.
pub const HTTP_CONNECTIONS: usize = 256;
/// Bytes received and not yet worked on, per connection.
pub const CONNECTION_IN_BYTES: usize = 8 * MIB;
/// Bytes encoded to be sent, per connection, beyond which it is asked for nothing more; what its
/// streams have waits where it lies. So many peers that never read stay cheap.
pub const CONNECTION_OUT_BYTES: usize = 64 * KIB;
/// Frames larger than [`CONNECTION_IN_BYTES`] that may be received at once per shard.
pub const LARGE_FRAMES: usize = 8;
/// Requests of one connection that wait for an answer; then its socket is not read.
pub const SESSION_IN_FLIGHT: usize = 1_024;
/// Open subscriptions and replays of one connection.
pub const SESSION_STREAMS: usize = 256;
/// Time for the first frame of a connection, ms.
pub const HANDSHAKE_MS: u64 = 5_000;
/// Time in which a begun frame must be complete, ms.
pub const FRAME_PROGRESS_MS: u64 = 10_000;
/// Time in which a blocked write must move, ms.
pub const WRITE_STALL_MS: u64 = 30_000;

// The engine, per shard.

/// Requests that a shard's front keeps open at once; at the limit sessions are not read.
pub const OPEN_REQUESTS: usize = 8_192;
/// Subscriptions and replays on one shard.
pub const OPEN_STREAMS: usize = 16_384;
/// Events that one `step` fires, dispatches or applies at most.
pub const STEP_EVENTS: usize = 8_192;
/// Deliveries that one grant asks of a partition at most.
pub const GRANT_EVENTS: u32 = 1_024;
/// Deliveries handed out in one turn, beyond which grants wait for the next one.
pub const TURN_DELIVERIES: usize = 512;
/// A grant of so many events never waits.
pub const GRANT_SMALL: u32 = 32;
/// Events that a partition may fire in one tick, however many partitions there are.
pub const TICK_EVENTS: usize = 64;
/// Members looked at in one tick while what is due is more than it may fire.
pub const SEEK_MEMBERS: usize = 128;
/// Bytes of deliveries on their way to one member's socket (one larger event may pass alone).
pub const SUBSCRIPTION_OUT_BYTES: u64 = 4 * MIB as u64;
/// Delivery effects of one subscription that the driver has not sent yet.
pub const SUBSCRIPTION_OUT_BATCHES: u32 = 64;
/// Bytes of entries that one batch of them may keep in memory, whatever it has of them.
pub const BATCH_ALIVE_BYTES: usize = 256 * KIB;
/// Beyond that: so many times the bytes it has. With less, what waits for many slow consumers would
/// be copied for each of them, where it is shared.
pub const BATCH_ALIVE_TIMES: usize = 32;
/// Grace before "now" of a subscription that starts at what becomes due from now on, ms.
pub const START_NOW_GRACE_MS: u64 = 5_000;
/// Late acks may still come for this long after a disconnect, ms.
pub const DISCONNECT_GRACE_MS: u64 = 1_000;
/// Releases by disconnect that one event survives before it counts as failed.
pub const DISCONNECT_RELEASES: u32 = 20;

// The engine, per partition.

/// Topics of one partition.
pub const TOPICS: usize = 1_000_000;
/// Consumer groups of one partition (a group and a topic make one).
pub const GROUPS: usize = 10_000;
/// Members of one group in one partition.
pub const GROUP_MEMBERS: usize = 1_024;
/// Events leased or waiting for their next attempt, per group and partition.
pub const GROUP_UNSETTLED: usize = 200_000;
/// Events taken into the open entry before publishes of the partition are refused.
pub const OPEN_ENTRY_EVENTS: usize = 65_536;
/// Bytes taken into open entries before publishes of the partition are refused.
pub const OPEN_ENTRY_BYTES: usize = 48 * MIB;
/// Bytes of messages kept for the events that an open entry has of them, which may be few; beyond
/// that these are copied. One message is always kept.
pub const OPEN_ENTRY_MESSAGES: usize = 8 * MIB;
/// Body of one entry, bytes: the largest message, its structs and its table fit.
pub const ENTRY_BODY_BYTES: usize = MESSAGE_BYTES + BATCH_EVENTS * 64 + 64 * KIB;
/// Settings of topics gathered for one entry, bytes, names not counted.
pub const SETTINGS_BYTES: usize = 64 * KIB;
/// An entry is closed once its body has this many bytes, to bound what a write carries.
pub const ENTRY_TARGET_BYTES: usize = MIB;
/// Writes in flight on one partition's log.
pub const WRITES_IN_FLIGHT: usize = 4;
/// Bytes of applied entries that a replica keeps in memory for its followers.
pub const REPLICA_RECENT_BYTES: usize = 4 * MIB;
/// Parked flows (reads under way) of one partition.
pub const PARKED_READS: usize = 64;
/// Largest read of the log that a flow asks for at once, bytes.
pub const READ_BYTES: usize = MIB;
/// Reads of a shard whose memory is used again at most.
pub const READ_BUFFERS: usize = 4;
/// First step of zero-filling a segment, bytes; steps double up to [`FILL_STEP_MAX`].
pub const FILL_STEP_MIN: u64 = MIB as u64;
/// Largest step of zero-filling, bytes.
pub const FILL_STEP_MAX: u64 = 32 * MIB as u64;
/// Smallest step of it while the disk is nearly full, bytes.
pub const FILL_STEP_SCARCE: u64 = 64 * KIB as u64;
/// A block of a run is closed before it outgrows this, bytes; a larger record has one of its own.
pub const RUN_BLOCK_BYTES: usize = 64 * KIB;
/// Largest block of a run, bytes: the largest record, its row and the block's head fit.
pub const RUN_BLOCK_BYTES_MAX: usize = PAYLOAD_BYTES + 32 * KIB;
/// Bytes of a finished run part that a merge leaves with its writer before it waits for the driver.
pub const RUN_OUTPUT_BYTES: usize = MIB;
/// Whole blocks that a merge reads of one run at once, bytes (one larger block may come alone).
pub const RUN_READ_BYTES: usize = 256 * KIB;
/// Runs that one merge takes in: each may hold a block of the largest record in memory.
pub const RUN_MERGE_INPUTS: usize = 16;
/// Bytes of blocks in memory above which a merge reads nothing ahead.
pub const RUN_MERGE_BYTES: usize = 16 * MIB;
/// Bytes of a partition's log after which what is due far ahead is carried into a run.
pub const FLUSH_BYTES: u64 = 64 * MIB as u64;
/// Bytes of the logs of one shard that a start may have to read again, about.
pub const FLUSH_SHARD_BYTES: u64 = 256 * MIB as u64;
/// A partition's share of [`FLUSH_SHARD_BYTES`] is at least this.
pub const FLUSH_SHARE_MIN: u64 = 4 * MIB as u64;
/// Least time between two checkpoints of a partition, ms.
pub const CHECKPOINT_INTERVAL_MS: u64 = 1_000;
/// Checkpoints of a partition that are kept.
pub const CHECKPOINTS_KEPT: usize = 2;
/// Events that are due within this time stay in memory, ms.
pub const HORIZON_MS: u64 = 60_000;
/// Topics of a partition whose loads are begun in one turn.
pub const LOADS: usize = 64;
/// Events of a partition whose time is past that are kept in memory, about 40 bytes each; what came
/// since the last flush is not counted.
pub const PAST_EVENTS: u64 = 64 * KIB as u64;
/// Time between two looks for what retention can remove, ms.
pub const RETENTION_CHECK_MS: u64 = 1_000;
/// Nothing is removed for this long after log time has jumped, ms: time to set a wrong clock right.
pub const JUMP_PAUSE_MS: u64 = 3_600_000;
/// A group without members holds data for this long, ms (30 days).
pub const GROUP_EXPIRY_MS: u64 = 30 * 86_400_000;
/// A dead letter is kept for this long behind its event's due time, ms (30 days).
pub const DEAD_LETTER_RETENTION_MS: u64 = 30 * 86_400_000;
/// A carried run is written anew when one in so many of its blocks, or more, is past and settled.
pub const DEAD_SHARE: usize = 3;
/// Ids of a partition in memory, beyond which they are written to a run: at most 64 bytes each.
pub const ID_WINDOW: usize = 256 * KIB;
/// How many times as many they may come to while those before them are being written; then
/// publishes of the partition are refused.
pub const ID_WINDOW_TIMES: usize = 16;
/// Reads of runs of ids that are out at once, per partition.
pub const ID_READS: usize = 64;
/// Jobs of a shard under way at once that take something out of the memory.
pub const FLUSHES: usize = 1;
/// Jobs of a shard under way at once that make one run of several.
pub const MERGES: usize = 1;
/// Bytes of a shard's logs that are in no run, in percent of those at which all of its partitions
/// would begin a flush, beyond which publishes wait until jobs have caught up.
pub const BEHIND_MAX: u64 = 175;
/// Below this, percent, they go on.
pub const BEHIND_RESUME: u64 = 150;
/// Bytes of a file that a job reads at once, of each file that it reads.
pub const JOB_READ_BYTES: usize = MIB;
/// Writes of a job under way at once.
pub const JOB_WRITES: usize = 8;
/// Runs of one size that are merged into one.
pub const RUN_FANOUT: usize = 8;
/// Retries of an event before it is a dead letter, at most configurable.
pub const RETRIES_MAX: u32 = 1_000;

// Backups.

/// Files of one backup: all of them are open at once.
pub const BACKUP_FILES: usize = 65_536;
/// A backup's manifest, and a server's answer that names the files of one, bytes.
pub const BACKUP_TEXT_BYTES: usize = 16 * MIB;
/// Cuts that are asked for while files of the one before are removed.
pub const BACKUP_CUTS: usize = 16;
/// Bytes read in a second while a server runs, unless another rate is asked for.
pub const BACKUP_RATE: u64 = 100 * MIB as u64;
/// Bytes of a file that a copy reads at once.
pub const BACKUP_READ_BYTES: usize = MIB;
/// Bytes of a copy that are not synced, at most.
pub const BACKUP_SYNC_BYTES: u64 = 32 * MIB as u64;

const _: () = assert!(BACKUP_FILES * 160 <= BACKUP_TEXT_BYTES, "a manifest names all its files");
const _: () = assert!(BACKUP_READ_BYTES as u64 <= BACKUP_SYNC_BYTES);
const _: () = assert!(PAYLOAD_BYTES + META_BYTES + MESSAGE_ID_BYTES + NAME_BYTES < MESSAGE_BYTES);
const _: () = assert!(SMALL_REQUEST_BYTES < MESSAGE_BYTES);
const _: () =
    assert!(4 * NAME_BYTES < SMALL_REQUEST_BYTES, "a subscription with all its names fits");
const _: () = assert!(ENTRY_BODY_BYTES < u32::MAX as usize, "lengths in an entry are u32");
const _: () = assert!(MESSAGE_ID_BYTES <= u8::MAX as usize, "an id's length is stored in a u8");
const _: () = assert!(NAME_BYTES <= u8::MAX as usize);
const _: () = assert!(META_BYTES <= u16::MAX as usize, "meta's length is stored in a u16");
const _: () = assert!(BATCH_EVENTS <= STEP_EVENTS, "a batch is applied in one step");
const _: () = assert!(BATCH_EVENTS <= ID_WINDOW, "a window takes the ids of a batch");
const _: () = assert!(RUN_FANOUT <= RUN_MERGE_INPUTS);
const _: () = assert!(ENTRY_TARGET_BYTES <= ENTRY_BODY_BYTES);
const _: () = assert!(ENTRY_BODY_BYTES <= OPEN_ENTRY_BYTES, "the largest batch is accepted");
const _: () = assert!(CREDIT_MAX as usize <= GROUP_UNSETTLED, "one member can use its credit");
const _: () = assert!(CREDIT_DEFAULT <= CREDIT_MAX);
const _: () = assert!(ENTRY_BODY_BYTES as u64 + MIB as u64 <= SEGMENT_BYTES_MIN);
const _: () = assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_MAX);
const _: () = assert!(FILL_STEP_SCARCE <= FILL_STEP_MIN && FILL_STEP_MIN <= FILL_STEP_MAX);
const _: () = assert!(DISK_RESERVE_BYTES_MIN <= DISK_RESERVE_BYTES);
const _: () = assert!(DISK_RESERVE_BYTES <= DISK_RESERVE_BYTES_MAX);
const _: () = assert!(RUN_BLOCK_BYTES < RUN_BLOCK_BYTES_MAX && RUN_BLOCK_BYTES <= RUN_READ_BYTES);
const _: () =
    assert!(PAYLOAD_BYTES + META_BYTES + MESSAGE_ID_BYTES + 8 * KIB < RUN_BLOCK_BYTES_MAX);
