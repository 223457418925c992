//! A repair cuts what is damaged and nothing else, destroys nothing, and may end anywhere.

use std::collections::BTreeMap;

use super::*;
use crate::base::ids::Term;
use crate::engine::log::model::{Disk, IDS, log};

const PARTITION: PartitionId = IDS.partition;

/// A stopped node with one log of three segments of ten entries, damaged.
struct Node {
    place: tempfile::TempDir,
    /// The files of the partition as they were damaged.
    files: Vec<(String, Vec<u8>)>,
}

/// What happened to a log, what of it is left, and how a repair must find and leave it.
struct Case {
    name: &'static str,
    /// Changes the files.
    damage: fn(&mut Disk),
    /// What the hard state knows to be committed.
    commit: u64,
    /// Entries that are kept.
    kept: u64,
    /// Events that can be read behind the damage.
    behind: u64,
}

fn file(disk: &mut Disk, segment: u64) -> &mut Vec<u8> {
    disk.files.get_mut(&Index(segment)).expect("a file")
}

/// Byte 8,000 of a segment lies in its fifth entry. A segment holds eight events.
const CASES: [Case; 8] = [
    Case {
        name: "a bit in the middle of the first segment",
        damage: |disk| file(disk, 1)[8_000] ^= 1,
        commit: 0,
        kept: 4,
        behind: 20,
    },
    Case {
        name: "two holes, the second in the last segment",
        damage: |disk| {
            file(disk, 11)[200] ^= 1;
            file(disk, 21)[200] ^= 1;
        },
        commit: 0,
        kept: 10,
        behind: 14,
    },
    Case {
        name: "the head of the last segment, whose later entries vouch for it",
        damage: |disk| file(disk, 21)[50] ^= 1,
        commit: 0,
        kept: 20,
        behind: 7,
    },
    Case {
        name: "the head of the log",
        damage: |disk| file(disk, 1)[3] ^= 1,
        commit: 0,
        kept: 0,
        behind: 23,
    },
    Case {
        name: "a segment that is gone",
        damage: |disk| drop(disk.files.remove(&Index(11))),
        commit: 0,
        kept: 10,
        behind: 8,
    },
    Case {
        name: "the first segment gone",
        damage: |disk| drop(disk.files.remove(&Index(1))),
        commit: 0,
        kept: 0,
        behind: 16,
    },
    Case {
        name: "all segments gone",
        damage: |disk| disk.files.clear(),
        commit: 30,
        kept: 0,
        behind: 0,
    },
    Case {
        name: "the last entry, which only the hard state knows",
        damage: |disk| {
            let end = file(disk, 21).iter().rposition(|byte| *byte != 0).expect("bytes");
            file(disk, 21)[end - 1_000..].fill(0);
        },
        commit: 30,
        kept: 29,
        behind: 0,
    },
];

