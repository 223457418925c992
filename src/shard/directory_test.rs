//! Tests of the data directory: what is kept, what is refused, in which words.

use super::*;
use crate::shard::fault::{Fault, plant_behind};

fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("OUT_DIR")).expect("a directory")
}

fn refusal(path: &Path, partitions: u16) -> String {
    let text = Directory::open(path, partitions, true).expect_err("refused").to_string();
    assert!(!text.contains('\n') && !text.ends_with('.'), "one sentence: {text}");
    text
}

#[test]
fn a_directory_keeps_its_numbers() {
    let place = place();
    let path = place.path().join("deep/data");
    let first = Directory::open(&path, 7, true).expect("a new directory");
    let (cluster, key) = (first.cluster, first.dedup_key);
    assert_ne!(key, [0; 16]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    drop(first);
    let again = Directory::open(&path, 7, true).expect("the same directory");
    assert_eq!((again.cluster, again.dedup_key, again.partitions), (cluster, key, 7));
}

#[test]
fn a_directory_that_was_there_is_made_durable_again() {
    let place = place();
    let path = place.path().join("data");
    drop(Directory::open(&path, 2, true).expect("a new directory"));
    // Its own entry, then the entries in it.
    for others in 0..2 {
        plant_behind(Fault::DirectorySync, others);
        assert!(refusal(&path, 2).contains("make durable"));
    }
    drop(Directory::open(&path, 2, true).expect("the same directory"));
}

#[test]
fn golden_description_of_version_1() {
    let golden = include_str!("../../tests/golden/chronosdb.v1.toml");
    let mut file = FormatFile {
        format: 1,
        cluster: "000000c100005eed".into(),
        dedup_key: "000102030405060708090a0b0c0d0e0f".into(),
        partitions: 4,
        checksum: String::new(),
    };
    file.checksum = file.checksum();
    assert_eq!(file.text(), golden, "format v1 never changes");
    assert!(include_str!("../../schemas/FORMAT.md").contains(golden), "and is described");
    let place = place();
    fs::write(place.path().join(FORMAT_FILE), golden).expect("writable");
    let read = Directory::open(place.path(), 4, true).expect("today's code reads it");
    assert_eq!((read.cluster, read.partitions), (0x00c1_0000_5eed, 4));
    assert_eq!(read.dedup_key, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn a_directory_in_use_is_refused() {
    let place = place();
    let _held = Directory::open(place.path(), 2, true).expect("a new directory");
    assert!(refusal(place.path(), 2).contains("in use by another process"));
}

#[test]
fn a_tool_makes_nothing_and_is_refused_what_is_no_stopped_node() {
    let place = place();
    let refused = |path: &Path| {
        let text = Directory::open_stopped(path).expect_err("refused").to_string();
        assert!(!text.contains('\n') && !text.ends_with('.'), "one sentence: {text}");
        text
    };
    let path = place.path().join("data");
    assert!(refused(&path).contains("no data directory"));
    assert!(!path.exists(), "nothing is made");
    fs::create_dir(&path).expect("new");
    assert!(refused(&path).contains("holds no chronosdb.toml"));
    assert_eq!(fs::read_dir(&path).expect("readable").count(), 0, "nothing is made");

    let served = Directory::open(&path, 5, true).expect("a new directory");
    assert!(refused(&path).contains("in use by another process"));
    let (cluster, key) = (served.cluster, served.dedup_key);
    drop(served);
    let note = fs::read(path.join(LOCK_FILE)).expect("there");
    let tool = Directory::open_stopped(&path).expect("a stopped node");
    assert_eq!((tool.cluster, tool.dedup_key, tool.partitions), (cluster, key, 5));
    assert_eq!(fs::read(path.join(LOCK_FILE)).expect("there"), note, "nothing is written");
    assert!(refusal(&path, 5).contains("in use"), "and no server starts meanwhile");
    drop(tool);
    // A copy without the lock file is as good.
    fs::remove_file(path.join(LOCK_FILE)).expect("there");
    drop(Directory::open_stopped(&path).expect("a stopped node"));
    Directory::open(&path, 5, true).expect("it serves again");
}

#[test]
fn changed_partitions_and_newer_formats_are_refused() {
    let place = place();
    drop(Directory::open(place.path(), 2, true).expect("a new directory"));
    let text = refusal(place.path(), 3);
    assert!(text.contains("made with 2 partitions") && text.contains("--partitions 2"), "{text}");

    let file = place.path().join(FORMAT_FILE);
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replace("format = 1", "format = 2")).expect("writable");
    assert!(refusal(place.path(), 2).contains("has format 2"));
}

#[test]
fn damage_is_never_taken_for_a_new_directory() {
    let place = place();
    drop(Directory::open(place.path(), 2, true).expect("a new directory"));
    let file = place.path().join(FORMAT_FILE);
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replace("partitions = 2", "partitions = 3")).expect("writable");
    assert!(refusal(place.path(), 3).contains("checksum"));
    fs::write(&file, "not at all toml [").expect("writable");
    assert!(refusal(place.path(), 2).contains("damaged"));
    fs::remove_file(&file).expect("there");
    fs::create_dir(partition_path(place.path(), PartitionId(0))).expect("new");
    assert!(refusal(place.path(), 2).contains("missing beside partitions"));
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let place = place();
    let path = place.path().join("file");
    fs::write(&path, "x").expect("writable");
    assert!(refusal(&path, 2).contains("check the path"));
}

#[test]
fn memory_file_systems_have_no_direct_io() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() || has_direct_io_of_kind(shm) {
        println!("skipped: no tmpfs at /dev/shm");
        return;
    }
    let place = tempfile::tempdir_in(shm).expect("a directory");
    let text = Directory::open(place.path(), 2, false).expect_err("refused").to_string();
    assert!(text.contains("--allow-buffered-io"), "{text}");
    assert!(!Directory::open(place.path(), 2, true).expect("allowed").direct_io);
}

