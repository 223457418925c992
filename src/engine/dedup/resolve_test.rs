//! Who has an id: [`resolve`] against all publishes there ever were, first with all claims at hand,
//! then with what the window, runs and merges leave of them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::run_file::{RunFile, hash, ids, look_up};
use super::{Claim, Original, Row, plan_merge, resolve};
use crate::base::ids::{Offset, TopicNo};

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
            || !self.publishes[original.offset.0 as usize].settled
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
#[derive(Default)]
struct Store {
    window: Vec<(usize, Claim)>,
    newest_first: Vec<RunFile>,
    runs: u64,
    flushed: u64,
}

impl Store {
    fn answer(&self, model: &Model, id: usize) -> Option<Original> {
        let mut claims: Vec<Claim> =
            self.window.iter().filter(|claim| claim.0 == id).map(|claim| claim.1).collect();
        for run in &self.newest_first {
            let row = look_up(&run.directory, &run.bytes, hash(id as u64)).expect("sound");
            claims.extend(row.map(|row| row.claim));
        }
        resolve(&claims, |original| model.alive(original))
    }

    fn flush(&mut self, model: &Model) {
        let end = model.publishes.len() as u64;
        let rows = std::mem::take(&mut self.window).into_iter();
        let rows = rows.map(|(id, claim)| Row { hash: hash(id as u64), claim }).collect();
        let run = self.write(self.flushed..end, rows, model);
        self.flushed = end;
        self.newest_first.insert(0, run);
        // Eight runs are many here: as if there were four large ones more, so that some are merged.
        let mut sizes: Vec<u64> = self.newest_first.iter().map(|r| r.directory.rows()).collect();
        sizes.extend([1 << 40; 4]);
        if let Some(merged) = plan_merge(&sizes) {
            self.merge(merged.end.min(self.newest_first.len()), model);
        }
    }

    fn merge(&mut self, count: usize, model: &Model) {
        let mut rows = Vec::new();
        for run in &self.newest_first[..count] {
            let found = (0..IDS as u64).map(|id| look_up(&run.directory, &run.bytes, hash(id)));
            rows.extend(found.filter_map(|row| row.expect("sound")));
        }
        let newest = self.newest_first[0].directory.offsets().end.0;
        let oldest = self.newest_first[count - 1].directory.offsets().start.0;
        let run = self.write(oldest..newest, rows, model);
        self.newest_first.splice(..count, [run]);
    }

    fn write(
        &mut self,
        offsets: std::ops::Range<u64>,
        mut rows: Vec<Row>,
        model: &Model,
    ) -> RunFile {
        self.runs += 1;
        rows.retain(|row| model.alive(&row.claim.original));
        rows.sort_by_key(|row| row.hash);
        RunFile::write(ids(self.runs), offsets, &rows)
    }
}

/// Runs a history; after each operation `check` sees everything.
fn live(
    ops: Vec<Op>,
    mut check: impl FnMut(&Model, &Store) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (mut model, mut store) = (Model::default(), Store::default());
    for op in ops {
        match op {
            Op::Publish { id, ahead, weak } => {
                // As a server decides it: by what it has kept.
                if weak || store.answer(&model, id).is_none() {
                    store.window.push((id, model.publish(id, ahead, weak)));
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
