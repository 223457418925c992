//! Errors of the disk below a serving node: it stops and loses nothing, or waits and goes on.
//!
//! Each case has a disk of its own, a load on it, and one fault. What was sent after the fault was
//! in place is told apart by its position: 1, where all before has 0.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chronosdb::base::ids::Offset;
use chronosdb::base::time;
use chronosdb::client::{Event, ReplayOptions, ReplayRange};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::chance::Chance;
use crate::faults::{Eio, Faults};
use crate::ledger::{Known, Ledger, Position, Scribe, payload};
use crate::load::{Load, TOPICS, impatient};
use crate::oracle;
use crate::recording::setup;
use crate::server::{Server, Setup};
use crate::stack::{self, Chain, FileSystem, Stack};
use crate::wait::{for_the, until};

/// Size of the disk: hardly more than XFS needs, so that it is filled quickly.
const BYTES: u64 = 320 << 20;
/// Most bytes of a payload.
const PAYLOAD: u64 = 200 << 10;
/// Without any progress for so long, a load is taken to be stuck.
const STUCK: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// File system below the node
    #[arg(long, default_value = "both", value_parser = ["ext4", "xfs", "both"])]
    fs: String,
    /// Only the cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Repeats the choices of a run (not its interleaving) [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Case {
    /// Writes or flushes fail while it serves.
    Fails(Eio),
    /// Reads fail while it serves.
    ReplayFails,
    /// Reads bring other bytes than were written while it serves.
    Rots,
    /// Reads fail while it starts.
    StartFails,
    /// A hundred times slower.
    Slow,
    /// The disk answers nothing for 5 s.
    Hangs,
    /// The disk is gone.
    Dies,
    /// No space is left, and later there is; perhaps with a restart in between.
    Full { restarts: bool },
}

const CASES: [(&str, Case); 12] = [
    ("write-once", Case::Fails(Eio { on: "write", once: true })),
    ("write-always", Case::Fails(Eio { on: "write", once: false })),
    ("flush-once", Case::Fails(Eio { on: "flush", once: true })),
    ("flush-always", Case::Fails(Eio { on: "flush", once: false })),
    ("read-serving", Case::ReplayFails),
    ("read-starting", Case::StartFails),
    ("rot-serving", Case::Rots),
    ("slow", Case::Slow),
    ("hangs", Case::Hangs),
    ("dies", Case::Dies),
    ("full", Case::Full { restarts: false }),
    ("full-restart", Case::Full { restarts: true }),
];

/// Runs the cases in `place`; returns whether all is well.
pub async fn run(options: &Options, place: &Path) -> bool {
    let seed = options.seed.unwrap_or_else(time::wall_ms);
    println!("seed {seed}");
    let systems = match stack::available(&options.fs, place) {
        Ok(systems) => systems,
        Err(reason) => {
            println!("skipped: {reason}");
            return true;
        }
    };
    let mut failed = 0;
    let began = Instant::now();
    for system in systems {
        for (name, case) in CASES.into_iter().filter(|(name, _)| name.contains(&options.only)) {
            let place = place.join(format!("{}-{name}", system.name()));
            let began = Instant::now();
            let done = tokio::spawn(async move {
                let mut broken = Broken::new(&place, system, seed);
                let found = broken.run(case).await;
                drop(broken);
                fs::remove_dir_all(&place).expect("it was made here");
                found
            });
            let name = format!("{} {name}", system.name());
            match done.await {
                Ok(found) => println!("{name}: {found} ({} s)", began.elapsed().as_secs()),
                Err(panic) => {
                    failed += 1;
                    let said = panic.into_panic();
                    let said = said.downcast_ref::<String>().map_or("a panic", String::as_str);
                    println!("{name}: FAILED {said}");
                }
            }
        }
    }
    println!("{failed} cases failed, {} s", began.elapsed().as_secs());
    failed == 0
}

/// A disk with a fault to come, and what clients know of the node on it.
struct Broken {
    place: PathBuf,
    system: FileSystem,
    chance: Chance,
    /// 0 before the fault is in place, 1 behind.
    phase: Arc<AtomicU64>,
    scribe: Scribe,
    /// `None` while it is taken down.
    stack: Option<Stack>,
}

