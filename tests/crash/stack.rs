//! A file system on a disk that can be watched and broken.
//!
//! ```text
//! file system  -->  loop device (direct I/O)  -->  FUSE file  -->  qemu-storage-daemon
//!                                                  node `top`: a write log, or a throttle that
//!                                                  faults are put below, over the image's file
//! ```
//! Everything is taken down when it is dropped, whatever state it is in.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::minor;
use rustix::process::{Pid, Signal, kill_process};

use crate::tools::run;
use crate::wait::until;

/// Size of the disk: what XFS needs, and room for a dozen segments.
pub const DISK_BYTES: u64 = 1 << 30;

/// A file system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FileSystem {
    /// With its journal, in ordered mode.
    Ext4,
    /// As it comes.
    Xfs,
}

impl FileSystem {
    /// Makes one in a file. Before the file is exported: the export can't write zeroes.
    pub fn make(self, image: &Path, bytes: u64) -> Result<(), String> {
        let file = fs::File::create(image).expect("a place for the image");
        file.set_len(bytes).expect("a sparse file");
        let mut command = match self {
            Self::Ext4 => Command::new("mkfs.ext4"),
            Self::Xfs => Command::new("mkfs.xfs"),
        };
        match self {
            Self::Ext4 => command.args(["-q", "-E", "lazy_itable_init=0,nodiscard"]),
            Self::Xfs => command.args(["-q", "-K"]),
        };
        run(command.arg(image)).map(drop)
    }

    /// Its name for `mount`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "nodiscard",
            // Copies of one image have one identity.
            Self::Xfs => "nodiscard,nouuid",
        }
    }
}

/// A mounted file system; unmounted when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    device: String,
    /// Where it is mounted.
    pub at: PathBuf,
}

