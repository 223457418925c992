//! Runs beside a log that has lost its head: what is lost for good is told exactly.

use std::fs;

use super::*;
use crate::base::ids::{Position, TopicNo};
use crate::engine::runs::{RunHead, RunIds, RunKey, RunKind, RunRecord, RunWriter};

const IDS: Ids = Ids { cluster: 9, partition: PartitionId(0) };
/// Before this the log has nothing any more.
const START: u64 = 1_000;

struct Node {
    place: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let target = env!("OUT_DIR");
        let place = tempfile::tempdir_in(target).expect("a directory");
        fs::create_dir(partition_path(place.path(), IDS.partition)).expect("new");
        fs::write(partition_path(place.path(), IDS.partition).join(STATE_FILE), [0; 8192])
            .expect("writable");
        Self { place }
    }

    /// A run of these offsets: each event is due ms after its offset, the first half of topic 0,
    /// the other of topic 1.
    fn run(&self, run: u64, kind: RunKind, offsets: std::ops::Range<u64>) -> PathBuf {
        let ids = RunIds { cluster: IDS.cluster, partition: IDS.partition, run: RunNo(run) };
        let (first_offset, end_offset) = (Offset(offsets.start), Offset(offsets.end));
        let mut writer = RunWriter::new(RunHead { ids, kind, first_offset, end_offset });
        let (half, mut bytes) = (offsets.start.midpoint(offsets.end), Vec::new());
        let payload = [b'x'; 1_000];
        for offset in offsets {
            let topic = TopicNo(u32::from(offset >= half));
            let key = RunKey::new(topic, Position::new(50_000 + offset, Offset(offset)));
            let mut record = RunRecord::key_only(key, key.position.due);
            if kind == RunKind::Carried {
                (record.message_id, record.payload) = (b"id", &payload);
            }
            writer.push(&record);
            bytes.extend(writer.take_output().map(|chunk| chunk.bytes).unwrap_or_default());
        }
        bytes.extend(writer.finish().1.bytes);
        let path = run_path(self.place.path(), IDS.partition, RunNo(run));
        fs::write(&path, bytes).expect("writable");
        path
    }

    fn examine(&self, begin: LogBegin) -> BesideFindings {
        let beside = Beside::list(self.place.path(), IDS).expect("readable");
        let mut last = 0;
        let found = beside.examine(begin, |read| {
            assert!(read >= last && read <= beside.bytes(), "{last} {read}");
            last = read;
        });
        assert_eq!(last, beside.bytes(), "all of it is counted");
        found.expect("readable")
    }
}

fn shortened() -> LogBegin {
    LogBegin { segment: Index(70), offset: Some(Offset(START)), has_entries: true }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("writable");
}

#[test]
fn what_a_run_beyond_the_log_loses_is_told_by_topic_and_due() {
    let node = Node::new();
    let path = node.run(4, RunKind::Carried, 0..200);
    node.run(9, RunKind::Carried, 1_000..1_010);
    assert!(!node.examine(shortened()).is_damaged(), "all is sound, without a checkpoint too");
    // The block in the middle ends one topic and begins the other.
    let bytes = fs::read(&path).expect("readable");
    let begins: Vec<_> = (0..bytes.len()).step_by(4_096).filter(|at| bytes[at + 6] == 2).collect();
    let blocks: Vec<_> =
        begins.into_iter().filter(|at| bytes[*at..].starts_with(b"CDBr")).collect();
    assert_eq!(blocks.len(), 4, "about 60 records each");
    flip(&path, blocks[1] + 5_000);
    let found = node.examine(shortened());
    assert!(found.has_lost_data());
    let [file] = &found.damaged[..] else { panic!("{found:?}") };
    assert_eq!((file.what, file.cost), ("due run", Cost::Data));
    assert_eq!(file.offsets, Some((Offset(0), Offset(200))));
    let [part] = &file.parts[..] else { panic!("{file:?}") };
    assert_eq!((part.part.as_str(), part.bytes.start), ("block 1", blocks[1] as u64));
    let records = part.records.expect("the directory counts them");
    let first = (blocks[1] - 4_096) as u64 / 65_536 * records;
    let [one, other] = &part.topics[..] else { panic!("{part:?}") };
    assert_eq!((one.first_due, one.last_due), (50_000 + first, 50_099));
    assert_eq!((other.first_due, other.last_due), (50_100, 50_000 + first + records));
    let text = found.lines(&BTreeMap::from([(TopicNo(1), "orders".to_owned())])).join("\n");
    assert!(text.contains("LOST: the log begins behind what it held"), "{text}");
    assert!(text.contains(&format!("{records} events of (topic 0) due 1970")), "{text}");
    assert!(text.contains("of orders (topic 1) due 1970"), "{text}");
}

#[test]
fn a_run_counts_as_data_exactly_if_it_begins_before_the_log() {
    for (begins, kind, cost) in
        [(START - 1, RunKind::Carried, Cost::Data), (START, RunKind::Carried, Cost::Renewal)]
    {
        let node = Node::new();
        let path = node.run(4, kind, begins..begins + 10);
        node.run(5, RunKind::Carried, 2_000..2_010);
        flip(&path, 4_096 + 200);
        let found = node.examine(shortened());
        assert_eq!(found.damaged.len(), 1, "{begins}");
        assert_eq!(found.damaged[0].cost, cost, "{begins}");
        // Nobody knows where the log begins.
        let unknown = LogBegin { offset: None, ..shortened() };
        assert_eq!(node.examine(unknown).damaged[0].cost, Cost::Data);
    }
}

#[test]
fn a_run_without_its_directory_is_told_by_its_header_and_one_without_both_may_be_anything() {
    let node = Node::new();
    let path = node.run(4, RunKind::Carried, 0..100);
    node.run(5, RunKind::Carried, 2_000..2_010);
    let end = fs::metadata(&path).expect("there").len() as usize;
    flip(&path, end - 4_000);
    let found = node.examine(shortened());
    assert_eq!(found.damaged[0].offsets, Some((Offset(0), Offset(100))));
    assert_eq!(found.damaged[0].parts[0].part, "footer");
    assert_eq!(found.damaged[0].parts[0].records, None);
    flip(&path, 40);
    let found = node.examine(shortened());
    assert_eq!((found.damaged[0].what, found.damaged[0].cost), ("run", Cost::Data));
    assert_eq!(found.damaged[0].parts.len(), 2);
}

#[test]
fn without_a_checkpoint_and_with_a_whole_log_runs_are_left_over() {
    let node = Node::new();
    let path = node.run(4, RunKind::Carried, 0..10);
    flip(&path, 4_096 + 200);
    let whole = LogBegin { segment: Index(1), offset: Some(Offset(0)), has_entries: true };
    let found = node.examine(whole);
    assert_eq!((found.left_over, found.is_damaged()), (1, false));
    // One that was never finished, where all others are taken up.
    fs::write(&path, [0; 100]).expect("writable");
    assert_eq!(node.examine(shortened()).left_over, 1);
}
