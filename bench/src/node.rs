//! A server that a benchmark starts, looks at, kills and starts again.
//!
//! On ports of its own, so that it never meets one that is there. Killed when it goes out of scope.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};

use crate::metrics;

/// Native address of its first shard.
pub const NATIVE: &str = "127.0.0.1:17700";
/// Its HTTP address.
pub const HTTP: &str = "127.0.0.1:18080";
const GRPC: &str = "127.0.0.1:19000";
/// Between two looks at whether it serves.
const LOOK: Duration = Duration::from_millis(10);

/// How to start it.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// The server's program [default: chronosdb beside this one]
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,

    /// An empty or new directory for its data; removed in the end
    #[arg(long, value_name = "DIR", default_value = "./chronosdb-bench-data")]
    pub data_dir: PathBuf,

    /// More of its options, as one word each: --option=--wheel-memory=64MiB
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub option: Vec<String>,
}

impl NodeArgs {
    /// That nothing is there that would be overwritten, or removed in the end.
    pub fn check_empty(&self) -> Result<(), String> {
        if self.data_dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            let path = self.data_dir.display();
            return Err(format!("--data-dir {path} is not empty; name another, or remove it"));
        }
        Ok(())
    }
}

/// The server's process.
#[derive(Debug)]
pub struct Node {
    child: Child,
    /// Where it answers HTTP.
    pub http: &'static str,
    /// From its start until it served.
    pub opened: Duration,
}

impl Node {
    /// Starts it and waits until it serves.
    pub fn start(args: &NodeArgs) -> Result<Self, String> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join("chronosdb"));
        let server = args.server.clone().or_else(beside);
        let server = server.ok_or("where is the server? say so with --server PATH")?;
        let began = Instant::now();
        let child = Command::new(&server)
            .arg("serve")
            .arg("--data-dir")
            .arg(&args.data_dir)
            .args(["--native-addr", NATIVE, "--http-addr", HTTP, "--grpc-addr", GRPC])
            .args(&args.option)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", server.display()))?;
        let mut node = Self { child, http: HTTP, opened: Duration::ZERO };
        while !metrics::get(HTTP, "/health/ready")
            .is_some_and(|text| text.starts_with("HTTP/1.1 200"))
        {
            if let Ok(Some(status)) = node.child.try_wait() {
                return Err(format!("the server ended ({status}); start it by hand to see why"));
            }
            std::thread::sleep(LOOK);
        }
        node.opened = began.elapsed();
        Ok(node)
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) {
        self.end();
    }

    /// Ends it as an operator does, by SIGTERM; how long it took.
    pub fn stop(mut self) -> Result<Duration, String> {
        let began = Instant::now();
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or("the server has no process id")?;
        kill_process(id, Signal::TERM).map_err(|error| format!("SIGTERM: {error}"))?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the server did not end well: {status}"));
        }
        Ok(began.elapsed())
    }

    /// Its highest memory counts from now on.
    pub fn forget_peak(&self) -> Result<(), String> {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        fs::write(&path, "5").map_err(|error| format!("{path}: {error}"))
    }

    /// Its memory, bytes: now, and at its highest.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? * 1_024)
        };
        (field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0))
    }

    /// Processor time that it has used so far, the kernel's for it included.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // Fields 14 and 15; the name, field 2, ends with the last parenthesis.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let ticks: u64 = fields.take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1_000 / clock_ticks_per_second())
    }

    /// Sum of a metric over all of its labels.
    pub fn metric(&self, name: &str) -> u64 {
        metrics::sum(self.http, name).unwrap_or(0)
    }

    fn end(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// Bytes of all files below a directory, as the disk counts them.
pub fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0, // removed in the meantime
    };
    entries.map(bytes).sum()
}
