//! The administrator: says how long topics are kept, and asks whether it holds. What was answered
//! once holds for good, over every crash.

use std::sync::Arc;

use chronosdb::base::api::{Reply, Request, TopicSpec};
use chronosdb::base::topic_retention::TopicRetention;

use super::client::{Context, Session};

pub struct Admin {
    plan: Vec<(Arc<str>, TopicRetention)>,
    session: Option<Session>,
    /// Correlation id of what is asked.
    waiting: Option<u64>,
    /// Topics that were said to be set since the chaos, or asked for.
    heard: usize,
}

impl Admin {
    pub fn new(plan: &[(Arc<str>, TopicRetention)]) -> Self {
        Self { plan: plan.to_vec(), session: None, waiting: None, heard: 0 }
    }

    /// Every setting of the plan has been answered for, since the chaos.
    pub fn is_done(&self) -> bool {
        self.heard == self.plan.len()
    }

    /// From now on all of it counts again.
    pub fn heal(&mut self) {
        self.heard = 0;
    }

    pub fn wake(&mut self, cx: &mut Context<'_>) {
        if !cx.up || self.waiting.is_some() || self.plan.is_empty() {
            return;
        }
        if cx.healing && self.is_done() {
            return;
        }
        let session = *self.session.get_or_insert_with(|| cx.connect());
        let (topic, retention) = if cx.healing {
            self.plan[self.heard].clone()
        } else {
            cx.rng.pick(&self.plan).clone()
        };
        // The same again changes nothing.
        let retention = cx.rng.percent(60).then_some(retention);
        self.waiting = Some(cx.ask(session, Request::Topic(TopicSpec { topic, retention })));
    }

    pub fn reply(&mut self, correlation: u64, reply: &Reply, cx: &mut Context<'_>) {
        if self.waiting != Some(correlation) {
            return;
        }
        self.waiting = None;
        if cx.healing && matches!(reply, Reply::Topic(_)) {
            self.heard = (self.heard + 1).min(self.plan.len());
        }
        cx.wake_in(1_000, if cx.healing { 20_000 } else { 400_000 });
    }

    pub fn disconnected(&mut self) {
        self.session = None;
        self.waiting = None;
    }
}