impl Broken {
    fn new(place: &Path, system: FileSystem, seed: u64) -> Self {
        let _before = fs::remove_dir_all(place);
        fs::create_dir_all(place).expect("a place for the disk");
        system.make(&place.join("disk.img"), BYTES).expect("as in the probe");
        let phase = Arc::new(AtomicU64::new(0));
        let look = Arc::clone(&phase);
        Self {
            place: place.to_owned(),
            system,
            chance: Chance::seeded(seed),
            phase,
            scribe: Scribe::new(Ledger::default(), move || look.load(Ordering::SeqCst)),
            stack: Some(Stack::start(place, system, Chain::Breakable).expect("as in the probe")),
        }
    }

    async fn run(&mut self, case: Case) -> String {
        match case {
            Case::Fails(eio) => self.fails(eio).await,
            Case::ReplayFails => self.replay_fails().await,
            Case::Rots => self.rots().await,
            Case::StartFails => self.start_fails().await,
            Case::Slow => self.slow().await,
            Case::Hangs => self.hangs().await,
            Case::Dies => self.dies().await,
            Case::Full { restarts } => self.full(restarts).await,
        }
    }

    async fn fails(&mut self, eio: Eio) -> String {
        let (mut server, load) = self.loaded(4 << 20).await;
        self.faults().inject(eio);
        self.fault_is_in_place();
        let said = stopped(&mut server);
        load.stop().await;
        if !eio.once {
            self.nothing_acknowledged_since("the disk failed");
        }
        // A supervisor starts it on the file system as it is, if that can still be written.
        let same = eio.once && fs::write(self.at().join("probe"), "x").is_ok();
        if !same {
            self.rebuild();
        }
        let how = if same { "the same mount" } else { "a new mount" };
        format!("{said}; on {how} {}", self.recovers().await)
    }

    async fn dies(&mut self) -> String {
        let (mut server, load) = self.loaded(4 << 20).await;
        self.stack().exported.signal(Signal::KILL);
        self.fault_is_in_place();
        let said = stopped(&mut server);
        load.stop().await;
        self.nothing_acknowledged_since("the disk died");
        drop(server);
        self.rebuild();
        format!("{said}; {}", self.recovers().await)
    }

    async fn hangs(&mut self) -> String {
        let (server, load) = self.loaded(4 << 20).await;
        self.stack().exported.signal(Signal::STOP);
        self.fault_is_in_place();
        let more = self.makes_progress(4 << 20);
        assert!(timeout(STUCK, more).await.is_err(), "a load that needs no disk");
        self.nothing_acknowledged_since("the disk hangs");
        self.stack().exported.signal(Signal::CONT);
        self.makes_progress(4 << 20).await;
        server.kill();
        load.stop().await;
        format!("waited and went on; {}", self.recovers().await)
    }

    async fn slow(&mut self) -> String {
        let (server, load) = self.loaded(2 << 20).await;
        load.stop().await;
        let mut faults = self.faults();
        faults.throttle(true);
        let client = server.client().await;
        let mut slowest = Duration::ZERO;
        for number in 0..20 {
            let event = {
                let id = format!("slow-{number}");
                Event::new(TOPICS[0], id.as_str(), payload(&id, 100))
            };
            self.scribe.sending(&event);
            let (id, began) = (event.message_id.clone(), Instant::now());
            let result = for_the("a slow publish", client.publish(event)).await;
            assert!(self.scribe.answered(&id, &result), "{id}: {result:?}");
            slowest = slowest.max(began.elapsed());
        }
        faults.throttle(false);
        server.kill();
        let slowest = slowest.as_millis();
        format!("20 publishes, {slowest} ms the slowest; {}", self.recovers().await)
    }

    /// A replay whose reads fail ends with an error, and never as if it were complete.
    async fn replay_fails(&mut self) -> String {
        let mut server = self.with_little_memory().await;
        self.faults().inject(Eio { on: "read", once: false });
        let came = self.incomplete_replay(&server).await;
        let said = stopped(&mut server);
        self.rebuild();
        format!("{said}, {came} events into a replay; {}", self.recovers().await)
    }

