//! The tail, a disk in memory and recovery against one another: power is lost at random moments,
//! with writes, fills and the removal of leftovers half done, over and over on the same log.
//!
//! After every crash the log must hold a prefix of what was proposed, with everything that was
//! acknowledged in it, and none of it may be called rot. Writes finish in any order, and one cut
//! short leaves any subset of its 512-byte sectors.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::entry::EntryHeader;
use super::model::{AHEAD, Disk, IDS, Maker, filled};
use super::scan::{Scan, ScanOutcome};
use super::segment::Place;
use super::tail::Tail;
use crate::base::ids::Index;
use crate::base::size::BLOCK;

const SECTOR: usize = 512;
const SEGMENT: u64 = 24 * BLOCK;

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// An entry of about this size is proposed.
    Push(u16),
    /// A write goes out, if one may.
    Plan,
    /// One of those in flight finishes.
    Done(u8),
    /// A range is zeroed.
    Fill,
    /// Power is lost; the seed decides which sectors of what was out got through.
    Crash(u64),
    /// The suffix from about this entry on is dropped, as by a new leader.
    Truncate(u8),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..9_000_u16).prop_map(Act::Push),
        6 => Just(Act::Plan),
        6 => any::<u8>().prop_map(Act::Done),
        3 => Just(Act::Fill),
        1 => any::<u64>().prop_map(Act::Crash),
        1 => any::<u8>().prop_map(Act::Truncate),
    ]
}

struct Out {
    write: u64,
    segment: Index,
    position: u64,
    bytes: Vec<u8>,
}

struct World {
    disk: Disk,
    tail: Tail,
    maker: Maker,
    /// Everything proposed and not truncated, with its chain.
    proposed: Vec<(EntryHeader, u32)>,
    places: Vec<Place>,
    out: Vec<Out>,
    /// Ranges of zeros not written yet, in the active segment.
    fill: Option<(u64, u64)>,
    acked: Index,
    /// Entries from here on are being cut: durable elsewhere until it is done.
    cut_from: Option<Index>,
    waiting: VecDeque<usize>,
}

impl World {
    fn new() -> Self {
        let mut disk = Disk::default();
        disk.files.insert(Index(1), Vec::new());
        Self {
            disk,
            tail: Tail::new(IDS, SEGMENT, Place::new(Index(1), 0), &[], 0),
            maker: Maker::new(),
            proposed: Vec::new(),
            places: Vec::new(),
            out: Vec::new(),
            fill: None,
            acked: Index(0),
            cut_from: None,
            waiting: VecDeque::new(),
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Push(size) => self.push(if size < 500 { 0 } else { size as usize }),
            Act::Plan => self.plan(),
            Act::Done(which) => self.done(which as usize),
            Act::Fill => self.fill(),
            Act::Crash(seed) => self.crash(seed),
            Act::Truncate(which) => self.truncate(u64::from(which)),
        }
        if self.tail.is_cut() {
            self.cut_from = None;
        }
    }

    fn push(&mut self, size: usize) {
        self.waiting.push_back(size);
        if self.cut_from.is_some() {
            return;
        }
        while let Some(size) = self.waiting.front() {
            let mut maker = self.maker.clone();
            let (header, body) = maker.next(*size);
            if !self.tail.fits(body.entry_len()) {
                if !self.tail.is_idle() || self.acked.0 < self.proposed.len() as u64 {
                    return; // Rolls over once everything is durable.
                }
                self.disk.files.insert(header.index, Vec::new());
                self.tail.start_segment(header.index, self.acked);
                self.fill = None;
            }
            self.waiting.pop_front();
            self.maker = maker;
            self.proposed.push((header, body.crc()));
            self.tail.push(header, body);
        }
    }

    fn plan(&mut self) {
        let Some(planned) = self.tail.plan(self.acked) else { return };
        if let Some((first, _)) = planned.entries {
            assert_eq!(self.places.len() as u64 + 1, first.0, "planned in log order");
        }
        self.places.extend(&planned.places);
        let bytes = filled(&mut self.tail, &planned);
        let (write, segment, position) = (planned.write, planned.segment, planned.position);
        self.out.push(Out { write, segment, position, bytes });
    }

    fn done(&mut self, which: usize) {
        if self.out.is_empty() {
            return;
        }
        let out = self.out.remove(which % self.out.len());
        self.disk.put(out.segment, out.position, &out.bytes);
        if let Some(acked) = self.tail.done(out.write) {
            assert!(acked > self.acked, "acknowledgements only go on");
            self.acked = acked;
        }
    }

    fn fill(&mut self) {
        self.finish_fill();
        self.fill = self.tail.wants_fill(AHEAD);
    }

    fn finish_fill(&mut self) {
        if let Some((from, to)) = self.fill.take() {
            let segment = self.tail.end().segment;
            self.disk.put(segment, from, &vec![0; (to - from) as usize]);
            self.tail.filled(segment, to);
        }
    }

