//! A server process: started on free ports, its addresses read from what it prints, and ended.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chronosdb::client::Client;
use chronosdb::wire::events::event_service_client::EventServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use crate::wait::{PATIENCE, until};

/// A directory on a file system with direct I/O, removed at the end.
pub fn place() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(target).expect("target is writable")
}

/// The program, without what this environment would add to its options. `CHRONOSDB_PROGRAM` names
/// another than the one that cargo built.
pub fn program(arguments: &[&str]) -> Command {
    let given = std::env::var_os("CHRONOSDB_PROGRAM");
    let mut command = Command::new(given.unwrap_or(env!("CARGO_BIN_EXE_chronosdb").into()));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHRONOS_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Setup {
    data: PathBuf,
    options: Vec<(String, String)>,
}

impl Setup {
    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// On a data directory: two shards, four partitions, free ports.
    pub fn new(data: &Path) -> Self {
        let setup = Self { data: data.to_owned(), options: Vec::new() };
        ["--grpc-addr", "--http-addr", "--native-addr"]
            .into_iter()
            .fold(setup, |setup, listener| setup.with(listener, "127.0.0.1:0"))
            .with("--shards", 2)
            .with("--partitions", 4)
            .with("--node-id", "it-node")
    }

    /// The same on another data directory.
    pub fn at(&self, data: &Path) -> Self {
        Self { data: data.to_owned(), ..self.clone() }
    }

    /// With an option, in place of what it was before.
    pub fn with(mut self, option: &str, value: impl Display) -> Self {
        self.options.retain(|(name, _)| name != option);
        self.options.push((option.to_owned(), value.to_string()));
        self
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = program(&["serve"]);
        command.arg("--data-dir").arg(&self.data);
        for (name, value) in &self.options {
            command.arg(format!("{name}={value}"));
        }
        command
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// If it ends or does not come up.
    pub fn start(&self) -> Server {
        serving(self.command())
    }

    /// Starts it and kills it if it does not serve within `time`.
    pub fn start_or_kill(&self, time: Duration) -> Option<Server> {
        match Starting::new(self.command()).served(time) {
            Ok(server) => Some(server),
            Err(mut starting) => {
                let early = starting.child.0.try_wait().expect("it is our child");
                let log = starting.log.lock().expect("no panic").clone();
                assert!(early.is_none(), "it ended by itself while starting: {early:?} {log}");
                starting.child.0.kill().expect("it is our child");
                starting.child.0.wait().expect("it is our child");
                None
            }
        }
    }

    /// Starts it although it must refuse; returns its sentence.
    ///
    /// # Panics
    /// If it serves, exits with 0, or says anything but one sentence.
    pub fn refused(&self) -> String {
        refused(self.command())
    }
}

/// Runs a command that must come to serve.
///
/// # Panics
/// If it ends or does not come up.
pub fn serving(command: Command) -> Server {
    Starting::new(command).served(PATIENCE).unwrap_or_else(|mut starting| {
        let ended = starting.child.0.try_wait();
        panic!("it does not serve ({ended:?}): {}", starting.log.lock().expect("no panic"))
    })
}

/// Runs a command that must end by itself with a failure; returns the sentence it says.
pub fn refused(mut command: Command) -> String {
    let mut child = command.spawn().expect("the program is built");
    let mut stdout = child.stdout.take().expect("piped");
    let log = gather(child.stderr.take().expect("piped"));
    let status = until("its refusal", || child.try_wait().expect("it is our child"));
    let mut printed = String::new();
    stdout.read_to_string(&mut printed).expect("text");
    let said = until("the end of its log", || {
        (Arc::strong_count(&log) == 1).then(|| log.lock().expect("no panic").clone())
    });
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(printed, "", "nothing is announced");
    let mut own = said.lines().filter(|line| line.starts_with("chronosdb: "));
    let sentence = own.next().unwrap_or_else(|| panic!("it says why: {said:?}")).to_owned();
    assert!(own.next().is_none(), "one sentence: {said}");
    assert!(said.trim_end().ends_with(&sentence), "nothing follows it: {said}");
    assert!(!said.contains("panicked"), "{said}");
    sentence["chronosdb: ".len()..].to_owned()
}

/// Everything a pipe says, and a second owner until it ends.
fn gather(pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let writer = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut log = writer.lock().expect("no panic");
            log.push_str(&line);
            log.push('\n');
        }
    });
    log
}

