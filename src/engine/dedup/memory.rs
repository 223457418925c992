//! What a partition remembers of its ids, in memory and in runs, as one: [`Dedup`].
//!
//! ```text
//!   record --> active --(freeze)--> frozen --(a job writes it)--> the newest run
//!   get    :   active,              frozen,                       findings (in the runs)
//! ```
//! Newest claims first: each of active window, frozen window and runs has the ids of a range of
//! offsets behind those of the next. The frozen one does not change, so a job reads it as it is.
//!
//! What must hold: an id leaves the memory when the run with it is there; [`Dedup::get`] is asked
//! about an id only when [`Dedup::unread`] wants nothing more for it.

use std::hash::Hasher;
use std::ops::Range;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::findings::{Finding, Findings, RunLook};
use super::id_runs::IdRuns;
use super::resolve::resolve;
use super::row::Claim;
use super::run_directory::RunDirectory;
use super::window::{IdHash, Original, Window};
use crate::base::ids::Offset;
use crate::base::limits;

/// Tables of a window that are let go of at once.
const DISSOLVE_TABLES: usize = 64;

/// What [`Dedup::record`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The id names the new event from now on.
    Taken,
    /// The id keeps its first, living mapping.
    Kept,
}

/// A window that takes no more ids.
#[derive(Debug)]
pub struct Frozen {
    /// Its ids.
    pub window: Window,
    /// Where their events lie.
    pub offsets: Range<Offset>,
}

/// What keeps ids alive at one moment, but for what is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// What was appended before is past its TTL, ms.
    cut: u64,
    log_now_ms: u64,
}

impl Lifetime {
    /// Whether an event keeps its id alive. `settled` is asked only if nothing else does.
    pub fn alive(&self, original: &Original, settled: impl FnOnce(&Original) -> bool) -> bool {
        original.append_ts >= self.cut || original.due() > self.log_now_ms || !settled(original)
    }
}

/// What one partition remembers of its ids. See the module.
#[derive(Debug)]
pub struct Dedup {
    key: [u8; 16],
    ttl_ms: u64,
    /// Whatever was appended before this had passed its TTL when the TTL was last changed, ms.
    expired_before: u64,
    /// The latest log time that something may have been removed by, ms.
    swept_at: u64,
    active: Window,
    frozen: Option<Arc<Frozen>>,
    runs: IdRuns,
    /// A window that was written, on its way out of memory.
    leaving: Option<Arc<Frozen>>,
}

impl Dedup {
    /// Nothing. `key` is the data directory's; ids live for `ttl_ms` at least.
    pub fn new(key: [u8; 16], ttl_ms: u64) -> Self {
        Self {
            key,
            ttl_ms,
            expired_before: 0,
            swept_at: 0,
            active: Window::new(),
            frozen: None,
            runs: IdRuns::default(),
            leaving: None,
        }
    }

