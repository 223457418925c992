//! The story of a settlement, owner half: a verdict comes in, or a lease ends.
//!
//! ```text
//!   ack, nack, expiry --> judged from the id and the applied state --> proposed (settling)
//!        --> durable, applied --> confirmed, and free for the next attempt or done
//! ```
//!
//! Must hold: nothing is confirmed before its entry is applied; between proposal and apply the
//! event is `settling`: neither handed out nor judged again.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher24;

use super::ack::unknown_delivery;
use super::fire::{Timer, TimerKind};
use crate::base::api::{AckOutcome, AckSpec, DeliveryId, Verdict};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{GroupNo, Position, ShardId};
use crate::base::limits;
use crate::engine::delivery::{
    DeadLetter, Failures, Group, Lease, PASS_AT_ONCE, Settling, backoff_ms,
};
use crate::engine::log::{DeadReason, SettleBuilder, SettleKind, Settlement};
use crate::engine::mesh::MeshMessage;
use crate::engine::partition::{Applied, End, Partition};
use crate::engine::proposals::Waiter;
use crate::engine::step::Step;
use crate::engine::wheel::Handle;

/// Tells the hash of a delivery id from all others of the same key.
const SEAL: u8 = 0xd1;

/// The answer to one verdict.
enum Judged {
    /// At once.
    Now(AckOutcome),
    /// When the settlement is applied that has been proposed, by it or before it.
    OnceApplied(AckOutcome),
}

/// Why an attempt failed.
struct Failure {
    reason: DeadReason,
    text: Arc<str>,
    delay_ms: Option<u64>,
}

impl Partition {
    /// Verdicts on events of this partition.
    pub(in crate::engine) fn ack(
        &mut self,
        step: &mut Step<'_>,
        shard: ShardId,
        request: u64,
        acks: Vec<(u32, AckSpec)>,
    ) {
        // They are answered together: a waiter for each verdict would cost more than the verdict.
        // Looking for all leases first has the memory they lie in fetched side by side: each is
        // far from the one before, and judging one is too long for the processor to look ahead.
        let leased = acks.iter().filter(|(_, ack)| self.is_leased(ack)).count();
        let (mut judged, mut waiting) = (Vec::new(), Vec::with_capacity(leased));
        for (place, ack) in acks {
            let id = ack.id.expect("the front has answered verdicts without an id");
            match self.judge(step, &id, ack.verdict) {
                Judged::Now(outcome) => judged.push((place, outcome)),
                Judged::OnceApplied(outcome) => waiting.push((place, outcome)),
            }
        }
        if !judged.is_empty() {
            step.send(shard, MeshMessage::Acked { request, outcomes: judged });
        }
        if !waiting.is_empty() {
            let waiter = Waiter::Ack { shard, request, outcomes: waiting };
            self.proposals.wait_for_settlements(waiter);
        }
    }

    fn is_leased(&self, ack: &AckSpec) -> bool {
        let Some(id) = &ack.id else { return false };
        let group = self.groups.get(id.group_no.0 as usize);
        group.is_some_and(|group| group.dispatch.leased.contains_key(&id.position))
    }

    fn judge(&mut self, step: &mut Step<'_>, id: &DeliveryId, verdict: Verdict) -> Judged {
        let position = id.position;
        let outcome = |result| AckOutcome { result, committed_offset: position.offset.plus(1) };
        let done = |result| Judged::Now(outcome(result));
        if !self.is_serving() {
            return done(Err(ApiError::not_leader()));
        }
        let Some(group) = self.group_of(id) else { return Judged::Now(unknown_delivery()) };
        let group = &mut self.groups[group.0 as usize];
        if group.cursor.is_settled(position) {
            return match verdict {
                Verdict::Ack => done(Ok(())),
                Verdict::Nack { .. } | Verdict::Extend { .. } => done(Err(no_lease(id))),
            };
        }
        let no = group.no;
        let recorded = Judged::OnceApplied(outcome(Ok(())));
        match (group.dispatch.settling.get(&position).copied(), verdict) {
            // A second ack waits for the first one's entry: it is the same settlement.
            (Some(Settling::Done), Verdict::Ack) => recorded,
            (None | Some(Settling::Retry), Verdict::Ack) => {
                self.propose_done(step, no, position);
                recorded
            }
            (Some(_), _) => done(Err(no_lease(id))),
            (None, verdict) => {
                let lease = group.dispatch.leased.get(&position).copied();
                // Attempts are counted anew in each term: another term's is another attempt.
                let own = |l: &Lease<_>| l.attempt == id.attempt && id.term == self.replica.term();
                let Some(lease) = lease.filter(own) else {
                    return done(Err(no_lease(id)));
                };
                match verdict {
                    Verdict::Nack { delay_ms, reason } => {
                        step.stats.nacked += 1;
                        let reason_code = DeadReason::Nacked;
                        let failure = Failure { reason: reason_code, text: reason, delay_ms };
                        self.fail(step, no, position, lease, &failure);
                        recorded
                    }
                    Verdict::Extend { by_ms } => {
                        self.extend(step, no, position, lease, by_ms);
                        done(Ok(()))
                    }
                    Verdict::Ack => unreachable!("an ack was handled above"),
                }
            }
        }
    }

