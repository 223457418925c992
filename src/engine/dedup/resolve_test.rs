//! Who has an id: [`resolve`] against all publishes there ever were, first with all claims at hand,
//! then with what windows, runs and merges leave of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::run_file::{RunFile, hash, ids, look_up, piece};
use super::{Claim, Dedup, Findings, Original, Row, RunDirectory, plan_merge, resolve};
use crate::base::ids::{Offset, RunNo, TopicNo};

const TTL_MS: u64 = 100;
const IDS: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    Publish { id: usize, ahead: u64, weak: bool },
    Settle { offset: u64 },
    Pass { ms: u64 },
    Flush,
}

fn op(weak: impl Strategy<Value = bool>) -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..IDS, prop_oneof![Just(0_u64), 0..300_u64], weak)
            .prop_map(|(id, ahead, weak)| Op::Publish { id, ahead, weak }),
        6 => (0..40_u64).prop_map(|offset| Op::Settle { offset }),
        4 => (0..80_u64).prop_map(|ms| Op::Pass { ms }),
        2 => Just(Op::Flush),
    ]
}

/// Every publish there ever was, in order.
#[derive(Default)]
struct Model {
    now: u64,
    publishes: Vec<Publish>,
}

struct Publish {
    id: usize,
    claim: Claim,
    settled: bool,
    /// Nobody living had the id when it was published.
    first: bool,
}

impl Model {
    fn alive(&self, original: &Original) -> bool {
        self.now - original.append_ts <= TTL_MS
            || original.due() > self.now
            || !self.settled(original)
    }

    fn settled(&self, original: &Original) -> bool {
        self.publishes[original.offset.0 as usize].settled
    }

    fn of(&self, id: usize) -> impl DoubleEndedIterator<Item = &Publish> {
        self.publishes.iter().filter(move |publish| publish.id == id)
    }

    /// Publishes from the newest strong one on: what came before it is dead.
    fn since_strong(&self, id: usize) -> Vec<&Publish> {
        let mut newest_first: Vec<&Publish> = Vec::new();
        for publish in self.of(id).rev() {
            newest_first.push(publish);
            if !publish.claim.weak {
                break;
            }
        }
        newest_first.into_iter().rev().collect()
    }

    /// Who has the id, if all publishes count.
    fn answer(&self, id: usize) -> Option<Original> {
        let mut oldest_first = self.since_strong(id).into_iter();
        oldest_first.find(|p| self.alive(&p.claim.original)).map(|p| p.claim.original)
    }

    fn publish(&mut self, id: usize, ahead: u64, weak: bool) -> Claim {
        let original = Original {
            offset: Offset(self.publishes.len() as u64),
            schedule_ts: self.now + ahead,
            append_ts: self.now,
            topic: TopicNo(0),
        };
        let claim = Claim { original, weak };
        let first = !self.of(id).any(|p| self.alive(&p.claim.original));
        self.publishes.push(Publish { id, claim, settled: false, first });
        claim
    }

    /// Only what is due is ever settled.
    fn settle(&mut self, offset: u64) {
        let count = self.publishes.len() as u64;
        if count > 0 {
            let publish = &mut self.publishes[(offset % count) as usize];
            publish.settled |= publish.claim.original.due() <= self.now;
        }
    }
}

/// A partition's claims as a server keeps them.
struct Store {
    dedup: Dedup,
    files: BTreeMap<RunNo, Vec<u8>>,
    last_run: u64,
}

impl Store {
    fn new() -> Self {
        Self { dedup: Dedup::new([7; 16], TTL_MS), files: BTreeMap::new(), last_run: 0 }
    }

    fn answer(&self, model: &Model, id: usize) -> Option<Original> {
        let id = hash(id as u64);
        let mut findings = Findings::default();
        loop {
            let looks = self.dedup.unread(vec![id], &findings);
            let Some(look) = looks.first() else { break };
            let run = look.run.ids().run;
            let bytes = piece(&self.files[&run], look.read);
            let row = look.run.find(id, look.read, bytes).expect("sound");
            findings.insert(id, run, row.map(|row| row.claim));
        }
        self.dedup.get(id, model.now, &findings, |original| model.settled(original))
    }

    fn record(&mut self, model: &Model, id: usize, claim: Claim) {
        let settled = |original: &Original| model.settled(original);
        self.dedup.record(hash(id as u64), claim.original, claim.weak, settled);
        self.dedup.sweep(model.now, 1, settled);
    }

