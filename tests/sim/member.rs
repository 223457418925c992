//! Members of groups: prompt, slow, dying, nacking, late, silent; judging from other connections.
//! After the chaos every member is prompt.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronosdb::base::api::{
    AckSpec, Delivery, DeliveryId, Nack, PartitionSet, Reply, Request, Start, SubscribeSpec,
    Verdict,
};
use chronosdb::base::ids::{NameHash, PartitionId};

use super::client::{Context, Session};
use super::profile::{GroupPlan, MemberPlan};

/// Verdicts of one request at most.
const VERDICTS: usize = 20;

pub struct Member {
    group: Arc<str>,
    topic: Arc<str>,
    name: Arc<str>,
    start: Start,
    plan: MemberPlan,
    ack_timeout_us: u64,
    session: Option<Session>,
    /// Correlation id of the open stream.
    stream: Option<u64>,
    /// The stream reads only some of the partitions.
    narrow: bool,
    dies_us: u64,
    /// Verdicts to give, by world time. They outlive connections.
    verdicts: BTreeMap<(u64, u64), AckSpec>,
    serial: u64,
}

impl Member {
    pub fn new(group: &GroupPlan, plan: &MemberPlan, number: usize, ack_timeout_ms: u64) -> Self {
        Self {
            group: group.name.clone(),
            topic: group.topic.clone(),
            name: format!("m{}", number / 2).into(),
            start: group.start,
            plan: plan.clone(),
            ack_timeout_us: ack_timeout_ms * 1_000,
            session: None,
            stream: None,
            narrow: false,
            dies_us: u64::MAX,
            verdicts: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Nothing is left to be said.
    pub fn is_done(&self) -> bool {
        self.verdicts.is_empty()
    }

    pub fn wake(&mut self, cx: &mut Context<'_>) {
        if !cx.up {
            return;
        }
        let session = match self.session {
            Some(session) => session,
            None => self.connect(cx),
        };
        if cx.time_us >= self.dies_us && !cx.healing {
            cx.close(session);
            self.disconnected();
            return cx.wake_in(1_000, 300_000);
        }
        let widens = cx.healing && std::mem::take(&mut self.narrow);
        let leaves = widens || (!cx.healing && self.plan.life_us > 0 && cx.rng.percent(3));
        if let Some(correlation) = self.stream.filter(|_| leaves) {
            cx.ask(session, Request::CloseStream { correlation });
        }
        if self.stream.is_none() && self.has_partition(cx) {
            let subscribe = Request::Subscribe(self.subscribe(cx));
            self.stream = Some(cx.ask(session, subscribe));
            self.narrow = !self.plan.partitions.is_empty();
        }
        self.judge(session, cx);
        let next = self.verdicts.keys().next().map_or(u64::MAX, |(at, _)| *at);
        if next.min(self.dies_us) < u64::MAX {
            let at_us = next.min(self.dies_us).max(cx.time_us + 1);
            cx.wake_at(at_us);
        }
    }

    pub fn reply(&mut self, correlation: u64, reply: &Reply, cx: &mut Context<'_>) {
        let over = matches!(reply, Reply::StreamEnd(_) | Reply::Failed(_));
        if over && self.stream == Some(correlation) {
            self.stream = None;
            cx.wake_in(1_000, 50_000);
        }
    }

    /// A delivery has come over the socket.
    pub fn delivered(&mut self, delivery: &Delivery, cx: &mut Context<'_>) {
        let position = delivery.event.position();
        let id = DeliveryId {
            group: NameHash::of(&*self.group),
            partition: delivery.event.partition,
            group_no: delivery.group,
            term: delivery.term,
            position,
            attempt: delivery.attempt,
            seal: delivery.seal,
        };
        let prompt = cx.time_us + cx.rng.between(1, 2_000);
        if cx.healing {
            return self.say(prompt, id, Verdict::Ack, cx);
        }
        let plan = &self.plan;
        let at_us = cx.time_us + cx.rng.between(1, plan.hold_max_us);
        if cx.rng.percent(plan.ignore) {
            return;
        }
        if cx.rng.percent(plan.nack) {
            let own = [0, 1, 50, 400, 3_000];
            let delay_ms = cx.rng.percent(50).then(|| *cx.rng.pick(&own));
            let nack = Nack { delay_ms, reason: "no".into() };
            return self.say(at_us, id, Verdict::Nack(Box::new(nack)), cx);
        }
        if cx.rng.percent(plan.late) {
            let late = at_us + self.ack_timeout_us + cx.rng.below(500_000);
            return self.say(late, id, Verdict::Ack, cx);
        }
        let (extend, twice) = (plan.extend, plan.twice);
        if cx.rng.percent(extend) {
            let by_ms = cx.rng.between(1, 2 * self.ack_timeout_us / 1_000);
            self.say(prompt, id, Verdict::Extend { by_ms }, cx);
        }
        if cx.rng.percent(twice) {
            self.say(at_us + 10_000, id, Verdict::Ack, cx);
        }
        self.say(at_us, id, Verdict::Ack, cx);
    }

    pub fn disconnected(&mut self) {
        self.session = None;
        self.stream = None;
        self.dies_us = u64::MAX;
    }

    /// The chaos is over: it lives on, and takes every partition.
    pub fn heal(&mut self) {
        self.dies_us = u64::MAX;
        self.plan.partitions.clear();
    }

    fn connect(&mut self, cx: &mut Context<'_>) -> Session {
        let session = cx.connect();
        self.session = Some(session);
        if self.plan.life_us > 0 && !cx.healing {
            self.dies_us = cx.time_us + cx.rng.between(1, 2 * self.plan.life_us);
        }
        session
    }

    fn subscribe(&self, cx: &Context<'_>) -> SubscribeSpec {
        let all = &cx.oracle.records.partitions;
        let wanted = |p: &u16| self.plan.partitions.is_empty() || self.plan.partitions.contains(p);
        let chosen: Vec<PartitionId> = (0..all.len() as u16)
            .filter(|p| wanted(p) && !all[*p as usize].rotten)
            .map(PartitionId)
            .collect();
        let whole = chosen.len() == all.len() && self.plan.partitions.is_empty();
        let partitions = if whole { PartitionSet::All } else { PartitionSet::These(chosen) };
        SubscribeSpec {
            group: self.group.clone(),
            topic: self.topic.clone(),
            member: self.name.clone(),
            partitions,
            start: self.start,
            credit: self.plan.credit,
        }
    }

    /// Whether there is anything for it to consume.
    fn has_partition(&self, cx: &Context<'_>) -> bool {
        self.subscribe(cx).partitions != PartitionSet::These(Vec::new())
    }

    fn say(&mut self, at_us: u64, id: DeliveryId, verdict: Verdict, cx: &mut Context<'_>) {
        self.serial += 1;
        self.verdicts.insert((at_us, self.serial), AckSpec { id: Some(id), verdict });
        cx.wake_at(at_us);
    }

    fn judge(&mut self, session: Session, cx: &mut Context<'_>) {
        let mut specs = Vec::new();
        while let Some(entry) = self.verdicts.first_entry() {
            if entry.key().0 > cx.time_us || specs.len() == VERDICTS {
                break;
            }
            specs.push(entry.remove());
        }
        if specs.is_empty() {
            return;
        }
        if cx.rng.percent(1) {
            specs.push(AckSpec { id: None, verdict: Verdict::Ack });
        }
        let elsewhere = cx.rng.percent(self.plan.elsewhere);
        let by = if elsewhere { *cx.rng.pick(cx.sessions) } else { session };
        cx.ask(by, Request::Ack(specs));
    }
}
