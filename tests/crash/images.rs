//! Crash images: a load is recorded, and the node must come up on what any power failure within it
//! may have left, and hold all that was acknowledged by then.
//!
//! A run has rounds. The first starts on an empty file system, each other on an image of the one
//! before it, so that power fails in recoveries too, and more than once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chronosdb::base::time;

use crate::chance::Chance;
use crate::image::{Cut, Images};
use crate::ledger::{Ledger, Position};
use crate::oracle;
use crate::recording::{Recording, Size, setup};
use crate::server::Server;
use crate::stack::{self, DISK_BYTES, FileSystem, Mounted};

/// Rounds on each file system.
const ROUNDS: usize = 3;
/// After so many failures the rest would say the same.
const FAILURES: usize = 10;
/// A node must come up within this, however busy the machine is.
const START: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Crash points, over all file systems and rounds
    #[arg(long, default_value_t = 500)]
    points: usize,
    /// File system below the node
    #[arg(long, default_value = "both", value_parser = ["ext4", "xfs", "both"])]
    fs: String,
    /// A short run: one round of about 20 points
    #[arg(long)]
    small: bool,
    /// Repeats the choices of a run (not its interleaving) [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the recordings; those with a failure are always kept
    #[arg(long)]
    keep: bool,
    /// Check a kept recording again
    #[arg(long, value_name = "DIR")]
    recording: Option<PathBuf>,
    /// Of a kept recording only this point; with --keep the image is left there
    #[arg(long, requires = "recording")]
    at: Option<usize>,
    /// Control of the harness: answer before the sync, and demand that a loss is found
    #[arg(long)]
    unsynced: bool,
}

#[derive(Debug, Default)]
struct Tally {
    points: usize,
    /// The file system itself did not come up: says nothing about the node.
    unmounted: usize,
    failures: Vec<String>,
    slowest_start: Duration,
}

/// Runs it in `place`; returns whether all is well.
pub async fn run(options: &Options, place: &Path) -> bool {
    let began = Instant::now();
    let seed = options.seed.unwrap_or_else(time::wall_ms);
    println!("seed {seed}");
    let mut tally = Tally::default();
    if let Some(kept) = &options.recording {
        let recording = Recording::open(kept);
        let all = options.points.min(recording.log.entries.len());
        let points = match options.at {
            Some(at) => BTreeSet::from([at]),
            None => choose(&recording, all, &mut Chance::seeded(seed)),
        };
        if options.keep {
            leave_images(&recording, &points, seed);
        }
        try_points(&recording, &points, seed, &mut tally).await;
    } else {
        let systems = match stack::available(&options.fs, place) {
            Ok(systems) => systems,
            Err(reason) => {
                println!("skipped: {reason}");
                return true;
            }
        };
        record_and_try(options, place, (&systems, seed), &mut tally).await;
    }
    let (points, failures) = (tally.points, tally.failures.len());
    println!(
        "{points} crash points, {failures} failures, {} file systems that did not mount, slowest \
         start {} ms, {} s",
        tally.unmounted,
        tally.slowest_start.as_millis(),
        began.elapsed().as_secs()
    );
    tally.failures.iter().for_each(|failure| println!("FAILED {failure}"));
    if options.unsynced {
        let found = tally.failures.iter().any(|failure| failure.contains("and is gone"));
        println!("control: a loss {}", if found { "was found, as it must" } else { "is missing" });
        return found;
    }
    failures == 0 && points > 0
}