    /// Writes the frozen window, and freezes the active one: so claims lie in both at times.
    fn flush(&mut self, model: &Model) {
        if let Some(frozen) = self.dedup.frozen().cloned() {
            let (mut rows, mut place) = (Vec::new(), 0);
            while let Some((more, next)) = frozen.window.rows_at(place) {
                rows.extend(more);
                place = next;
            }
            assert!(rows.is_sorted_by(|a, b| a.hash < b.hash) && rows.len() == frozen.window.len());
            let run = self.write(frozen.offsets.clone(), rows, model);
            self.dedup.flushed(Some(run));
            while self.dedup.is_leaving() {
                self.dedup.let_go();
            }
        }
        self.dedup.freeze(0, Offset(model.publishes.len() as u64));
        // Eight runs are many here: as if there were four large ones more, so that some are merged.
        let runs = self.dedup.runs().newest_first();
        let mut sizes: Vec<u64> = runs.iter().map(|run| run.rows()).collect();
        sizes.extend([1 << 40; 4]);
        if let Some(merged) = plan_merge(&sizes) {
            self.merge(merged.end.min(sizes.len() - 4), model);
        }
    }

    fn merge(&mut self, count: usize, model: &Model) {
        let mut rows = Vec::new();
        let inputs = self.dedup.runs().newest_first()[..count].to_vec();
        for run in &inputs {
            let file = &self.files[&run.ids().run];
            let found = (0..IDS as u64).map(|id| look_up(run, file, hash(id)));
            rows.extend(found.filter_map(|row| row.expect("sound")));
        }
        let offsets = inputs[count - 1].offsets().start..inputs[0].offsets().end;
        let run = self.write(offsets, rows, model);
        assert_eq!(self.dedup.merged(0..count, Some(run)), inputs);
    }

    fn write(
        &mut self,
        offsets: Range<Offset>,
        mut rows: Vec<Row>,
        model: &Model,
    ) -> Arc<RunDirectory> {
        self.last_run += 1;
        rows.retain(|row| model.alive(&row.claim.original));
        rows.sort_by_key(|row| row.hash);
        let run = ids(self.last_run);
        let RunFile { directory, bytes } =
            RunFile::write(run, offsets.start.0..offsets.end.0, &rows);
        self.files.insert(run.run, bytes);
        Arc::new(directory)
    }
}

/// Runs a history; after each operation `check` sees everything.
fn live(
    ops: Vec<Op>,
    mut check: impl FnMut(&Model, &Store) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (mut model, mut store) = (Model::default(), Store::new());
    for op in ops {
        match op {
            Op::Publish { id, ahead, weak } => {
                // As a server decides it: by what it has kept.
                if weak || store.answer(&model, id).is_none() {
                    let claim = model.publish(id, ahead, weak);
                    store.record(&model, id, claim);
                }
            }
            Op::Settle { offset } => model.settle(offset),
            Op::Pass { ms } => model.now += ms,
            Op::Flush => store.flush(&model),
        }
        check(&model, &store)?;
    }
    Ok(())
}

fn claims_of(model: &Model, id: usize) -> Vec<Claim> {
    model.of(id).map(|publish| publish.claim).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn all_claims_give_the_answer_that_all_publishes_give(
        ops in vec(op(any::<bool>()), 1..80), turn in any::<prop::sample::Index>(),
    ) {
        live(ops, |model, _| {
            for id in 0..IDS {
                let mut claims = claims_of(model, id);
                let middle = if claims.is_empty() { 0 } else { turn.index(claims.len()) };
                claims.rotate_left(middle);
                let answer = resolve(&claims, |original| model.alive(original));
                prop_assert_eq!(answer, model.answer(id), "in any order");
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_flushes_and_merges_leave_is_exact_without_allow_duplicate(
        ops in vec(op(Just(false)), 1..80),
    ) {
        live(ops, |model, store| {
            for id in 0..IDS {
                prop_assert_eq!(store.answer(model, id), model.answer(id));
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_flushes_and_merges_leave_forgets_no_first_mapping(
        ops in vec(op(any::<bool>()), 1..80),
    ) {
        live(ops, |model, store| {
            for id in 0..IDS {
                let answer = store.answer(model, id);
                if let Some(original) = answer {
                    let publish = &model.publishes[original.offset.0 as usize];
                    prop_assert!(publish.id == id && model.alive(&original), "never a wrong one");
                }
                // The newest strong claim, or the first one that came when nobody had the id.
                let since = model.since_strong(id);
                let mut holders = since.iter().filter(|p| p.first || !p.claim.weak);
                let holder = holders.find(|p| model.alive(&p.claim.original));
                if let Some(holder) = holder {
                    prop_assert_eq!(answer, Some(holder.claim.original));
                }
            }
            Ok(())
        })?;
    }
}

#[test]
fn as_few_as_possible_are_asked_about() {
    let claim = |offset: u64, weak: bool| {
        let original =
            Original { offset: Offset(offset), schedule_ts: 0, append_ts: 0, topic: TopicNo(0) };
        Claim { original, weak }
    };
    let claims = [claim(9, true), claim(2, true), claim(5, false), claim(3, false), claim(7, true)];
    let mut asked = Vec::new();
    let answer = resolve(&claims, |original| {
        asked.push(original.offset.0);
        original.offset.0 == 9 || original.offset.0 < 5
    });
    assert_eq!(answer, Some(claims[0].original));
    assert_eq!(asked, [5, 7, 9]);
    assert_eq!(resolve(&[], |_| true), None);
}