impl Node {
    fn new(damage: impl FnOnce(&mut Disk), commit: u64) -> Self {
        let target = env!("OUT_DIR");
        let place = tempfile::tempdir_in(target).expect("a directory");
        let golden = include_str!("../../../tests/golden/chronosdb.v1.toml");
        fs::write(place.path().join("chronosdb.toml"), golden).expect("writable");
        let (mut disk, _) = log(3);
        damage(&mut disk);
        let home = partition_path(place.path(), PARTITION);
        fs::create_dir(&home).expect("new");
        for (first, bytes) in &disk.files {
            fs::write(home.join(file_name(*first)), bytes).expect("writable");
        }
        let mut mounted =
            Mounted { partition: PARTITION, segments: Vec::new(), hard_state: None, slot: 6 };
        let state =
            HardState { term: Term(9), vote: 1, commit: Index(commit), ..HardState::default() };
        mounted.save_state(place.path(), state).expect("saved");
        let files = contents(&home);
        Self { place, files }
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    fn stopped(&self) -> Stopped {
        Stopped::open(self.path()).expect("a stopped node")
    }

    fn findings(&self) -> Findings {
        let mut files = self.stopped().log(PARTITION).expect("readable").expect("there");
        Findings::of(&mut files, |_| ()).expect("readable")
    }

    fn repair(&self, yes: bool, salvage: Option<PathBuf>) -> Result<bool, String> {
        let logs = Logs { dir: self.path().to_owned(), partition: vec![PARTITION.0] };
        run(&RepairArgs { logs, yes, salvage, json: true })
    }

    /// What was in the partition's directory is still somewhere, below the same name.
    fn nothing_is_destroyed(&self) {
        let mut kept = BTreeMap::<String, Vec<Vec<u8>>>::new();
        let mut directories = vec![partition_path(self.path(), PARTITION)];
        if let Ok(lost) = fs::read_dir(self.path().join(LOST)) {
            directories.extend(lost.map(|entry| entry.expect("readable").path()));
        }
        for (name, bytes) in directories.iter().flat_map(|path| contents(path)) {
            kept.entry(name).or_default().push(bytes);
        }
        for (name, bytes) in &self.files {
            assert!(kept[name].contains(bytes), "{name} is kept as it was");
        }
    }
}

/// Names and bytes of the files of a directory, in order.
fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable"));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().expect("text");
            (name, fs::read(entry.path()).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn without_yes_nothing_is_changed() {
    for case in &CASES {
        let node = Node::new(case.damage, case.commit);
        assert_eq!(node.repair(false, None), Ok(true), "{}", case.name);
        assert_eq!(contents(&partition_path(node.path(), PARTITION)), node.files);
        assert!(!node.path().join(LOST).exists(), "{}", case.name);
    }
}

#[test]
fn a_repair_keeps_what_is_before_the_damage_and_destroys_nothing() {
    for case in &CASES {
        let node = Node::new(case.damage, case.commit);
        let before = node.findings();
        let rot = before.rot.as_ref().unwrap_or_else(|| panic!("{} is rot", case.name));
        assert_eq!(before.good.entries(), case.kept, "{}", case.name);
        assert_eq!(rot.events_behind(), case.behind, "{}", case.name);
        assert_eq!(node.repair(true, None), Ok(false), "{}", case.name);
        let after = node.findings();
        assert_eq!((after.good, after.torn_bytes), (before.good, 0), "{}", case.name);
        let expected = if case.kept == 0 { Condition::New } else { Condition::Clean };
        assert_eq!(after.condition, expected, "{}", case.name);
        node.nothing_is_destroyed();
        // The log goes on in a term that was never used, and knows of no entry that is gone.
        let mounted = node.stopped().log(PARTITION).expect("readable").expect("there").mounted;
        let state = mounted.hard_state.expect("a state");
        let commit = Index(case.commit.min(case.kept));
        assert_eq!((state.term, state.commit, state.cut_from), (Term(9), commit, Index(0)));
        assert_eq!(node.repair(true, None), Ok(false), "there is nothing left to repair");
        node.nothing_is_destroyed();
    }
}

#[test]
fn a_repair_that_ends_anywhere_is_gone_on_with() {
    for case in &CASES {
        for done in 0.. {
            let node = Node::new(case.damage, case.commit);
            let stopped = node.stopped();
            let before = node_findings(&stopped);
            let mut plan = Plan::of(&stopped, &before).expect("a plan");
            if done > plan.steps.len() {
                break;
            }
            for step in plan.steps.clone().iter().take(done) {
                plan.step(node.path(), &before, step).expect("done");
            }
            drop(stopped);
            let what = format!("{}, after {done} steps", case.name);
            let half = node.findings();
            assert_eq!(half.good, before.good, "{what}");
            if let Some(rot) = &half.rot {
                let first_bad = before.rot.as_ref().expect("rot").report.first_bad;
                assert_eq!(rot.report.first_bad, first_bad, "{what}");
                assert_eq!(node.repair(true, None), Ok(false), "{what}");
            }
            let after = node.findings();
            assert_eq!((after.rot.is_none(), after.good), (true, before.good), "{what}");
            node.nothing_is_destroyed();
        }
    }
}

fn node_findings(stopped: &Stopped) -> Findings {
    let mut files = stopped.log(PARTITION).expect("readable").expect("there");
    Findings::of(&mut files, |_| ()).expect("readable")
}

#[test]
fn terms_of_lost_entries_are_never_used_again() {
    let damage: fn(&mut Disk) = |disk| file(disk, 11)[200] ^= 1;
    let node = Node::new(damage, 0);
    let findings = node.findings();
    let rot = findings.rot.as_ref().expect("rot");
    let state = state_after(&findings, rot, None);
    assert_eq!((state.term, state.vote), (Term(1), 0), "as the entries behind say");
    let rot = Rot { term: Term(12), ..rot.clone() };
    let before = HardState { term: Term(9), vote: 1, ..HardState::default() };
    assert_eq!(state_after(&findings, &rot, Some(before)).term, Term(12));
}

#[test]
fn what_a_newer_version_wrote_is_never_cut() {
    let damage: fn(&mut Disk) = |disk| {
        let head = &mut file(disk, 11)[..96];
        head[4] = 2;
        let crc = crc32fast::hash(&head[..92]);
        head[92..].copy_from_slice(&crc.to_le_bytes());
    };
    let node = Node::new(damage, 0);
    let why = node.repair(true, None).expect_err("refused");
    assert!(why.contains("newer version") && why.contains("format 2"), "{why}");
    assert_eq!(contents(&partition_path(node.path(), PARTITION)), node.files);
}

#[test]
fn events_behind_the_damage_are_salvaged() {
    let node = Node::new(CASES[1].damage, 0);
    let path = node.path().join("behind.jsonl");
    assert_eq!(node.repair(false, Some(path.clone())), Ok(true));
    let text = fs::read_to_string(&path).expect("written");
    let events: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    // Entries 12 to 20 and 22 to 30, without their no-ops 13, 18, 23 and 28.
    let ids: Vec<_> = events.iter().map(|e| e["message_id"].as_str().expect("an id")).collect();
    let expected: Vec<_> =
        [12, 14, 15, 16, 17, 19, 20, 22, 24, 25, 26, 27, 29, 30].map(|i| format!("id-{i}")).into();
    assert_eq!(ids, expected);
    let first = &events[0];
    assert_eq!((&first["partition"], &first["offset"]), (&json!(3), &json!(9)));
    assert_eq!((&first["topic"], &first["topic_no"]), (&Value::Null, &json!(0)), "never named");
    assert!(first["payload_base64"].as_str().is_some_and(|payload| payload.len() > 6_000));
    let why = node.repair(true, Some(path)).expect_err("no file is replaced");
    assert!(why.contains("--salvage another FILE"), "{why}");
    assert_eq!(contents(&partition_path(node.path(), PARTITION)), node.files);
}
