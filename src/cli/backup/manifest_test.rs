//! Tests of the manifest: its lines never change, and nothing damaged is believed.

use super::*;

fn manifest() -> Manifest {
    let copied = |file: &str, bytes, siphash| Copied { file: file.into(), bytes, siphash };
    Manifest {
        header: Header {
            chronosdb_backup: 1,
            program: "0.1.0".into(),
            made: "2026-01-02T03:04:05Z".into(),
            cluster: "000000c100005eed".into(),
            partitions: 1,
            stopped: false,
        },
        files: vec![
            copied("p-00000/replica.state", 8_192, 0x0bad_cafe << 96),
            copied("p-00000/00000000000000000001.seg", 4_096, 1),
            copied("p-00000/00000000000000000003.checkpoint", 300, 2),
            copied("p-00000/00000000000000000007.run", 70_000, 3),
            copied("chronosdb.toml", 175, 4),
        ],
    }
}

/// A manifest with other lines and the right last one.
fn sealed(lines: &str, files: u64, bytes: u64) -> String {
    let sums = Sums { files, bytes, crc32: crc32fast::hash(lines.as_bytes()) };
    lines.to_owned() + &line(&sums)
}

#[test]
fn golden_lines_of_version_1() {
    let golden = include_str!("../../../tests/golden/manifest.v1.jsonl");
    assert_eq!(manifest().encode(), golden, "never changes");
    assert_eq!(Manifest::decode(golden), Ok(manifest()));
}

#[test]
fn no_byte_may_change_and_no_line_may_lack() {
    let text = manifest().encode();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let changed = String::from_utf8(bytes).expect("ASCII");
        assert!(Manifest::decode(&changed).is_err(), "byte {at}");
        assert!(Manifest::decode(&text[..at]).is_err(), "cut at {at}");
    }
    assert!(Manifest::decode(&(text + "\n")).is_err());
}

#[test]
fn another_version_is_named_before_anything_else_is_read() {
    let why = Manifest::decode("{\"chronosdb_backup\":2,\"new\":[]}\n").expect_err("newer");
    assert!(why.contains("version 2") && why.contains("newer"), "{why}");
    let why = Manifest::decode("").expect_err("empty");
    assert!(why.contains("no manifest"), "{why}");
}

#[test]
fn files_of_others_are_never_named() {
    let header = line(&manifest().header);
    let toml = line(&Copied { file: FORMAT_FILE.into(), bytes: 1, siphash: 0 });
    let toml = toml.as_str();
    let decode = |lines: &str, files| Manifest::decode(&sealed(lines, files, files));
    decode(&(header.clone() + toml), 1).expect("sound");
    for name in [
        "/etc/passwd",
        "../x",
        "p-00000/../../x",
        "p-00000/x",
        "p-0000/replica.state",
        "p-00000/replica.state/x",
        "lock",
        "lost/p-00000.1/report.json",
        "chronosdb.toml",
    ] {
        let named = toml.replace("\"chronosdb.toml\"", &format!("{name:?}"));
        let why = decode(&(header.clone() + &named + toml), 2).expect_err("no file of a backup");
        assert!(why.contains(name), "{why}");
    }
    let why = decode(&header, 0).expect_err("no description");
    assert!(why.contains("chronosdb.toml is not its last file"), "{why}");
    let why = decode(&(header.clone() + toml), 2).expect_err("a line lacks");
    assert!(why.contains("names 1 files"), "{why}");
    let why = Manifest::decode(&sealed(&(header + toml), 1, 2)).expect_err("one byte too many");
    assert!(why.contains("do not add up"), "{why}");
}
