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
use crate::base::api::{AckOutcome, AckSpec, DeliveryId, Nack, Verdict};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{GroupNo, Position, ShardId};
use crate::base::limits;
use crate::engine::delivery::{
    Busy, DeadLetter, DeadlineNo, Failures, Group, Lease, MemberKey, PASS_AT_ONCE, Settling,
    backoff_ms,
};
use crate::engine::log::{DeadReason, SettleBuilder, SettleKind, Settlement};
use crate::engine::mesh::MeshMessage;
use crate::engine::partition::{Applied, End, Partition};
use crate::engine::proposals::Waiter;
use crate::engine::step::Step;

/// Tells the hash of a delivery id from all others of the same key.
const SEAL: u8 = 0xd1;

/// The answer to one verdict.
enum Judged {
    /// At once.
    Now(Result<(), ApiError>),
    /// That it is recorded, once the settlement is applied that has been proposed, by it or before
    /// it.
    OnceApplied,
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
        let busy = acks.iter().filter(|(_, ack)| self.is_busy(ack)).count();
        let (mut judged, mut waiting) = (Vec::new(), Vec::with_capacity(busy));
        for (place, ack) in acks {
            let id = ack.id.expect("the front has answered verdicts without an id");
            // The offset says little: nobody commits by it. It is there for those who look at it.
            let committed_offset = id.position.offset.plus(1);
            match self.judge(step, &id, ack.verdict) {
                Judged::Now(result) => {
                    judged.push((place, AckOutcome { result, committed_offset }));
                }
                Judged::OnceApplied => {
                    waiting.push((place, AckOutcome { result: Ok(()), committed_offset }));
                }
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

    fn is_busy(&self, ack: &AckSpec) -> bool {
        let Some(id) = &ack.id else { return false };
        let group = self.groups.get(id.group_no.0 as usize);
        group.is_some_and(|group| group.dispatch.busy.contains(id.position))
    }

    fn judge(&mut self, step: &mut Step<'_>, id: &DeliveryId, verdict: Verdict) -> Judged {
        let position = id.position;
        if !self.is_serving() {
            return Judged::Now(Err(ApiError::not_leader()));
        }
        let Some(group) = self.group_of(id) else {
            return Judged::Now(unknown_delivery().result);
        };
        let group = &mut self.groups[group.0 as usize];
        if group.cursor.is_settled(position) {
            return match verdict {
                Verdict::Ack => Judged::Now(Ok(())),
                Verdict::Nack(_) | Verdict::Extend { .. } => Judged::Now(Err(no_lease(id))),
            };
        }
        let no = group.no;
        match (group.dispatch.busy.get(position), verdict) {
            // A second ack waits for the first one's entry: it is the same settlement.
            (Some(Busy::Settling(Settling::Done)), Verdict::Ack) => Judged::OnceApplied,
            (_, Verdict::Ack) => {
                self.propose_done(step, no, position);
                Judged::OnceApplied
            }
            (None | Some(Busy::Settling(_)), _) => Judged::Now(Err(no_lease(id))),
            (Some(Busy::Leased(lease)), verdict) => {
                // Attempts are counted anew in each term: another term's is another attempt.
                if lease.attempt != id.attempt || id.term != self.replica.term() {
                    return Judged::Now(Err(no_lease(id)));
                }
                match verdict {
                    Verdict::Nack(nack) => {
                        let Nack { delay_ms, reason } = *nack;
                        step.stats.nacked += 1;
                        let reason_code = DeadReason::Nacked;
                        let failure = Failure { reason: reason_code, text: reason, delay_ms };
                        self.fail(step, no, position, &failure);
                        Judged::OnceApplied
                    }
                    Verdict::Extend { by_ms } => {
                        self.extend(step, no, position, lease, by_ms);
                        Judged::Now(Ok(()))
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
        let known = group.name_hash == id.group && group.admits(id.position) && sealed;
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
        let lease = dispatch.settling(position, Settling::Done);
        let (attempts, kind) = (lease.map_or(0, |l| l.attempt), SettleKind::Acked);
        if let Some(lease) = lease {
            self.end_lease(step, no, lease);
        } else {
            dispatch.ready.remove(&position);
            dispatch.held.remove(&position);
        }
        self.settle_later(&Settlement { group: no, position, attempts, releases: 0, kind });
    }

    /// An event whose record is gone is done with, for this group.
    pub(super) fn propose_gone(&mut self, no: GroupNo, position: Position) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        dispatch.ready.remove(&position);
        let lease = dispatch.settling(position, Settling::Done);
        assert!(lease.is_none(), "an event that a member has is not gone");
        let (reason, text) = (DeadReason::Gone, "nobody had read it for longer than is kept");
        let (attempts, kind) = (0, SettleKind::Dead { reason, text });
        self.settle_later(&Settlement { group: no, position, attempts, releases: 0, kind });
    }

    /// Adds a settlement to the next entry of them.
    fn settle_later(&mut self, settlement: &Settlement<'_>) {
        self.proposals.settles.push(settlement);
        self.proposals.settled_groups.insert(settlement.group);
    }

    /// The attempt of a leased event failed: the next one is proposed, or the end.
    fn fail(&mut self, step: &mut Step<'_>, no: GroupNo, position: Position, failure: &Failure) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        let lease = dispatch.busy.lease(position).expect("only a leased event fails");
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
        dispatch.settling(position, settling);
        self.end_lease(step, no, lease);
        self.settle_later(&Settlement { group: no, position, attempts, releases: 0, kind });
    }

    /// A lease is over: so is its deadline, unless others have it too, and its member has its
    /// credit back.
    pub(super) fn end_lease(&mut self, step: &mut Step<'_>, no: GroupNo, lease: Lease) {
        if let Some(member) = self.leave_deadline(no, lease) {
            step.turn.return_credit(member, 1);
        }
    }

    /// A lease has its deadline no more. Returns who has held it.
    pub(super) fn leave_deadline(&mut self, no: GroupNo, lease: Lease) -> Option<MemberKey> {
        let left = self.groups[no.0 as usize].dispatch.deadlines.leave(lease.deadline);
        if let Some(timer) = left.timer {
            self.timers.cancel(timer);
        }
        left.member
    }

    fn extend(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        position: Position,
        lease: Lease,
        by_ms: u64,
    ) {
        let member = self.leave_deadline(no, lease);
        let at = step.now.boot_ms() + by_ms.min(limits::RETRY_DELAY_MAX_MS) + 1;
        // Whoever asks for more time is there, though its stream be gone.
        let deadline = self.begin_deadline(no, position, at, member, TimerKind::LeaseEnd);
        let lease = Lease { deadline, ..lease };
        self.groups[no.0 as usize].dispatch.busy.renew(position, lease);
    }

    /// The deadline `with`, if it may have one lease more, of a later event; else a new one.
    pub(super) fn share_deadline(
        &mut self,
        no: GroupNo,
        position: Position,
        at: u64,
        with: Option<DeadlineNo>,
        member: Option<MemberKey>,
    ) -> DeadlineNo {
        let deadlines = &mut self.groups[no.0 as usize].dispatch.deadlines;
        if let Some(number) = with.filter(|number| deadlines.join(*number, position)) {
            return number;
        }
        let kind = if member.is_some() { TimerKind::LeaseEnd } else { TimerKind::Release };
        self.begin_deadline(no, position, at, member, kind)
    }

    /// A new deadline at `at`, boot ms, of one lease.
    fn begin_deadline(
        &mut self,
        no: GroupNo,
        position: Position,
        at: u64,
        member: Option<MemberKey>,
        kind: fn(DeadlineNo) -> TimerKind,
    ) -> DeadlineNo {
        let deadlines = &mut self.groups[no.0 as usize].dispatch.deadlines;
        let timer = Timer { kind: kind(deadlines.next()), group: no, position };
        deadlines.begin(self.timers.insert(at, timer), member, position)
    }

    /// A timer has run out, see [`TimerKind`]. Returns the number of events that it was for.
    pub(in crate::engine) fn timer(&mut self, step: &mut Step<'_>, timer: Timer) -> usize {
        let Timer { kind, group: no, position } = timer;
        let dispatch = &self.groups[no.0 as usize].dispatch;
        let (deadline, events) = match kind {
            TimerKind::LeaseEnd(deadline) | TimerKind::Release(deadline) => {
                (Some(deadline), dispatch.leases_until(deadline))
            }
            TimerKind::Retry => (None, vec![position]),
        };
        for position in &events {
            match kind {
                TimerKind::LeaseEnd(_) => self.expire(step, no, *position),
                TimerKind::Release(_) => self.release(step, no, *position),
                TimerKind::Retry => self.retry(no, *position),
            }
        }
        let deadlines = &self.groups[no.0 as usize].dispatch.deadlines;
        let is_over = deadline.is_none_or(|deadline| deadlines.range(deadline).is_none());
        assert!(is_over, "all leases of a deadline end with it");
        events.len()
    }

    /// A lease has run out.
    fn expire(&mut self, step: &mut Step<'_>, no: GroupNo, position: Position) {
        step.stats.expired += 1;
        let (reason, text) = (DeadReason::Expired, Arc::from("ack timeout"));
        self.fail(step, no, position, &Failure { reason, text, delay_ms: None });
    }

    /// The member of a lease has been gone for the grace.
    fn release(&mut self, step: &mut Step<'_>, no: GroupNo, position: Position) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        let releases = dispatch.releases.entry(position).or_insert(0);
        *releases += 1;
        if *releases > limits::DISCONNECT_RELEASES {
            let text = Arc::from("its members disconnected too often");
            let reason = DeadReason::Disconnected;
            return self.fail(step, no, position, &Failure { reason, text, delay_ms: None });
        }
        let lease = dispatch.busy.remove(position).expect("only a lease is released");
        assert!(dispatch.member_of(lease).is_none(), "only one without a member");
        dispatch.release(position);
        self.end_lease(step, no, lease);
        self.dirty.insert(no);
    }

    /// A backoff is over.
    fn retry(&mut self, no: GroupNo, position: Position) {
        let group = &mut self.groups[no.0 as usize];
        if group.cursor.is_settled(position) || !group.dispatch.held.contains(&position) {
            return;
        }
        if position.offset < self.retention.log_start {
            // Its due index may have gone with its record.
            group.dispatch.release_ahead(position);
        } else {
            group.dispatch.release(position);
        }
        self.dirty.insert(no);
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
        // In two passes: what an event was busy with lies far from what the next one was, and a
        // loop that does no more finds several at once.
        let mut ended = Vec::new();
        for (no, position, _) in &applied.settled {
            let dispatch = &mut self.groups[no.0 as usize].dispatch;
            if dispatch.in_flight() > limits::GROUP_UNSETTLED / 2 {
                self.dirty.insert(*no); // it may have stopped at its bound
            }
            // A settlement of an earlier term may be applied while this one has leased the event.
            let lease = dispatch.busy.remove(*position);
            ended.extend(lease.map(|lease| (*no, lease)));
        }
        for (no, lease) in ended {
            self.end_lease(step, no, lease);
        }
        for (no, position, end) in applied.settled {
            match end {
                End::Acked => step.stats.acked += 1,
                End::Dead => step.stats.dead += 1,
                End::Again => {}
            }
            self.groups[no.0 as usize].dispatch.forget(position);
        }
        for (no, position, delay) in applied.retries {
            let dispatch = &mut self.groups[no.0 as usize].dispatch;
            if dispatch.hold(position) {
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
