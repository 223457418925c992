//! `chronosdb backup`: copies a data directory, also while a server works on it.
//!
//! ```text
//!   server: GET /backup/cut --> open every file it names --(one has gone: ask again)-->
//!       copy sealed segments whole, the last one up to its cut --> chronosdb.toml --> manifest
//! ```
//! Promises: what the server had answered before the command began is in the backup, partition by
//! partition at one moment each; nothing of the data directory is changed; a backup counts only
//! once its manifest is there, which is written last.
//!
//! Must hold: no byte behind a cut is copied. A later entry would say that ones before it are
//! synced, and where they are missing the copy would look rotten.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

pub mod copy;
pub mod cut;
pub mod manifest;
pub mod source;

use super::output::Output;
use super::values::Size;
use crate::base::ids::PartitionId;
use crate::base::limits;
use crate::shard::directory::{
    FORMAT_FILE, create_private, is_empty, partition_path, read_description, sync_directory,
};
use crate::shard::{Directory, DirectoryError};
use copy::{Copier, Pace};
use manifest::{Copied, Header, Manifest};
use source::{Content, Source};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Runs on the machine of the server, which goes on meanwhile, as a user who may read its files. Of a
data directory that no server uses, everything is copied as it is (the directory is locked until
then); what `chronosdb log repair` has put into its `lost` is not.

The backup holds what was acknowledged before it began. It is complete once DIR/manifest.jsonl is
there; one that was interrupted is of no use: remove it. `chronosdb restore` makes a data directory
of it. A backup on the disk of the data is lost with that disk.

Examples:
  chronosdb backup /mnt/backup/monday
      of the server on ./data and 127.0.0.1:8080
  chronosdb backup /mnt/backup/monday --data-dir /var/lib/chronosdb --rate 20MiB
      gently
  chronosdb backup /mnt/backup/monday --json | jq .bytes";

/// Options of `chronosdb backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// Directory that is to hold the backup; not there yet, or empty
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Data directory
    #[arg(long, value_name = "DIR", default_value = "./data")]
    #[arg(env = "CHRONOS_DATA_DIR", hide_env_values = true)]
    pub data_dir: PathBuf,

    /// The server's HTTP listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    #[arg(env = "CHRONOS_HTTP_ADDR", hide_env_values = true)]
    pub http_addr: String,

    /// Bytes read in a second, 0 for no bound [default: 100MiB while a server runs, else 0]
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<Size>,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// What is to be copied, every file open.
struct Opened {
    sources: Vec<Source>,
    /// Made now: the backup is the state of this moment.
    header: Header,
    /// No server uses the directory, and none may while this lives.
    stopped: Option<Directory>,
}

/// Runs the command.
pub fn run(args: &BackupArgs) -> Result<(), String> {
    copy::raise_descriptor_limit();
    let opened = open(args)?;
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| format!("cannot find {}: {error}", args.dir.display()))?;
    create_private(&dir).and_then(|()| is_empty(&dir)).map_err(|error| error.to_string())?;
    copy::check_space(&dir, bytes(&opened.sources))?;
    let made = make(args, &dir, opened).map_err(|why| {
        let dir = dir.display();
        format!("{why}; the backup is not complete: remove {dir} and make another")
    })?;
    let mut output = Output::new(args.json);
    let Manifest { header, files } = &made;
    let (count, bytes) = (files.len(), made.bytes());
    let state = if header.stopped { "stopped" } else { "running" };
    let text = || {
        let (data, dir) = (args.data_dir.display(), dir.display());
        let partitions = header.partitions;
        format!(
            "{dir}: {partitions} partitions in {count} files, {bytes} bytes of {data} ({state})"
        )
    };
    let object = || {
        json!({
            "dir": dir.display().to_string(),
            "data_dir": args.data_dir.display().to_string(),
            "partitions": header.partitions,
            "files": count,
            "bytes": bytes,
            "server": state,
        })
    };
    output.line(text, object)?;
    output.flush().map(drop)
}

/// Opens what a backup takes: under the lock if no server holds it, else where the server says.
fn open(args: &BackupArgs) -> Result<Opened, String> {
    match Directory::open_stopped(&args.data_dir) {
        Ok(directory) => Ok(Opened {
            sources: source::all_of(&directory.path, directory.partitions)?,
            header: Header::new(directory.cluster, directory.partitions, true),
            stopped: Some(directory),
        }),
        Err(DirectoryError::InUse { path }) => {
            let described = read_description(&path).map_err(|error| error.to_string())?;
            let (cluster, partitions) = described;
            let ask = || cut::ask(&args.http_addr, &path, partitions);
            let sources = source::of_cut(&path, ask)?;
            Ok(Opened { sources, header: Header::new(cluster, partitions, false), stopped: None })
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Bytes of the backup.
fn bytes(sources: &[Source]) -> u64 {
    sources.iter().map(|source| source.content.bytes()).sum()
}

/// Copies everything and writes the manifest.
fn make(args: &BackupArgs, dir: &Path, opened: Opened) -> Result<Manifest, String> {
    let Opened { sources, header, stopped } = opened;
    let gentle = if header.stopped { 0 } else { limits::BACKUP_RATE };
    let rate = args.rate.map_or(gentle, |Size(rate)| rate);
    let mut copier = Copier::new(bytes(&sources), Pace::new(rate));
    let files = copy_all(dir, sources, header.partitions, &mut copier)?;
    // All is read: a server may start again.
    drop(stopped);
    copier.finish();
    let manifest = Manifest { header, files };
    manifest.write(dir)?;
    Ok(manifest)
}

/// Copies the sources into `dir`, durably. The directory's description is the last of them: without
/// it nobody serves what is there.
fn copy_all(
    dir: &Path,
    sources: Vec<Source>,
    partitions: u16,
    copier: &mut Copier,
) -> Result<Vec<Copied>, String> {
    assert!(sources.last().is_some_and(|source| source.name == FORMAT_FILE), "the last file");
    for partition in (0..partitions).map(PartitionId) {
        create_private(&partition_path(dir, partition)).map_err(|error| error.to_string())?;
    }
    let mut files = Vec::with_capacity(sources.len());
    for Source { name, content } in sources {
        let target = dir.join(&name);
        let len = content.bytes();
        let (bytes, siphash) = match content {
            Content::Whole { mut file, .. } => {
                copier.copy(&name, &mut file, (len, len), &target)?
            }
            Content::UpTo { mut file, end } => {
                copier.copy(&name, &mut file, (end, len), &target)?
            }
            Content::HardState { partition, state } => {
                source::save_state(dir, partition, state)?;
                copier.digest(&name, &target)?
            }
        };
        files.push(Copied { file: name, bytes, siphash });
    }
    for partition in (0..partitions).map(PartitionId) {
        sync_directory(&partition_path(dir, partition)).map_err(|error| error.to_string())?;
    }
    Ok(files)
}

/// Makes an I/O error one sentence.
pub(super) fn fault(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> String {
    move |error| {
        let path = path.display();
        format!("cannot {doing} {path}: {error}; check the disk and the permissions")
    }
}

/// Reads a file that is no longer than it may be.
fn read_bounded(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes));
    read.map_err(fault("read", path))?;
    if bytes.len() > most {
        return Err(format!("{} is longer than {most} bytes: it is damaged", path.display()));
    }
    Ok(bytes)
}