fn has_direct_io_of_kind(path: &Path) -> bool {
    let kind = fstatfs(File::open(path).expect("readable")).expect("known").f_type;
    !MEMORY_FILE_SYSTEMS.contains(&(kind as u64 & 0xffff_ffff))
}

#[test]
fn only_an_empty_directory_is_claimed() {
    let place = place();
    let path = place.path().join("deep/data");
    let claimed = Claimed::new(&path).expect("made");
    let why = refusal(&path, 2);
    assert!(why.contains("in use"), "no server meanwhile: {why}");
    let why = Claimed::new(&path).expect_err("claimed once").to_string();
    assert!(why.contains("in use"), "{why}");
    drop(claimed);
    fs::create_dir(path.join("lost+found")).expect("new");
    drop(Claimed::new(&path).expect("empty still"));
    fs::write(path.join("letter.txt"), "x").expect("writable");
    for lock in [true, false] {
        if !lock {
            fs::remove_file(path.join(LOCK_FILE)).expect("there");
        }
        let why = Claimed::new(&path).expect_err("not empty").to_string();
        assert!(why.contains("holds letter.txt already"), "{why}");
        assert_eq!(path.join(LOCK_FILE).exists(), lock, "nothing is made in it");
    }
    let served = place.path().join("served");
    let server = Directory::open(&served, 2, true).expect("a new directory");
    assert!(Claimed::new(&served).expect_err("served").to_string().contains("in use"));
    assert_eq!(read_description(&served).expect("there"), (server.cluster, 2));
    drop(server);
    assert!(Claimed::new(&served).expect_err("it has data").to_string().contains("already"));
}

#[test]
fn a_backup_is_not_served() {
    let place = place();
    let path = place.path().join("backup");
    drop(Directory::open(&path, 2, true).expect("a new directory"));
    fs::write(path.join(BACKUP_MANIFEST), "{}").expect("writable");
    let why = refusal(&path, 2);
    assert!(why.contains("is a backup") && why.contains("chronosdb restore"), "{why}");
    drop(Directory::open_stopped(&path).expect("tools may look at it"));
}