    /// The group that a delivery id names, if all of it is true: its number, its name, and that it
    /// was given an event at that position, which need not be in memory any more.
    fn group_of(&self, id: &DeliveryId) -> Option<GroupNo> {
        let group = self.groups.get(id.group_no.0 as usize)?;
        let sealed = id.seal == self.seal_of(group.no, id.position);
        let known = *group.name == *id.group && group.admits(id.position) && sealed;
        known.then_some(group.no)
    }

    /// What makes a delivery id ours: a keyed hash of the group and the event's place.
    pub(super) fn seal_of(&self, no: GroupNo, position: Position) -> u32 {
        let mut hasher = SipHasher24::new_with_key(self.dedup.key());
        hasher.write_u8(SEAL);
        hasher.write_u16(self.id.0);
        hasher.write_u32(no.0);
        hasher.write_u64(position.due);
        hasher.write_u64(position.offset.0);
        hasher.finish() as u32
    }

    fn propose_done(&mut self, step: &mut Step<'_>, no: GroupNo, position: Position) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        let lease = dispatch.leased.remove(&position);
        if lease.is_none() {
            dispatch.ready.remove(&position);
            dispatch.held.remove(&position);
        }
        dispatch.settling(position);
        let (attempts, kind) = (lease.map_or(0, |l| l.attempt), SettleKind::Acked);
        if let Some(lease) = lease {
            self.end_lease(step, lease);
        }
        self.settle_later(&Settlement { group: no, position, attempts, releases: 0, kind });
    }