    /// The data directory's key.
    pub fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// The hash of an id: SipHash-2-4-128 over the topic's length (u16, little endian), the topic
    /// and the id. Ids of different topics never meet.
    ///
    /// # Panics
    /// If the topic is longer than 65,535 bytes.
    pub fn hash(&self, topic: impl AsRef<[u8]>, message_id: &[u8]) -> IdHash {
        let topic = topic.as_ref();
        let topic_len = u16::try_from(topic.len()).expect("names have at most 255 bytes");
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&topic_len.to_le_bytes());
        hasher.write(topic);
        hasher.write(message_id);
        let hash = hasher.finish128();
        IdHash { high: hash.h1, low: hash.h2 }
    }

    /// For each of these ids whether memory has a claim to it. All are asked before any answer is
    /// used, so that their cache misses overlap.
    pub fn in_memory(&self, hashes: &[IdHash]) -> Vec<bool> {
        let mut known: Vec<bool> =
            hashes.iter().map(|hash| self.active.get(*hash).is_some()).collect();
        if let Some(frozen) = &self.frozen {
            for (known, hash) in known.iter_mut().zip(hashes) {
                *known |= frozen.window.get(*hash).is_some();
            }
        }
        known
    }

    /// What is to be read before [`get`](Self::get) is asked about these ids: for each of them the
    /// newest run that may have it and was not read for it, while nothing newer says that all
    /// older claims are dead. Hardly ever anything for an id that is new.
    pub fn unread(&self, hashes: Vec<IdHash>, findings: &Findings) -> Vec<RunLook> {
        let known = self.in_memory(&hashes);
        self.unread_of(hashes, &known, findings)
    }

    /// As [`unread`](Self::unread), with what [`in_memory`](Self::in_memory) has said.
    pub fn unread_of(
        &self,
        mut hashes: Vec<IdHash>,
        known: &[bool],
        findings: &Findings,
    ) -> Vec<RunLook> {
        let mut looks = Vec::new();
        if self.runs.newest_first().is_empty() || cfg!(bug_skip_id_runs) {
            return looks;
        }
        assert_eq!(hashes.len(), known.len(), "each was asked about");
        let strong = |claim: Option<Claim>| claim.is_some_and(|claim| !claim.weak);
        let mut known = known.iter();
        hashes.retain(|hash| {
            let known = *known.next().expect("one each");
            !known || !strong(self.active.get(*hash)) && !strong(self.frozen_claim(*hash))
        });
        let mut hits = Vec::new();
        for run in self.runs.newest_first() {
            run.probe_all(&hashes, &mut hits);
            // From the last one on, so that what is taken out moves none of the others.
            for (number, read) in hits.drain(..).rev() {
                let hash = hashes[number];
                match findings.of_run(hash, run.ids().run) {
                    Finding::Unread => looks.push(RunLook { hash, run: run.clone(), read }),
                    Finding::Claimed(claim) if !claim.weak => {}
                    Finding::Claimed(_) | Finding::Absent => continue,
                }
                hashes.swap_remove(number);
            }
        }
        // An id that is asked for twice is looked for once.
        looks.sort_unstable_by_key(|look| look.hash);
        looks.dedup_by_key(|look| look.hash);
        looks
    }

    /// The event an id names, if the id is alive at `log_now_ms`; `findings` has what runs say.
    ///
    /// `log_now_ms` is the log time an event published now would get. `settled` says whether every
    /// group is done with the event; it is asked only if nothing else keeps the id alive.
    ///
    /// # Panics
    /// If log time ran backwards: `log_now_ms` before that of a `sweep` or `set_ttl`.
    pub fn get(
        &self,
        hash: IdHash,
        log_now_ms: u64,
        findings: &Findings,
        mut settled: impl FnMut(&Original) -> bool,
    ) -> Option<Original> {
        self.assert_monotone(log_now_ms);
        let lifetime = self.lifetime_at(log_now_ms);
        let mut claims: Vec<Claim> = findings.of(hash).collect();
        claims.extend(self.active.get(hash));
        claims.extend(self.frozen_claim(hash));
        resolve(&claims, |original| lifetime.alive(original, &mut settled))
    }

    /// Remembers that `hash` names `original`, which has just been applied.
    ///
    /// An event published without `allow_duplicate` was judged new when it was proposed: it takes
    /// the id over from whatever had it. With `allow_duplicate` a living first mapping in memory
    /// stays, and only a dead one is replaced; one in a run prevails when the id is asked for. Log
    /// time is the event's own `append_ts`.
    ///
    /// # Panics
    /// If log time ran backwards.
    pub fn record(
        &mut self,
        hash: IdHash,
        original: Original,
        allow_duplicate: bool,
        settled: impl FnOnce(&Original) -> bool,
    ) -> Recorded {
        self.assert_monotone(original.append_ts);
        assert!(original.offset >= self.memory_start(), "runs have what is older");
        let claim = Claim { original, weak: allow_duplicate };
        let active = self.active.get(hash);
        let lifetime = self.lifetime_at(original.append_ts);
        if allow_duplicate
            && let Some(first) = active.or_else(|| self.frozen_claim(hash))
            && lifetime.alive(&first.original, settled)
        {
            return Recorded::Kept;
        }
        if active.is_some() {
            self.active.replace(hash, claim);
        } else {
            self.active.insert(hash, claim);
        }
        Recorded::Taken
    }

    /// Removes dead ids from the active window: looks at about `budget` ids. Returns how many were
    /// removed.
    ///
    /// `log_now_ms` is the log time of the last *applied* entry; one that is only proposed may
    /// never come.
    ///
    /// # Panics
    /// If log time ran backwards.
    pub fn sweep(
        &mut self,
        log_now_ms: u64,
        budget: usize,
        mut settled: impl FnMut(&Original) -> bool,
    ) -> usize {
        self.assert_monotone(log_now_ms);
        self.swept_at = log_now_ms;
        let lifetime = self.lifetime();
        let keep = |original: &Original| lifetime.alive(original, &mut settled);
        self.active.sweep(lifetime.cut, budget, keep)
    }

    /// Changes the TTL, from the log time `log_now_ms` on. What is past the old one by then stays
    /// so.
    ///
    /// # Panics
    /// If log time ran backwards.
    pub fn set_ttl(&mut self, ttl_ms: u64, log_now_ms: u64) {
        self.assert_monotone(log_now_ms);
        self.expired_before = self.lifetime_at(log_now_ms).cut;
        self.swept_at = log_now_ms;
        self.ttl_ms = ttl_ms;
    }

    /// How long an id is remembered at least, ms of log time.
    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// What keeps ids alive as of the last sweep.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime_at(self.swept_at)
    }

    /// Goes on from runs that an earlier process has written.
    ///
    /// # Panics
    /// If something is remembered already.
    pub fn restore(&mut self, runs: IdRuns) {
        assert!(self.is_empty() && self.runs.newest_first().is_empty(), "a start comes first");
        self.runs = runs;
    }

    /// Nothing is known of the ids of events before this.
    ///
    /// # Panics
    /// If something is remembered already.
    pub fn begin_at(&mut self, start: Offset) {
        self.restore(IdRuns::new(Vec::new(), start).expect("no runs lie side by side"));
    }

    // What leaves the memory.

    /// The runs.
    pub fn runs(&self) -> &IdRuns {
        &self.runs
    }

    /// Freezes the active window, if it has more than `bound` ids and none is frozen; `end` is
    /// behind the last event applied.
    pub fn freeze(&mut self, bound: usize, end: Offset) {
        if self.active.len() > bound && self.frozen.is_none() {
            let window = std::mem::replace(&mut self.active, Window::new());
            let offsets = self.runs.end()..end;
            self.frozen = Some(Arc::new(Frozen { window, offsets }));
        }
    }

    /// The window that is to be written.
    pub fn frozen(&self) -> Option<&Arc<Frozen>> {
        self.frozen.as_ref()
    }

    /// The frozen window has become a run (or was all dead): its ids leave the memory.
    ///
    /// # Panics
    /// If none is frozen.
    pub fn flushed(&mut self, run: Option<Arc<RunDirectory>>) {
        let frozen = self.frozen.take().expect("a window was written");
        self.runs.push(frozen.offsets.end, run);
        self.leaving = Some(frozen);
    }

    /// Runs have become one (or none). What they were is returned: their files may go.
    ///
    /// # Panics
    /// If they are not there.
    pub fn merged(
        &mut self,
        runs: Range<usize>,
        run: Option<Arc<RunDirectory>>,
    ) -> Vec<Arc<RunDirectory>> {
        self.runs.merge(runs, run)
    }

    /// Goes on letting go of the memory of what was written.
    pub fn let_go(&mut self) {
        // The job that has written it may still hold it: then whoever is last frees it.
        let leaving = self.leaving.as_mut().and_then(Arc::get_mut);
        if leaving.is_none_or(|frozen| frozen.window.dissolve(DISSOLVE_TABLES)) {
            self.leaving = None;
        }
    }

    /// Whether memory is still being let go of.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether more ids than memory may hold are waiting to be written, if `bound` is how many may
    /// be there before they are.
    pub fn is_full(&self, bound: usize) -> bool {
        self.frozen.is_some() && self.active.len() > bound.saturating_mul(limits::ID_WINDOW_TIMES)
    }

    /// Ids in memory, dead ones that no sweep has met included.
    pub fn len(&self) -> usize {
        self.active.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.window.len())
    }

    /// Whether no id is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held for ids in memory. Walks the tables: for statistics.
    pub fn memory_bytes(&self) -> usize {
        let frozen = self.frozen.as_ref().map_or(0, |frozen| frozen.window.memory_bytes());
        size_of::<Self>() + self.active.memory_bytes() + frozen
    }

    fn memory_start(&self) -> Offset {
        self.frozen.as_ref().map_or(self.runs.end(), |frozen| frozen.offsets.end)
    }

    fn frozen_claim(&self, hash: IdHash) -> Option<Claim> {
        self.frozen.as_ref()?.window.get(hash)
    }

    fn lifetime_at(&self, log_now_ms: u64) -> Lifetime {
        // Never falls as time goes on.
        let cut = self.expired_before.max(log_now_ms.saturating_sub(self.ttl_ms));
        Lifetime { cut, log_now_ms }
    }

    fn assert_monotone(&self, log_now_ms: u64) {
        assert!(log_now_ms >= self.swept_at, "log time never runs backwards");
    }
}