async fn record_and_try(
    options: &Options,
    place: &Path,
    (systems, seed): (&[FileSystem], u64),
    tally: &mut Tally,
) {
    let (rounds, points) =
        if options.small { (1, options.points.min(20)) } else { (ROUNDS, options.points) };
    let recordings = rounds * systems.len();
    let mut chance = Chance::seeded(seed);
    for (number, system) in systems.iter().enumerate() {
        let mut before: Option<(Recording, Cut)> = None;
        for round in 0..rounds {
            let place = fresh(&place.join(format!("{}-{round}", system.name())));
            let known = start_image(&place, *system, before.as_ref());
            if let Some((earlier, _)) = before.take() {
                discard(&earlier, options, tally);
            }
            let size = size(options.small, round);
            let kind = (*system, !options.unsynced);
            let recording = Recording::make(&place, round, kind, known, size, &mut chance).await;
            let done = number * rounds + round;
            let share = points * (done + 1) / recordings - points * done / recordings;
            describe(&recording, round, share);
            let chosen = choose(&recording, share, &mut chance);
            try_points(&recording, &chosen, seed, tally).await;
            before = Some(next_start(recording, seed, &mut chance));
            if tally.failures.len() >= FAILURES {
                break;
            }
        }
        if let Some((last, _)) = before {
            discard(&last, options, tally);
        }
    }
}

/// An empty directory.
fn fresh(place: &Path) -> PathBuf {
    let _before = fs::remove_dir_all(place);
    fs::create_dir_all(place).expect("a place for the recording");
    place.to_owned()
}

/// A recording and the cut that the next one goes on from, not too early in it.
fn next_start(recording: Recording, seed: u64, chance: &mut Chance) -> (Recording, Cut) {
    let third = recording.log.entries.len() / 3;
    let at = third + chance.below(2 * third as u64) as usize;
    let cut = Cut::choose(&recording.log, at, seed);
    (recording, cut)
}

/// Makes the disk that a recording starts on; returns what clients know of it.
fn start_image(place: &Path, system: FileSystem, before: Option<&(Recording, Cut)>) -> Ledger {
    let start = place.join("start.img");
    let Some((earlier, cut)) = before else {
        system.make(&start, DISK_BYTES).expect("as in the probe");
        return Ledger::default();
    };
    let base = place.join("base.img");
    Images::new(&earlier.log, &earlier.start(), &base).make(cut, &start);
    fs::remove_file(base).expect("it was made here");
    println!("{}: goes on from a power failure at {cut}", system.name());
    earlier.ledger.as_of(cut.at as Position)
}

/// The first round fills segments; in later ones it is enough that something happens.
fn size(small: bool, round: usize) -> Size {
    match (small, round) {
        (true, _) => Size { lives: 2, bytes: 40 << 20, payload: 1 << 20 },
        (false, 0) => Size { lives: 3, bytes: 45 << 20, payload: 1 << 20 },
        (false, _) => Size { lives: 3, bytes: 12 << 20, payload: 200 << 10 },
    }
}

fn describe(recording: &Recording, round: usize, points: usize) {
    let (stored, acked) = recording.ledger.certain();
    let entries = &recording.log.entries;
    let bytes: u64 = entries.iter().map(|entry| entry.len).sum();
    println!(
        "{} round {round}: {} entries in the log ({} MiB, {} flushes), {stored} events stored, \
         {acked} acks confirmed, {} marks; {points} points",
        recording.about.system.name(),
        entries.len(),
        bytes >> 20,
        entries.iter().filter(|entry| entry.flushes).count(),
        recording.about.marks.len(),
    );
}

/// Points of a recording: anywhere, around flushes, and around what was marked.
fn choose(recording: &Recording, count: usize, chance: &mut Chance) -> BTreeSet<usize> {
    let entries = &recording.log.entries;
    let flushes = entries.iter().enumerate().filter(|(_, entry)| entry.flushes);
    let flushes: Vec<usize> = flushes.map(|(number, _)| number).collect();
    let marks = &recording.about.marks;
    let mut chosen = BTreeSet::new();
    while chosen.len() < count.min(entries.len()) {
        let at = match chance.below(10) {
            0..=3 => chance.below(entries.len() as u64) as usize,
            4..=6 if !flushes.is_empty() => {
                flushes[chance.below(flushes.len() as u64) as usize] + chance.below(2) as usize
            }
            _ => {
                let (mark, _) = marks[chance.below(marks.len() as u64) as usize];
                (mark as usize + chance.below(60) as usize).saturating_sub(30)
            }
        };
        chosen.insert(at.clamp(1, entries.len()));
    }
    chosen
}