    /// A replay over bytes that have rotted on the disk never hands them out, and the next start
    /// says what is lost.
    async fn rots(&mut self) -> String {
        let server = self.with_little_memory().await;
        let flipped = self.flip_a_payload();
        let came = self.incomplete_replay(&server).await;
        drop(server);
        let server = self.setup().start();
        let partitions = server.client().await.partitions().await.expect("it serves");
        let damaged = partitions.iter().filter(|partition| partition.read_only).count();
        assert_eq!(damaged, 1, "a bit of {flipped} was flipped: {partitions:?}");
        format!("{came} events into a replay it ended; a new start says so")
    }

    /// A node with records that it must read from the disk.
    async fn with_little_memory(&mut self) -> Server {
        let (server, load) = self.loaded(48 << 20).await;
        server.kill();
        load.stop().await;
        self.setup().with("--wheel-memory", "16MiB").with("--shards", 1).start()
    }

    /// Replays everything up to the error that there must be; returns how many events came.
    async fn incomplete_replay(&self, server: &Server) -> usize {
        let client = impatient(server).await;
        let mut came = 0;
        for topic in TOPICS {
            let range = ReplayRange::Offsets { start: Offset(0), count: u64::from(u32::MAX) };
            let options = ReplayOptions { range, ..ReplayOptions::new(topic) };
            let Ok(mut replay) = client.replay(options).await else { return came };
            while let Some(next) = for_the("the end of a replay", replay.next()).await {
                let Ok(next) = next else { return came };
                self.scribe.lock().events[&next.event.message_id].judge(&next.event);
                came += 1;
            }
        }
        panic!("a replay of {came} events is complete, and should not be");
    }

    /// Flips a bit on the disk, in the payload of an old event; returns its id.
    fn flip_a_payload(&self) -> String {
        let ledger = self.scribe.lock();
        let now = time::wall_ms();
        let old = |known: &&Known| {
            known.len > 4096
                && known.stored.is_some_and(|(_, at)| at.offset < 50 && at.schedule_ts < now)
        };
        let known = ledger.events.values().find(old).expect("an old one that is due");
        let image = self.place.join("disk.img");
        let disk = fs::read(&image).expect("the image is here");
        let payload = payload(&known.id, 256);
        let at = disk.windows(256).position(|bytes| bytes == payload).expect("it is on the disk");
        let file = fs::OpenOptions::new().write(true).open(&image).expect("it is ours");
        file.write_all_at(&[disk[at + 100] ^ 1], at as u64 + 100).expect("written");
        known.id.clone()
    }

    async fn start_fails(&mut self) -> String {
        let (server, load) = self.loaded(4 << 20).await;
        server.kill();
        load.stop().await;
        // The kernel has the small files in memory; the log is read from the disk, with O_DIRECT.
        let data = self.at().join("data");
        for file in ["chronosdb.toml", "p-00000/replica.state", "p-00001/replica.state"] {
            fs::read(data.join(file)).expect("the disk is well");
        }
        self.faults().inject(Eio { on: "read", once: false });
        let said = ended_early(&self.setup());
        self.rebuild();
        // Now it has nothing of them.
        self.faults().inject(Eio { on: "read", once: false });
        let other = ended_early(&self.setup());
        self.rebuild();
        format!("{said}; then {other}; {}", self.recovers().await)
    }