impl Mounted {
    /// Mounts the file system in a file (its journal is replayed), at a directory that is made.
    pub fn new(file: &Path, system: FileSystem, at: &Path, direct: bool) -> Result<Self, String> {
        fs::create_dir_all(at).expect("a mount point");
        let mut setup = Command::new("losetup");
        setup.args(["--find", "--show"]).arg(format!("--direct-io={}", switch(direct)));
        let device = run(setup.arg(file))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", system.name(), "-o", system.options(), &device]).arg(at);
        if let Err(error) = run(&mut mount) {
            detach(&device);
            return Err(error);
        }
        Ok(Self { device, at: at.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The kernel may hold files of a killed process a little longer.
        let unmounted = (0..200).any(|_| {
            let done = run(Command::new("umount").arg(&self.at)).is_ok();
            if !done {
                // Between two polls of the mount.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done
        });
        if !unmounted {
            // A dead disk: whatever is cached is of no use any more.
            let _lazily = run(Command::new("umount").arg("-l").arg(&self.at));
        }
        detach(&self.device);
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn detach(device: &str) {
    // There is nothing more to do about one that does not go.
    let _gone = run(Command::new("losetup").args(["-d", device]));
}

/// What lies between the export and the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// A log of all writes.
    Recorded,
    /// A throttle, which lets everything pass until it is told otherwise by QMP.
    Breakable,
}

/// The file systems asked for (by name, or `both`) with which a stack can be built here; why there
/// is none.
pub fn available(asked: &str, place: &Path) -> Result<Vec<FileSystem>, String> {
    let (mut here, mut reason) = (Vec::new(), String::new());
    for system in [FileSystem::Ext4, FileSystem::Xfs] {
        if asked != "both" && asked != system.name() {
            continue;
        }
        match probe(&place.join("probe"), system) {
            Ok(()) => here.push(system),
            Err(error) => reason = format!("no {} here: {error}", system.name()),
        }
    }
    if here.is_empty() {
        return Err(reason);
    }
    if !reason.is_empty() {
        println!("{reason}");
    }
    Ok(here)
}

/// Whether a stack with this file system can be built here; if not, why.
fn probe(place: &Path, system: FileSystem) -> Result<(), String> {
    fs::create_dir_all(place).expect("a place for it");
    let made = system.make(&place.join("disk.img"), DISK_BYTES);
    let stack = made.and_then(|()| Stack::start(place, system, Chain::Recorded));
    let well = stack.map(drop);
    fs::remove_dir_all(place).expect("it was made here");
    well
}

/// The daemon and its export.
#[derive(Debug)]
pub struct Exported {
    daemon: Child,
    export: PathBuf,
    /// Socket that takes QMP commands.
    pub monitor: PathBuf,
}

/// The whole stack, file system on top.
#[derive(Debug)]
pub struct Stack {
    // Dropped in this order.
    mounted: Mounted,
    /// The daemon below.
    pub exported: Exported,
}

impl Stack {
    /// Exports `place/disk.img` and mounts it at `place/mnt`. With [`Chain::Recorded`] its writes
    /// go to `place/log.img`.
    pub fn start(place: &Path, system: FileSystem, chain: Chain) -> Result<Self, String> {
        let exported = Exported::start(place, chain)?;
        let mounted = Mounted::new(&exported.export, system, &place.join("mnt"), true)?;
        Ok(Self { mounted, exported })
    }

    /// Where the file system is.
    pub fn at(&self) -> &Path {
        &self.mounted.at
    }
}

impl Exported {
    fn start(place: &Path, chain: Chain) -> Result<Self, String> {
        let image = place.join("disk.img");
        let (export, monitor) = (place.join("export.raw"), place.join("qmp.sock"));
        fs::write(&export, "").expect("a mount point");
        let _before = fs::remove_file(&monitor);
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &format!("file,node-name=image,{}", file(&image))]);
        match chain {
            Chain::Recorded => {
                let log = place.join("log.img");
                fs::write(&log, "").expect("a place for the log");
                command.args(["--blockdev", &format!("file,node-name=log,{}", file(&log))]);
                command.args([
                    "--blockdev",
                    "blklogwrites,node-name=top,file=image,log=log,log-sector-size=512,\
                     log-super-update-interval=1",
                ]);
            }
            Chain::Breakable => {
                command.args(["--object", "throttle-group,id=free"]);
                command.args(["--object", "throttle-group,id=slow,x-iops-total=20"]);
                command
                    .args(["--blockdev", "throttle,node-name=top,throttle-group=free,file=image"]);
            }
        }
        command.args([
            "--export",
            &format!("fuse,id=export,node-name=top,mountpoint={},writable=on", text(&export)),
        ]);
        command.args([
            "--chardev",
            &format!("socket,id=qmp,path={},server=on,wait=off", text(&monitor)),
        ]);
        command.args(["--monitor", "chardev=qmp"]);
        let said = place.join("daemon.txt");
        let log = fs::File::create(&said).expect("a place for its words");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = command.spawn().map_err(|error| error.to_string())?;
        let mut exported = Self { daemon, export, monitor };
        let bytes = fs::metadata(&image).expect("the image was made").len();
        let up = until("the export", || {
            let ended = exported.daemon.try_wait().expect("it is our child").is_some();
            let there = fs::metadata(&exported.export).is_ok_and(|file| file.len() == bytes);
            (ended || there).then_some(!ended)
        });
        if !up {
            return Err(fs::read_to_string(&said).unwrap_or_default().trim().to_owned());
        }
        exported.one_at_a_time(place).map(|()| exported)
    }

    /// Has the kernel send one write at a time. qemu before 10.2 takes a request while it works on
    /// another, into the same buffer: two writes in flight would mix their bytes.
    fn one_at_a_time(&self, place: &Path) -> Result<(), String> {
        let control = place.join("fuse");
        fs::create_dir_all(&control).expect("a mount point");
        run(Command::new("mount").args(["-t", "fusectl", "fusectl"]).arg(&control))?;
        let device = fs::metadata(&self.export).expect("it is exported").dev();
        let knob = control.join(minor(device).to_string()).join("max_background");
        let turned = fs::write(knob, "1").map_err(|error| format!("FUSE's limit: {error}"));
        run(Command::new("umount").arg(&control))?;
        turned
    }

    /// Stops it, lets it go on, or kills it.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.daemon.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it is our child");
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        for signal in [Signal::CONT, Signal::TERM] {
            self.signal(signal);
        }
        self.daemon.wait().expect("it is our child");
        // One that was killed leaves its mount behind.
        let _gone = run(Command::new("umount").arg("-l").arg(&self.export));
    }
}

/// A file node: flushes end here, since the machine's own power is not what is tested.
fn file(path: &Path) -> String {
    format!("filename={},cache.no-flush=on", text(path))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the place has a plain name")
}
