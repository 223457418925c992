//! `chronosdb restore`: makes a data directory of a backup.
//!
//! ```text
//!   manifest --> every checksum --> lock the new directory --> partitions' directories
//!      --> files, checked once more, synced --> chronosdb.toml, aside and renamed
//! ```
//! Promises: nothing is written before all of the backup is known to be sound; no server starts on
//! the directory meanwhile (the lock), nor on one whose restore was interrupted: it has partitions
//! and no description, which is damage to every version of the server.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::backup::copy::{Copier, Pace, check_space};
use super::backup::fault;
use super::backup::manifest::{Copied, Manifest};
use super::output::Output;
use crate::base::ids::PartitionId;
use crate::shard::DirectoryError;
use crate::shard::directory::{
    Claimed, FORMAT_FILE, create_private, partition_path, read_description, sync_directory,
};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Reads all of the backup and compares its checksums before it writes anything. The server is started
on the new directory as on any other, with the --partitions of the old one.

It is the state of the moment at which the backup began: events published later are not in it (to
publish them again with their ids is safe), and what was acknowledged later is delivered again.
Never let a restored directory and the one it was made of serve the same clients.

Examples:
  chronosdb restore /mnt/backup/monday --data-dir /var/lib/chronosdb
      into a directory that is empty or not there yet
  chronosdb restore /mnt/backup/monday --verify
      only compares the checksums";

/// Options of `chronosdb restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// Directory that `chronosdb backup` has made
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Data directory to be made; not there yet, or empty
    #[arg(long, value_name = "DIR", required_unless_present = "verify")]
    pub data_dir: Option<PathBuf>,

    /// Compare the checksums and write nothing
    #[arg(long, conflicts_with = "data_dir")]
    pub verify: bool,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &RestoreArgs) -> Result<(), String> {
    let manifest = Manifest::read(&args.dir)?;
    let passes = if args.data_dir.is_some() { 2 } else { 1 };
    let mut copier = Copier::new(manifest.bytes() * passes, Pace::new(0));
    for copied in &manifest.files {
        let path = args.dir.join(&copied.file);
        let found = copier.digest(&copied.file, &path)?;
        compare(copied, found, &path)?;
    }
    let made = match &args.data_dir {
        Some(data) => Some(restore(&args.dir, data, &manifest, &mut copier)?),
        None => None,
    };
    copier.finish();
    let mut output = Output::new(args.json);
    let (files, bytes) = (manifest.files.len(), manifest.bytes());
    let partitions = manifest.header.partitions;
    let text = || {
        let (dir, as_of) = (args.dir.display(), &manifest.header.made);
        let what =
            format!("{partitions} partitions in {files} files, {bytes} bytes, as of {as_of}");
        match &made {
            Some(data) => format!("{}: {what}", data.display()),
            None => format!("{dir} is sound: {what}"),
        }
    };
    let object = || {
        json!({
            "dir": args.dir.display().to_string(),
            "data_dir": made.as_ref().map(|data| data.display().to_string()),
            "partitions": partitions,
            "files": files,
            "bytes": bytes,
            "made": manifest.header.made,
        })
    };
    output.line(text, object)?;
    output.flush().map(drop)
}

/// Makes the data directory; where it is.
fn restore(
    dir: &Path,
    data: &Path,
    manifest: &Manifest,
    copier: &mut Copier,
) -> Result<PathBuf, String> {
    let claimed = Claimed::new(data).map_err(|error| refusal(data, &error))?;
    let data = claimed.path.as_path();
    check_space(data, manifest.bytes())?;
    fill(dir, data, manifest, copier).map_err(|why| {
        let shown = data.display();
        format!("{why}; the data directory is not complete: remove {shown} and restore again")
    })?;
    Ok(claimed.path)
}

fn fill(dir: &Path, data: &Path, manifest: &Manifest, copier: &mut Copier) -> Result<(), String> {
    let plain = |error: DirectoryError| error.to_string();
    // From the first one on, a server takes the directory for damaged, not for new.
    let partitions = || (0..manifest.header.partitions).map(PartitionId);
    for partition in partitions() {
        create_private(&partition_path(data, partition)).map_err(plain)?;
    }
    let aside = data.join(format!("{FORMAT_FILE}.new"));
    for copied in &manifest.files {
        let path = dir.join(&copied.file);
        let is_description = copied.file == FORMAT_FILE;
        let to = if is_description { aside.clone() } else { data.join(&copied.file) };
        let mut file = fs::File::open(&path).map_err(fault("open", &path))?;
        let extent = (copied.bytes, copied.bytes);
        let found = copier.copy(&copied.file, &mut file, extent, &to)?;
        compare(copied, found, &path)?;
    }
    for partition in partitions() {
        sync_directory(&partition_path(data, partition)).map_err(plain)?;
    }
    let path = data.join(FORMAT_FILE);
    fs::rename(&aside, &path).map_err(fault("make", &path))?;
    sync_directory(data).map_err(plain)?;
    let (cluster, count) = read_description(data).map_err(plain)?;
    let named = (format!("{cluster:016x}"), count);
    if named != (manifest.header.cluster.clone(), manifest.header.partitions) {
        return Err(format!("{FORMAT_FILE} of the backup is not what its manifest says"));
    }
    Ok(())
}

/// Refuses a file that is not what was copied.
fn compare(copied: &Copied, found: (u64, u128), path: &Path) -> Result<(), String> {
    if found == (copied.bytes, copied.siphash) {
        return Ok(());
    }
    let what = if found.0 == copied.bytes {
        format!("its checksum is {:032x} instead of {:032x}", found.1, copied.siphash)
    } else {
        format!("it has {} bytes instead of {}", found.0, copied.bytes)
    };
    Err(format!("{} is damaged ({what}): take another backup", path.display()))
}

fn refusal(data: &Path, error: &DirectoryError) -> String {
    let interrupted = partition_path(data, PartitionId(0)).exists()
        && !data.join(FORMAT_FILE).exists()
        && matches!(error, DirectoryError::NotEmpty { .. });
    if interrupted {
        let data = data.display();
        return format!(
            "{data} holds partitions without {FORMAT_FILE}, as an interrupted restore leaves \
             them; remove it, or name another --data-dir"
        );
    }
    error.to_string()
}
