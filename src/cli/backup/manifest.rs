//! The manifest of a backup: which files it has, how long they are, and their checksums.
//!
//! ```text
//!   {"chronosdb_backup":1,"program":…,"made":…,"cluster":…,"partitions":4,"stopped":false}
//!   {"file":"p-00000/replica.state","bytes":8192,"siphash":…}              one per file
//!   {"files":9,"bytes":123456,"crc32":"…"}        sums, and the CRC of all lines before this one
//! ```
//! Lines of JSON, `manifest.jsonl`, described in `schemas/FORMAT.md`. Written last, aside and
//! renamed: a backup without it was interrupted. Nothing of it is believed before its last line
//! fits, and no file is named by it that [`source::is_name`](super::source::is_name) does not know.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::source::is_name;
use super::{fault, read_bounded};
use crate::base::limits::{BACKUP_FILES, BACKUP_TEXT_BYTES, PARTITIONS_MAX};
use crate::base::time;
use crate::cli::when::rfc3339;
use crate::shard::directory::{BACKUP_MANIFEST, FORMAT_FILE, sync_directory};

/// The version that is written; no other is read.
const VERSION: u64 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the manifest.
    pub chronosdb_backup: u64,
    /// Version of the program that made it.
    pub program: String,
    /// When, RFC 3339, for people.
    pub made: String,
    /// Number of the data directory, 16 hex digits.
    pub cluster: String,
    /// Partitions of it.
    pub partitions: u16,
    /// No server used it meanwhile.
    pub stopped: bool,
}

/// A line per file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Name below the directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// SipHash-2-4 of all of it, 128 bits: see `copy`.
    #[serde(with = "digits")]
    pub siphash: u128,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    files: u64,
    bytes: u64,
    #[serde(with = "hex")]
    crc32: u32,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What was copied.
    pub header: Header,
    /// The files, in the order in which they were; the directory's description is the last.
    pub files: Vec<Copied>,
}

impl Header {
    /// Of a backup that is made now.
    #[must_use]
    pub fn new(cluster: u64, partitions: u16, stopped: bool) -> Self {
        Self {
            chronosdb_backup: VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            made: rfc3339(time::wall_ms() as i64),
            cluster: format!("{cluster:016x}"),
            partitions,
            stopped,
        }
    }
}

impl Manifest {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|copied| copied.bytes).sum()
    }

    /// The lines.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = line(&self.header);
        self.files.iter().for_each(|copied| text += &line(copied));
        let crc32 = crc32fast::hash(text.as_bytes());
        let sums = Sums { files: self.files.len() as u64, bytes: self.bytes(), crc32 };
        text + &line(&sums)
    }

    /// Reads the lines. An error is the end of a sentence about the manifest.
    pub fn decode(text: &str) -> Result<Self, String> {
        let first = text.lines().next().unwrap_or_default();
        // Another version has other fields, but it says which it is.
        let value: serde_json::Value = serde_json::from_str(first).unwrap_or_default();
        match value["chronosdb_backup"].as_u64() {
            Some(VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "has version {other}, this program reads version {VERSION}: restore it with \
                     the version that made it, or a newer one"
                ));
            }
            None => return Err("is no manifest of a backup".into()),
        }
        let damaged = |why: &str| format!("is damaged ({why}): take another backup");
        let body = text.strip_suffix('\n').ok_or_else(|| damaged("its end is missing"))?;
        let last = body.rfind('\n').ok_or_else(|| damaged("its end is missing"))? + 1;
        let sums: Sums =
            serde_json::from_str(&body[last..]).map_err(|_| damaged("its end is missing"))?;
        if crc32fast::hash(&text.as_bytes()[..last]) != sums.crc32 {
            return Err(damaged("its checksum does not match"));
        }
        let broken = |error: serde_json::Error| damaged(&error.to_string());
        let header: Header = serde_json::from_value(value).map_err(broken)?;
        let lines = text[..last].lines().skip(1);
        let files: Result<Vec<Copied>, _> = lines.map(serde_json::from_str).collect();
        let manifest = Self { header, files: files.map_err(broken)? };
        manifest.check(&sums).map_err(|why| damaged(&why))?;
        Ok(manifest)
    }

    fn check(&self, sums: &Sums) -> Result<(), String> {
        if self.files.len() > BACKUP_FILES || sums.files != self.files.len() as u64 {
            return Err(format!("it names {} files", self.files.len()));
        }
        if !(1..=PARTITIONS_MAX).contains(&self.header.partitions) {
            return Err(format!("it has {} partitions", self.header.partitions));
        }
        let mut bytes: u64 = 0;
        let mut names = BTreeSet::new();
        for copied in &self.files {
            let name = copied.file.as_str();
            if !is_name(name) || !names.insert(name) {
                return Err(format!("it names {name:?}"));
            }
            bytes = bytes.checked_add(copied.bytes).ok_or("lengths that can't be")?;
        }
        if bytes != sums.bytes {
            return Err("its lengths do not add up".into());
        }
        if self.files.last().is_none_or(|last| last.file != FORMAT_FILE) {
            return Err(format!("{FORMAT_FILE} is not its last file"));
        }
        Ok(())
    }

    /// Writes it: from now on the backup counts.
    pub fn write(&self, dir: &Path) -> Result<(), String> {
        let (path, aside) = (dir.join(BACKUP_MANIFEST), dir.join(format!("{BACKUP_MANIFEST}.new")));
        // What it speaks of is there before it is.
        sync_directory(dir).map_err(|error| error.to_string())?;
        let written = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&aside);
        written
            .and_then(|mut file| {
                file.write_all(self.encode().as_bytes()).and_then(|()| file.sync_all())
            })
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(fault("write", &path))?;
        sync_directory(dir).map_err(|error| error.to_string())
    }

    /// The manifest of the backup in a directory. An error is one sentence that says what to do.
    pub fn read(dir: &Path) -> Result<Self, String> {
        let path = dir.join(BACKUP_MANIFEST);
        if !path.exists() {
            let shown = dir.display();
            if !dir.is_dir() {
                return Err(format!(
                    "there is no directory {shown}; name one that `chronosdb backup` has made"
                ));
            }
            return Err(format!(
                "{shown} has no {BACKUP_MANIFEST}: it is no backup, or one that was interrupted, \
                 which is of no use: remove it and take another"
            ));
        }
        let text = String::from_utf8(read_bounded(&path, BACKUP_TEXT_BYTES)?).unwrap_or_default();
        Self::decode(&text).map_err(|why| format!("{} {why}", path.display()))
    }
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain fields are always JSON") + "\n"
}

/// A CRC as it is written elsewhere: eight hex digits.
mod hex {
    use serde::{Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
    pub fn serialize<S: Serializer>(crc32: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{crc32:08x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        super::digits::read(deserializer, 8).map(|number| number as u32)
    }
}

/// A sum of 128 bits: 32 hex digits.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(sum: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{sum:032x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        read(deserializer, 32)
    }

    /// A number of so many digits, no more and no less.
    pub fn read<'de, D: Deserializer<'de>>(from: D, count: usize) -> Result<u128, D::Error> {
        let text = String::deserialize(from)?;
        let plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| plain);
        number.ok_or_else(|| D::Error::custom(format!("a checksum has {count} hex digits")))
    }
}

#[cfg(test)]
#[path = "manifest_test.rs"]
mod manifest_test;
