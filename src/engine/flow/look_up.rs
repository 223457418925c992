//! The story of a look-up, owner half: a publish whose ids may be in runs waits until those are
//! read, and everything that is published to the partition behind it waits with it.
//!
//! ```text
//!   publish --> no filter says maybe, nobody waits ----------------------------> decided
//!           --> waits --> blocks are read --> asked again, as memory and runs are now --> decided
//! ```
//! An id is looked for in the newest run that may have it first. There it is (one read), or the
//! filter was wrong (once in 65,536), or only a claim of `allow_duplicate` is there: then in the
//! next. While a slice waits nothing new is proposed, so it does not wait for ever.

use bytes::Bytes;

use crate::base::api::EventOutcome;
use crate::base::error::ApiError;
use crate::base::limits;
use crate::engine::damage::Damage;
use crate::engine::dedup::{Findings, IdHash, RunLook};
use crate::engine::effect::Effect;
use crate::engine::flow::publish::{Ids, Slice};
use crate::engine::mesh::MeshMessage;
use crate::engine::partition::Partition;
use crate::engine::step::Step;

impl Partition {
    /// What is to be read before a slice with these ids can be decided.
    pub(super) fn looks(
        &self,
        slice: &Slice,
        hashes: &[IdHash],
        known: &[bool],
        findings: &Findings,
    ) -> Vec<RunLook> {
        if slice.allow_duplicate || self.dedup.runs().newest_first().is_empty() {
            return Vec::new();
        }
        // An id on its way that was found to be new is the newest there is.
        let decided =
            |hash: &IdHash| self.proposals.ids.get(hash).is_some_and(|pending| !pending.weak);
        let asked = hashes.iter().zip(known).filter(|(hash, _)| !decided(hash));
        let (open, known): (Vec<IdHash>, Vec<bool>) = asked.unzip();
        self.dedup.unread_of(open, &known, findings)
    }

    /// A slice waits for reads, or for the slices before it.
    pub(super) fn park_slice(
        &mut self,
        step: &mut Step<'_>,
        slice: Slice,
        hashes: Vec<IdHash>,
        looks: Vec<RunLook>,
    ) {
        self.lookups.push(slice, hashes, looks);
        let bound = limits::OPEN_REQUESTS * usize::from(step.config.shards);
        assert!(self.lookups.len() <= bound, "a front has a slot for each that waits");
        self.read_ids(step);
    }

    /// Begins the reads that there is room for.
    fn read_ids(&mut self, step: &mut Step<'_>) {
        loop {
            let read = self.reads.number();
            let Some(look) = self.lookups.next_read(read) else { return };
            let (partition, run) = (self.id, look.run.ids().run);
            let (position, len) = (look.read.position, look.read.len);
            step.stats.id_reads += 1;
            step.effects.push(Effect::ReadRun { partition, read, run, position, len });
        }
    }

    /// A block of ids is there; false if the read is none of those.
    pub(super) fn ids_read(&mut self, step: &mut Step<'_>, read: u64, data: &Bytes) -> bool {
        let Some(look) = self.lookups.read_done(read) else { return false };
        if let Err(fault) = self.lookups.tell(&look, data) {
            let text = format!("run {} of ids: {fault}", look.run.ids().run);
            self.condemn(step, &Damage::Ids(look.run.offsets()), text);
            return true;
        }
        self.read_ids(step);
        self.remove_unused_ids(step);
        self.look_ups_on(step);
        true
    }

    /// Decides on slices that wait no longer, in order, a bounded number of events.
    pub(super) fn look_ups_on(&mut self, step: &mut Step<'_>) {
        let mut events = 0;
        while events < limits::STEP_EVENTS && self.lookups.is_ready() {
            let front = self.lookups.front().expect("one is ready");
            // Memory and runs may have changed since it came.
            let known = self.dedup.in_memory(&front.hashes);
            let looks = self.looks(&front.slice, &front.hashes, &known, &front.findings);
            if !looks.is_empty() {
                self.lookups.ask_again(looks);
                return self.read_ids(step);
            }
            let waiting = self.lookups.pop();
            events += waiting.hashes.len();
            let ids = Ids { hashes: &waiting.hashes, known: &known, findings: &waiting.findings };
            self.decide(step, &waiting.slice, &ids);
        }
    }

    /// The leadership is lost: nothing was decided for those who wait.
    pub(super) fn drop_look_ups(&mut self, step: &mut Step<'_>, error: &ApiError) {
        for waiting in self.lookups.drop_all() {
            let failed = EventOutcome::Failed(Box::new(error.clone()));
            let outcomes = vec![failed; waiting.hashes.len()];
            let (request, partition) = (waiting.slice.request, self.id);
            let answer = MeshMessage::Published { request, partition, outcomes };
            step.send(waiting.slice.shard, answer);
        }
    }

    /// Removes the files of runs of ids that are not used any more.
    pub(super) fn remove_unused_ids(&mut self, step: &mut Step<'_>) {
        let partition = self.id;
        for run in self.lookups.unused(|run| self.checkpoints.lists(run)) {
            step.effects.push(Effect::RemoveRun { partition, run });
        }
    }
}
