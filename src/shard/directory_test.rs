//! Tests of the data directory: what is kept, what is refused, in which words.

use super::*;
use crate::shard::fault::{Fault, plant_behind};

fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").expect("a directory")
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
fn a_directory_in_use_is_refused() {
    let place = place();
    let _held = Directory::open(place.path(), 2, true).expect("a new directory");
    assert!(refusal(place.path(), 2).contains("in use by another process"));
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