    async fn full(&mut self, restarts: bool) -> String {
        let (server, load) = self.loaded(2 << 20).await;
        let filler = self.at().join("filler");
        fill(&filler);
        let refused = || self.scribe.lock().events.values().filter(|known| known.refused).count();
        until("a refusal", || (refused() > 0).then_some(()));
        let mut progress = self.scribe.progress();
        let (_, before) = *progress.borrow();
        while timeout(STUCK, progress.changed()).await.is_ok() {}
        let (_, after) = *progress.borrow();
        assert!(after > before, "acknowledgements go on: {}", server.log());
        let (refused, acks) = (refused(), after - before);
        // What is there can be read.
        let client = impatient(&server).await;
        let known = self.scribe.lock().clone();
        let replayed = oracle::replay_all(&client, &known).await.len();
        if restarts {
            server.kill();
            load.stop().await;
            let setup = self.setup();
            let up = setup.start_or_kill(STUCK).is_some();
            fs::remove_file(&filler).expect("it was made here");
            let up = if up { "came up" } else { "waited" };
            return format!("a start on the full disk {up}; {}", self.recovers().await);
        }
        load.stop().await;
        fs::remove_file(&filler).expect("it was made here");
        let again = "there is space on the disk again";
        until("space", || server.log().contains(again).then_some(()));
        let load = self.load(&server, "after").await;
        self.makes_progress(8 << 20).await;
        server.kill();
        load.stop().await;
        format!(
            "refused {refused} publishes, {acks} acks and {replayed} events replayed meanwhile, \
             went on by itself; {}",
            self.recovers().await
        )
    }
}

// The parts of the cases.
impl Broken {
    fn stack(&self) -> &Stack {
        self.stack.as_ref().expect("it is up")
    }

    fn at(&self) -> PathBuf {
        self.stack().at().to_owned()
    }

    fn faults(&self) -> Faults {
        Faults::new(&self.stack().exported.monitor)
    }

    fn setup(&mut self) -> Setup {
        setup(&self.at().join("data"), true, &mut self.chance)
    }

    /// A node with a load that has made progress.
    async fn loaded(&mut self, bytes: u64) -> (Server, Load) {
        let server = self.setup().start();
        let load = self.load(&server, "load").await;
        self.makes_progress(bytes).await;
        (server, load)
    }

    async fn load(&mut self, server: &Server, stem: &str) -> Load {
        Load::start(server, stem, PAYLOAD, &self.scribe, &mut self.chance).await
    }

    async fn makes_progress(&self, bytes: u64) {
        let mut progress = self.scribe.progress();
        let (before, acks) = *progress.borrow();
        let made = progress.wait_for(|(now, more)| *now >= before + bytes && *more > acks);
        for_the("progress", made).await.expect("the scribe is here");
    }

    fn fault_is_in_place(&self) {
        self.phase.store(1, Ordering::SeqCst);
    }

    fn nothing_acknowledged_since(&self, what: &str) {
        let ledger = self.scribe.lock();
        let late = |known: &&Known| known.sent == 1 && known.stored.is_some();
        let late: Vec<_> = ledger.events.values().filter(late).collect();
        assert!(late.is_empty(), "sent since {what}, and acknowledged: {late:?}");
    }

    /// Takes everything down and up again, as a machine that boots.
    fn rebuild(&mut self) {
        drop(self.stack.take());
        let stack = Stack::start(&self.place, self.system, Chain::Breakable);
        self.stack = Some(stack.expect("the file system comes up again"));
    }

    /// A new start holds all that was acknowledged.
    async fn recovers(&mut self) -> String {
        let server = self.setup().start();
        let known = self.scribe.lock().as_of(Position::MAX);
        oracle::check(&server, &known).await;
        server.stop();
        let (stored, acked) = known.certain();
        format!("recovered {stored} events and {acked} acks that were confirmed")
    }
}

/// Waits until the node has ended because of an error; returns what it says.
fn stopped(server: &mut Server) -> String {
    let status = server.ended();
    assert!(!status.success(), "it ended as if all were well: {status}");
    sentence(&server.log())
}

/// Starts a node that must not come to serve; returns what it says.
fn ended_early(setup: &Setup) -> String {
    let output = setup.command().output().expect("the program is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it ended as if all were well: {said}");
    sentence(&said)
}

fn sentence(log: &str) -> String {
    assert!(!log.contains("panicked"), "{log}");
    let own = log.lines().find(|line| line.starts_with("chronosdb: "));
    own.unwrap_or_else(|| panic!("it says why it stops: {log:?}")).to_owned()
}

/// Takes all space that is left.
fn fill(filler: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(filler).expect("there is room for a name");
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![1; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
}
