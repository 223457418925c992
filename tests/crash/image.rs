//! What a disk may hold after its power failed: everything up to the last flush, and of what came
//! later any part.
//!
//! A cut is made at an entry of the write log. Writes since the flush before it may be there, not
//! at all, or torn: some of their sectors. Chance chooses, and the same seed chooses the same.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::chance::Chance;
use crate::tools::run;
use crate::write_log::{SECTOR, WriteLog};

/// A moment at which the power fails, and what became of each write that was not flushed.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Entries that had come.
    pub at: usize,
    /// Those of them that are certainly there.
    flushed: usize,
    /// What became of each of the others.
    fates: Vec<Fate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// Which sectors are there.
    Torn(Vec<bool>),
}

impl Cut {
    /// One behind `at` entries.
    pub fn choose(log: &WriteLog, at: usize, seed: u64) -> Self {
        let mut chance = Chance::seeded(seed ^ (at as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let flush = log.entries[..at].iter().rposition(|entry| entry.flushes);
        let flushed = flush.map_or(0, |flush| flush + 1);
        // All of them are kept, none, or these many of four.
        let kept = [0, 1, 2, 3, 4][chance.below(5) as usize];
        let open = &log.entries[flushed..at];
        let mut fates: Vec<Fate> = open
            .iter()
            .map(|entry| {
                let there = entry.durable || chance.below(4) < kept;
                if there { Fate::Kept } else { Fate::Lost }
            })
            .collect();
        let torn = chance.below(2 * open.len() as u64 + 1) as usize;
        if let Some(entry) = open.get(torn)
            && !entry.durable
        {
            let sectors = entry.len / SECTOR;
            let prefix = chance.below(sectors + 1);
            let any = chance.one_in(3);
            let there = |sector| if any { chance.one_in(2) } else { sector < prefix };
            fates[torn] = Fate::Torn((0..sectors).map(there).collect());
        }
        Self { at, flushed, fates }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.fates.iter().filter(|fate| **fate == Fate::Kept).count();
        write!(f, "{} ({} flushed, kept {kept} of {}", self.at, self.flushed, self.fates.len())?;
        for (number, fate) in self.fates.iter().enumerate() {
            if let Fate::Torn(there) = fate {
                let whole = there.iter().filter(|there| **there).count();
                write!(f, ", of {} {whole} of {} sectors", self.flushed + number, there.len())?;
            }
        }
        f.write_str(")")
    }
}

/// Makes images of a log, from earlier cuts to later ones.
#[derive(Debug)]
pub struct Images<'a> {
    log: &'a WriteLog,
    /// What the disk holds behind `applied` entries.
    base: PathBuf,
    file: File,
    applied: usize,
}

impl<'a> Images<'a> {
    /// On a copy, at `base`, of the disk as it was before the log began.
    pub fn new(log: &'a WriteLog, start: &Path, base: &Path) -> Self {
        copy(start, base);
        let file = OpenOptions::new().write(true).open(base).expect("it was copied");
        Self { log, base: base.to_owned(), file, applied: 0 }
    }

    /// Makes the image of a cut, at least as late as the one before.
    pub fn make(&mut self, cut: &Cut, image: &Path) {
        self.advance(cut.flushed);
        copy(&self.base, image);
        let file = OpenOptions::new().write(true).open(image).expect("it was copied");
        for (entry, fate) in self.log.entries[cut.flushed..cut.at].iter().zip(&cut.fates) {
            let data = self.log.data(*entry);
            let all = vec![true; (entry.len / SECTOR) as usize];
            let there = match fate {
                Fate::Kept => &all,
                Fate::Lost => continue,
                Fate::Torn(there) => there,
            };
            let sectors = data.chunks(SECTOR as usize).zip(there).enumerate();
            for (number, (sector, _)) in sectors.filter(|(_, (_, there))| **there) {
                let at = entry.at + number as u64 * SECTOR;
                file.write_all_at(sector, at).expect("there is room");
            }
        }
    }

    /// The disk with all entries, as it was when the recording ended.
    pub fn whole(mut self) -> PathBuf {
        self.advance(self.log.entries.len());
        self.base
    }

    fn advance(&mut self, to: usize) {
        assert!(self.applied <= to, "cuts come in order");
        for entry in &self.log.entries[self.applied..to] {
            self.file.write_all_at(&self.log.data(*entry), entry.at).expect("there is room");
        }
        self.applied = to;
    }
}

/// Copies an image; holes stay holes.
pub fn copy(from: &Path, to: &Path) {
    let mut command = std::process::Command::new("cp");
    command.args(["--reflink=auto", "--sparse=auto"]).arg(from).arg(to);
    run(&mut command).expect("there is room for a copy");
}