    /// An event whose record is gone is done with, for this group.
    pub(super) fn propose_gone(&mut self, no: GroupNo, position: Position) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        dispatch.ready.remove(&position);
        dispatch.settling(position);
        let (reason, text) = (DeadReason::Gone, "nobody had read it for longer than is kept");
        let (attempts, kind) = (0, SettleKind::Dead { reason, text });
        self.settle_later(&Settlement { group: no, position, attempts, releases: 0, kind });
    }

    /// Adds a settlement to the next entry of them.
    fn settle_later(&mut self, settlement: &Settlement<'_>) {
        self.proposals.settles.push(settlement);
        self.proposals.settled_groups.insert(settlement.group);
    }

    /// An attempt failed: the next one is proposed, or the end.
    fn fail(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        position: Position,
        lease: Lease<Handle>,
        failure: &Failure,
    ) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        let was = dispatch.leased.remove(&position);
        assert!(was.is_some(), "only a leased event fails");
        self.end_lease(step, lease);
        let attempts = lease.failed + 1;
        let (kind, settling) = if attempts > step.config.max_retries {
            let (reason, text) = (failure.reason, &*failure.text);
            (SettleKind::Dead { reason, text }, Settling::Done)
        } else {
            let (base, max) = (step.config.retry_backoff_ms, step.config.retry_backoff_max_ms);
            let delay =
                failure.delay_ms.unwrap_or_else(|| backoff_ms(base, max, attempts, position));
            let not_before_ms = self.clock.peek(step.now) + delay.min(limits::RETRY_DELAY_MAX_MS);
            (SettleKind::Retry { not_before_ms }, Settling::Retry)
        };
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        match settling {
            Settling::Done => dispatch.settling(position),
            Settling::Retry => {
                dispatch.settling.insert(position, Settling::Retry);
            }
        }
        self.settle_later(&Settlement { group: no, position, attempts, releases: 0, kind });
    }

    pub(super) fn end_lease(&mut self, step: &mut Step<'_>, lease: Lease<Handle>) {
        self.timers.cancel(lease.timer);
        if let Some(member) = lease.member {
            step.turn.return_credit(member, 1);
        }
    }

    fn extend(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        position: Position,
        lease: Lease<Handle>,
        by_ms: u64,
    ) {
        self.timers.cancel(lease.timer);
        let by_ms = by_ms.min(limits::RETRY_DELAY_MAX_MS);
        let timer = Timer { kind: TimerKind::LeaseEnd, group: no, position };
        let handle = self.timers.insert(step.now.boot_ms() + by_ms + 1, timer);
        let lease = Lease { timer: handle, ..lease };
        self.groups[no.0 as usize].dispatch.leased.insert(position, lease);
    }

    /// A lease has run out, or a member has been gone for the grace: see [`TimerKind`].
    pub(in crate::engine) fn timer(&mut self, step: &mut Step<'_>, timer: Timer) {
        let Timer { kind, group: no, position } = timer;
        let group = &mut self.groups[no.0 as usize];
        match kind {
            TimerKind::LeaseEnd => {
                let lease = group.dispatch.leased[&position];
                step.stats.expired += 1;
                let text = Arc::from("ack timeout");
                let failure = Failure { reason: DeadReason::Expired, text, delay_ms: None };
                self.fail(step, no, position, lease, &failure);
            }
            TimerKind::Release => {
                let lease = group.dispatch.leased[&position];
                assert!(lease.member.is_none(), "only a lease without a member is released");
                let releases = group.dispatch.releases.entry(position).or_insert(0);
                *releases += 1;
                if *releases > limits::DISCONNECT_RELEASES {
                    let text = Arc::from("its members disconnected too often");
                    let reason = DeadReason::Disconnected;
                    let failure = Failure { reason, text, delay_ms: None };
                    self.fail(step, no, position, lease, &failure);
                } else {
                    group.dispatch.leased.remove(&position);
                    group.dispatch.release(position);
                    self.dirty.insert(no);
                }
            }
            TimerKind::Retry => {
                if !group.cursor.is_settled(position) && group.dispatch.held.contains(&position) {
                    if position.offset < self.retention.log_start {
                        // Its due index may have gone with its record.
                        group.dispatch.release_ahead(position);
                    } else {
                        group.dispatch.release(position);
                    }
                    self.dirty.insert(no);
                }
            }
        }
    }

    /// Changes the cursors by one settlement of an applied entry.
    pub(in crate::engine) fn apply_settlement(
        &mut self,
        settlement: &Settlement<'_>,
        append_ts: u64,
        applied: &mut Applied,
    ) {
        let (no, position) = (settlement.group, settlement.position);
        let group = &mut self.groups[no.0 as usize];
        match settlement.kind {
            SettleKind::Acked => {
                let end = if group.cursor.settle(position) { End::Acked } else { End::Again };
                applied.settled.push((no, position, end));
            }
            SettleKind::Dead { reason, text } => {
                let new = group.cursor.settle(position);
                if new {
                    let (attempts, text) = (settlement.attempts, Arc::from(text));
                    let letter = DeadLetter { reason: reason as u8, attempts, text };
                    group.dead.insert(position, letter);
                }
                let end = if new { End::Dead } else { End::Again };
                applied.settled.push((no, position, end));
            }
            SettleKind::Retry { not_before_ms } => {
                let failures =
                    Failures { attempts: settlement.attempts, not_before: not_before_ms };
                group.cursor.fail(position, failures);
                let delay = not_before_ms.saturating_sub(append_ts);
                applied.retries.push((no, position, delay));
            }
            SettleKind::Released => {}
            SettleKind::Passed => group.cursor.pass(position),
            SettleKind::Frontier => group.cursor.advance(position),
        }
    }

    /// Adds to the entry that is about to be sealed how far the frontiers of its groups go. Decided
    /// here, from what the leader has read, and only recorded by apply: replicas need no axis.
    pub(super) fn propose_frontiers(&mut self) {
        let limit = self.proposals.applied_limit();
        for no in std::mem::take(&mut self.proposals.settled_groups) {
            let Group { cursor, dispatch, .. } = &mut self.groups[no.0 as usize];
            let Some(moved) = dispatch.next_frontier(cursor, limit) else { continue };
            let mut row = |position, kind| {
                let (attempts, releases) = (0, 0);
                let row = Settlement { group: no, position, attempts, releases, kind };
                self.proposals.settles.push(&row);
            };
            for position in moved.passed {
                row(position, SettleKind::Passed);
            }
            row(moved.to, SettleKind::Frontier);
        }
    }

    /// Bytes that [`Self::propose_frontiers`] may add.
    pub(super) fn frontier_bytes(&self) -> usize {
        self.proposals.settled_groups.len() * (PASS_AT_ONCE + 1) * SettleBuilder::ROW_BYTES
    }

    /// What an applied settlement means to the leader's leases and timers.
    pub(in crate::engine) fn settled(&mut self, step: &mut Step<'_>, applied: Applied) {
        for (no, position, end) in applied.settled {
            match end {
                End::Acked => step.stats.acked += 1,
                End::Dead => step.stats.dead += 1,
                End::Again => {}
            }
            let dispatch = &mut self.groups[no.0 as usize].dispatch;
            if dispatch.in_flight() > limits::GROUP_UNSETTLED / 2 {
                self.dirty.insert(no); // it may have stopped at its bound
            }
            dispatch.forget(position);
            // A settlement of an earlier term may be applied while this one has leased the event.
            if let Some(lease) = dispatch.leased.remove(&position) {
                self.end_lease(step, lease);
            }
        }
        for (no, position, delay) in applied.retries {
            let dispatch = &mut self.groups[no.0 as usize].dispatch;
            if dispatch.settling.get(&position) == Some(&Settling::Retry) {
                dispatch.settling.remove(&position);
                dispatch.held.insert(position);
                let timer = Timer { kind: TimerKind::Retry, group: no, position };
                self.timers.insert(step.now.boot_ms() + delay, timer);
            }
        }
    }
}

fn no_lease(id: &DeliveryId) -> ApiError {
    let text = format!(
        "attempt {} of this delivery is over: it was settled or its time ran out",
        id.attempt
    );
    ApiError::new(ErrorCode::NotFound, text)
}
