//! Producers: single events and batches over several topics and partitions, equal ids, and
//! everything whose fate is unknown sent again until it is known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chronosdb::base::api::{EventFault, EventOutcome, Reply, Request};

use chronosdb::base::error::ErrorCode;

use super::client::{Context, Session};
use super::content::{Content, PAYLOAD_MIN, When, message};
use super::profile::Profile;
use super::rng::Rng;

/// Requests without an answer that a producer has open at most.
const PIPELINE: usize = 4;

pub struct Producer {
    number: u64,
    left: u64,
    batch_max: u64,
    payload_max: u64,
    topics: Vec<Arc<str>>,
    /// The index is small on purpose: what it refuses is given up at the end.
    refusals: bool,
    session: Option<Session>,
    waiting: BTreeMap<u64, Vec<u32>>,
    /// Fate unknown, or refused for a passing reason.
    unresolved: VecDeque<u32>,
    /// Acknowledged ones, to be sent again now and then.
    stored: Vec<u32>,
}

impl Producer {
    pub fn new(number: u64, profile: &Profile) -> Self {
        Self {
            number,
            left: profile.events,
            batch_max: profile.batch_max,
            payload_max: profile.payload_max,
            topics: profile.topics.clone(),
            refusals: profile.engine.index_events < 1_000,
            session: None,
            waiting: BTreeMap::new(),
            unresolved: VecDeque::new(),
            stored: Vec::new(),
        }
    }

    /// Everything it has sent has a definite answer, and it will send no more.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.unresolved.is_empty()
    }

    pub fn wake(&mut self, cx: &mut Context<'_>) {
        if !cx.up || (cx.healing && self.is_done()) {
            return;
        }
        let session = *self.session.get_or_insert_with(|| cx.connect());
        if !cx.healing && cx.rng.percent(2) {
            cx.close(session);
            self.disconnected();
        } else if self.waiting.len() < PIPELINE {
            let numbers = self.choose(cx);
            if !numbers.is_empty() {
                let contents: Vec<&Content> =
                    numbers.iter().map(|n| cx.oracle.records.content(*n)).collect();
                let batch = numbers.len() > 1 || cx.rng.percent(30);
                let publish = Request::Publish(message(&contents, batch));
                let correlation = cx.ask(session, publish);
                self.waiting.insert(correlation, numbers);
            }
        }
        cx.wake_in(100, 30_000);
    }

    pub fn reply(&mut self, correlation: u64, reply: &Reply, cx: &mut Context<'_>) {
        let Some(numbers) = self.waiting.remove(&correlation) else { return };
        for (i, number) in numbers.into_iter().enumerate() {
            let faulty = cx.oracle.records.content(number).fault.is_some();
            let outcome = match reply {
                Reply::Published { outcomes, .. } => outcomes.get(i),
                _ => None,
            };
            match outcome {
                Some(EventOutcome::Stored(_) | EventOutcome::Duplicate(_)) => {
                    self.stored.push(number);
                }
                Some(EventOutcome::Failed(error))
                    if cx.healing
                        && self.refusals
                        && error.code == ErrorCode::ResourceExhausted => {}
                _ => self.retry(number, faulty, cx.oracle.records.content(number).allow_duplicate),
            }
        }
        if cx.healing {
            cx.wake_in(100, 5_000);
        }
    }

    /// The connection broke: what waited for an answer is unknown.
    pub fn disconnected(&mut self) {
        self.session = None;
        for (_, numbers) in std::mem::take(&mut self.waiting) {
            self.unresolved.extend(numbers);
        }
    }

    /// Gives up what can never be stored.
    pub fn give_up(&mut self, hopeless: impl Fn(u32) -> bool) {
        self.unresolved.retain(|number| !hopeless(*number));
    }

    fn retry(&mut self, number: u32, faulty: bool, allow_duplicate: bool) {
        // What may be stored twice is not sent again for ever.
        if !faulty && !allow_duplicate {
            self.unresolved.push_back(number);
        }
    }

    fn choose(&mut self, cx: &mut Context<'_>) -> Vec<u32> {
        let again = cx.healing || cx.rng.percent(30);
        if again && !self.unresolved.is_empty() {
            return self.choose_again(cx);
        }
        if cx.healing {
            return Vec::new();
        }
        if cx.rng.percent(8) && !self.stored.is_empty() {
            let first = *cx.rng.pick(&self.stored);
            let allow = cx.oracle.records.content(first).allow_duplicate;
            return if allow { Vec::new() } else { vec![first; cx.rng.between(1, 2) as usize] };
        }
        let size = cx.rng.between(1, self.batch_max).min(self.left);
        self.left -= size;
        let allow_duplicate = cx.rng.percent(6);
        (0..size).map(|_| self.create(allow_duplicate, cx)).collect()
    }

    /// Unknown ones of one kind: a message allows duplicates or it does not.
    fn choose_again(&mut self, cx: &mut Context<'_>) -> Vec<u32> {
        let records = &cx.oracle.records;
        let allow = |n: u32| records.content(n).allow_duplicate;
        let kind = allow(self.unresolved[0]);
        let same = self.unresolved.iter().take_while(|n| allow(**n) == kind).count();
        let size = cx.rng.between(1, self.batch_max.max(4)).min(same as u64) as usize;
        self.unresolved.drain(..size).collect()
    }

    fn create(&self, allow_duplicate: bool, cx: &mut Context<'_>) -> u32 {
        let rng = &mut *cx.rng;
        let when = when(rng, cx.wall_ms);
        let payload_len = PAYLOAD_MIN + rng.below(self.payload_max) as usize;
        let meta_len = if rng.percent(30) { rng.below(60) as usize } else { 0 };
        let partition_key = rng.percent(30).then(|| format!("k{}", rng.below(5)));
        let topic = rng.pick(&self.topics).clone();
        let fault = rng.percent(1).then_some(EventFault::MessageIdTooLong);
        let durable_ack = rng.percent(10);
        let known = cx.oracle.records.contents.len() as u64;
        let copied = (known > 0 && rng.percent(6)).then(|| rng.below(known) as u32);
        let mut content = Content {
            number: 0,
            topic,
            message_id: format!("e{}-{known}", self.number),
            partition_key,
            when,
            payload_len,
            meta_len,
            allow_duplicate,
            durable_ack,
            fault,
        };
        if let Some(original) = copied {
            // Another event under a known id.
            let original = cx.oracle.records.content(original);
            content.message_id.clone_from(&original.message_id);
            content.topic = original.topic.clone();
            content.partition_key.clone_from(&original.partition_key);
        }
        cx.oracle.records.add(content)
    }
}

fn when(rng: &mut Rng, wall_ms: u64) -> When {
    const HOUR_MS: u64 = 3_600_000;
    const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
    match rng.below(100) {
        0..15 => When::At(wall_ms - rng.scale(1, HOUR_MS)),
        15..17 => When::At(1 + rng.below(1_000_000)),
        17..40 => When::At(wall_ms + rng.below(50)),
        40..70 => When::At(wall_ms + rng.below(3_000)),
        70..80 => When::At(wall_ms + rng.scale(1, 20_000)),
        80..85 => When::At(wall_ms + rng.scale(HOUR_MS, 240 * HOUR_MS)),
        85..88 => When::At(wall_ms + rng.scale(YEAR_MS, 50 * YEAR_MS)),
        // Many at one instant.
        88..92 => When::At((wall_ms / 1_000 + 1) * 1_000),
        _ => When::Delay(rng.scale(1, 2_000)),
    }
}