async fn try_points(recording: &Recording, points: &BTreeSet<usize>, seed: u64, tally: &mut Tally) {
    let (base, image) = (recording.place.join("base.img"), recording.place.join("point.img"));
    let mut images = Images::new(&recording.log, &recording.start(), &base);
    let began = Instant::now();
    for (number, at) in points.iter().enumerate() {
        let cut = Cut::choose(&recording.log, *at, seed);
        images.make(&cut, &image);
        let known = recording.ledger.as_of(cut.at as Position);
        try_image(recording, &image, known, (&cut, seed), tally).await;
        if (number + 1) % 10 == 0 || number + 1 == points.len() {
            let each = began.elapsed().as_millis() as usize / (number + 1);
            let failures = tally.failures.len();
            println!(
                "  {}/{} points, {each} ms each, {failures} failures",
                number + 1,
                points.len()
            );
        }
        if tally.failures.len() >= FAILURES {
            break;
        }
    }
    for image in [base, image] {
        fs::remove_file(image).expect("it was made here");
    }
}

/// Mounts an image, starts a node on it and asks the oracle.
async fn try_image(
    recording: &Recording,
    image: &Path,
    known: Ledger,
    (cut, seed): (&Cut, u64),
    tally: &mut Tally,
) {
    tally.points += 1;
    let about = &recording.about;
    let mounted = match Mounted::new(image, about.system, &recording.place.join("point"), false) {
        Ok(mounted) => mounted,
        Err(error) => {
            let first = error.lines().next().unwrap_or_default();
            println!("  at {cut}: the file system itself is lost: {first}");
            tally.unmounted += 1;
            return;
        }
    };
    let mut chance = Chance::seeded(seed ^ cut.at as u64);
    let setup = setup(&mounted.at.join("deep/er/data"), about.synced, &mut chance);
    let check = tokio::spawn(async move {
        let began = Instant::now();
        let server: Server = setup.start_or_kill(START).expect("it comes up in time");
        let start = began.elapsed();
        oracle::check(&server, &known).await;
        server.kill();
        if chance.one_in(4) {
            // What a recovery has made is sound too.
            let again = setup.start_or_kill(START).expect("it comes up in time once more");
            oracle::check_sound(&again).await;
            again.kill();
        }
        start
    });
    match check.await {
        Ok(start) => tally.slowest_start = tally.slowest_start.max(start),
        Err(failed) => {
            let said = failed.into_panic();
            let said = said.downcast_ref::<String>().map_or("a panic", String::as_str);
            let kept = recording.place.display();
            tally.failures.push(format!(
                "at {cut}: {said}\n    scripts/crash-images.sh --recording {kept} --at {} --seed \
                 {seed}",
                cut.at
            ));
            println!("  FAILED {}", tally.failures[tally.failures.len() - 1]);
        }
    }
}

/// Leaves the images of points beside the recording, for a look at them.
fn leave_images(recording: &Recording, points: &BTreeSet<usize>, seed: u64) {
    let base = recording.place.join("base.img");
    let mut images = Images::new(&recording.log, &recording.start(), &base);
    for at in points {
        let image = recording.place.join(format!("crash-{at}.img"));
        images.make(&Cut::choose(&recording.log, *at, seed), &image);
        println!("left {}", image.display());
    }
}

/// Removes a recording that nobody asks for any more.
fn discard(recording: &Recording, options: &Options, tally: &Tally) {
    let place = &recording.place;
    let named = place.display().to_string();
    if options.keep || tally.failures.iter().any(|failure| failure.contains(&named)) {
        println!("kept {named}");
    } else {
        fs::remove_dir_all(place).expect("it was made here");
    }
}