/// A process that may come to serve. Killed when it is dropped.
struct Starting {
    child: Process,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
}

/// A child that does not outlive its handle, whatever fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended and been waited for.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl Starting {
    fn new(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program is built");
        let log = gather(child.stderr.take().expect("piped"));
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody listens any more once it serves.
                let _gone = sender.send(line);
            }
        });
        Self { child: Process(child), lines, log }
    }

    fn served(self, time: Duration) -> Result<Server, Self> {
        let end = Instant::now() + time;
        let mut printed = Vec::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => printed.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(self);
                }
            }
            // The last line it prints.
            if printed.last().is_some_and(|line| line.trim_start().starts_with("recovered")) {
                return Ok(Server::new(self.child, self.log, printed));
            }
        }
    }
}

/// A server that serves. Killed when it is dropped.
pub struct Server {
    child: Process,
    log: Arc<Mutex<String>>,
    printed: Vec<String>,
    /// gRPC listener.
    pub grpc: SocketAddr,
    /// HTTP listener.
    pub http: SocketAddr,
    /// The native port that all shards share.
    pub native: SocketAddr,
}

impl Server {
    fn new(child: Process, log: Arc<Mutex<String>>, printed: Vec<String>) -> Self {
        let word = |name: &str| {
            let rest = printed.iter().find_map(|line| line.trim_start().strip_prefix(name));
            let rest = rest.unwrap_or_else(|| panic!("{name} is not printed: {printed:?}"));
            rest.split_whitespace().next().expect("a value").to_owned()
        };
        let address = |text: &str| text.parse().expect("an address");
        let (grpc, native) = (address(&word("gRPC")), address(&word("native")));
        let http = address(word("HTTP").strip_prefix("http://").expect("a URL"));
        Self { child, log, printed, grpc, http, native }
    }

    /// What it printed at its start.
    pub fn printed(&self) -> String {
        self.printed.join("\n")
    }

    /// Events that it found in its logs.
    pub fn recovered(&self) -> u64 {
        let last = self.printed.last().expect("it printed").trim_start();
        let count = last.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        count.unwrap_or_else(|| panic!("a count in {last:?}"))
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// A native client.
    pub async fn client(&self) -> Client {
        Client::connect(&self.native.to_string()).await.expect("it serves")
    }

    /// A gRPC client with no limits of its own.
    pub async fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel().await)
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(usize::MAX)
    }

    /// A gRPC connection.
    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).expect("a URL");
        endpoint.connect().await.expect("it serves")
    }

    /// The gRPC port, for those who may be refused: neither connecting nor a call takes long.
    pub fn hasty_endpoint(&self) -> Endpoint {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).expect("a URL");
        endpoint.connect_timeout(Duration::from_secs(2)).timeout(Duration::from_secs(10))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.0.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it is our child");
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        until("its end", || self.child.0.try_wait().expect("it is our child"))
    }

    /// SIGTERM, and waits for an orderly end.
    ///
    /// # Panics
    /// If it does not exit with 0.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// If it had ended before, by itself.
    pub fn kill(mut self) {
        let early = self.child.0.try_wait().expect("it is our child");
        assert!(early.is_none(), "it ended by itself: {early:?} {}", self.log());
        self.child.0.kill().expect("it is our child");
        self.child.0.wait().expect("it is our child");
    }

    /// A number of `/proc/<pid>/status`, kB or plain.
    pub fn status_number(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.0.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known line");
        let number = line.trim_start_matches(':').split_whitespace().next().expect("a value");
        number.parse().expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.lock().map_or_else(|_| String::new(), |log| log.clone());
            eprintln!("---- log of the server {}:\n{log}----", self.child.0.id());
        }
    }
}