    /// Deposed: waits for what is out, then drops up to three entries of the active segment, though
    /// they be durable. Whoever does so has no claim on them: they no longer count as acked.
    fn truncate(&mut self, which: u64) {
        if self.cut_from.is_some() {
            return;
        }
        while !self.out.is_empty() {
            self.done(0);
        }
        self.finish_fill();
        let segment = self.tail.end().segment;
        let written = self.acked.0;
        let from = segment.0.max((written + 1).saturating_sub(which % 4));
        assert_eq!(self.tail.drop_from(Index(from)).0 > from, from <= written && self.pushed());
        self.acked = self.acked.min(Index(from - 1));
        if from <= written {
            self.cut_from = Some(Index(from));
            let (outcome, _) = self.disk.scan(|scan| scan.cut_from(Index(from)));
            let end = outcome.end.expect("an end");
            let place =
                if end.place.segment == segment { end.place } else { Place::new(segment, 0) };
            let block = if place == end.place { end.tail_block } else { Vec::new() };
            self.tail.cut(place, &block);
        }
        self.restart_maker(from as usize - 1);
    }

    /// Whether the tail has seen an entry since it was made.
    fn pushed(&self) -> bool {
        self.tail.last_index().is_some()
    }

    fn restart_maker(&mut self, entries: usize) {
        self.proposed.truncate(entries);
        self.places.truncate(entries);
        self.waiting.clear();
        self.maker.last = self.proposed.last().copied();
        self.maker.term.0 += 1;
    }

    fn crash(&mut self, seed: u64) {
        let mut random = seed | 1;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for out in std::mem::take(&mut self.out) {
            self.tear(out.segment, out.position, &out.bytes, &mut next);
        }
        if let Some((from, to)) = self.fill.take() {
            let segment = self.tail.end().segment;
            self.tear(segment, from, &vec![0; (to - from) as usize], &mut next);
        }
        self.recover(&mut next);
    }

    fn tear(&mut self, segment: Index, at: u64, bytes: &[u8], next: &mut dyn FnMut() -> u64) {
        let through = next() % 5; // None, all, or each sector by a coin.
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            if through != 0 && (through == 1 || next().is_multiple_of(2)) {
                self.disk.put(segment, at + (i * SECTOR) as u64, sector);
            }
        }
    }

    fn recover(&mut self, next: &mut dyn FnMut() -> u64) {
        let outcome = self.check();
        let end = outcome.end.clone().expect("there is a file");
        if let Some((from, to)) = outcome.zero {
            let zeros = vec![0; (to - from) as usize];
            if next().is_multiple_of(3) {
                self.tear(end.place.segment, from, &zeros, next);
                return self.recover(next);
            }
            self.disk.put(end.place.segment, from, &zeros);
        }
        for segment in &outcome.segments_to_remove {
            self.disk.files.remove(segment);
        }
        let (again, _) = self.disk.scan(|scan| self.hints(scan));
        assert_eq!((again.entries, again.last), (outcome.entries, outcome.last));
        assert_eq!(again.zero, None, "what was cut is gone");
        self.tail = Tail::new(IDS, SEGMENT, end.place, &end.tail_block, end.filled_end);
        if self.cut_from.is_some() || end.is_dirty {
            self.tail.clear_tail_block();
        }
        self.restart_maker(outcome.entries as usize);
        assert_eq!(outcome.next_index(Index(1)).0, outcome.entries + 1);
        // The open syncs what it read, so all of it is durable now.
        self.acked = Index(outcome.entries);
        self.push(0);
        if self.tail.is_cut() {
            self.cut_from = None;
        }
    }

    fn hints(&self, scan: Scan) -> Scan {
        match self.cut_from {
            Some(index) => scan.cut_from(index),
            None => scan,
        }
    }

    /// Recovery finds a prefix of what was proposed, with all that was acknowledged.
    fn check(&self) -> ScanOutcome {
        let (outcome, found) = self.disk.scan(|scan| self.hints(scan));
        assert_eq!(outcome.rot, None, "a crash is no damage");
        assert!(outcome.entries >= self.acked.0, "nothing acknowledged is lost");
        assert!(found.len() <= self.proposed.len(), "nothing is made up");
        for ((entry, (header, crc)), i) in found.iter().zip(&self.proposed).zip(0..) {
            assert_eq!((entry.header, entry.body.crc()), (*header, *crc));
            if let Some(place) = self.places.get(i) {
                assert_eq!(entry.place, *place, "it lies where the plan said");
            }
        }
        let chain = self.proposed[..found.len()].last().map_or(0, |(h, crc)| h.next_chain(*crc));
        assert_eq!(outcome.next_chain, chain);
        outcome
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_acknowledged_entry_survives_every_crash(
        acts in proptest::collection::vec(acts(), 1..250),
    ) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.crash(7);
        world.check();
    }
}

/// A torn write of one term, and then one of the next, whose sectors together made an entry that
/// was never acknowledged: what is left of the first has to be cleared.
#[test]
fn two_torn_writes_make_no_entry() {
    let acts = [
        Act::Push(0),
        Act::Fill,
        Act::Fill,
        Act::Plan,
        Act::Push(0),
        Act::Plan,
        Act::Done(0),
        Act::Push(7_248),
        Act::Push(0),
        Act::Plan,
        Act::Done(0),
        Act::Done(0),
        Act::Crash(0),
        Act::Push(0),
        Act::Plan,
        Act::Truncate(19),
        Act::Crash(0),
        Act::Plan,
        Act::Done(0),
        Act::Crash(0),
        Act::Plan,
        Act::Crash(4_631_990_100_236_024_828),
        Act::Plan,
        Act::Crash(13_904_717_049_978_334_898),
        Act::Plan,
        Act::Crash(9_967_322_953_067_650_376),
        Act::Plan,
        Act::Fill,
    ];
    let mut world = World::new();
    for act in acts {
        world.act(act);
    }
    world.crash(7);
    world.check();
}
