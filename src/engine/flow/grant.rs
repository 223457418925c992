//! The story of a grant, owner half: what is ready is offered to members, and handed to who has
//! granted credit for it.
//!
//! ```text
//!   dirty group --> a grant that stays --> lease, Granted
//!              \--> Offer --> Grant -----> lease, Granted
//! ```
//! A grant that stays is there before the event is: it saves two of the three messages that it
//! takes without. It is for what trickles in. A crowd, and what is too large, is offered, so that
//! it goes in large pieces and the member's session decides which partition comes first
//! (`subscribe`).
//!
//! Must hold: a member has one grant at most, and no offer beside it; no event leaves while
//! `wall < schedule_ts`; members of a group take turns.

use std::collections::VecDeque;

use super::fetch::Near;
use crate::base::api::Delivery;
use crate::base::ids::{GroupNo, Position};
use crate::base::limits;
use crate::engine::delivery::{Candidate, DeadlineNo, Grant, Lease, MemberKey, Next};
use crate::engine::detach::detach;
use crate::engine::mesh::{MeshMessage, Offer};
use crate::engine::partition::Partition;
use crate::engine::step::Step;
use crate::engine::turn::WaitingGrant;

/// Ready events counted for an offer at most.
const OFFER_COUNT: u32 = limits::GRANT_EVENTS;
/// Due events counted at once: not again before these are handed out.
const COUNT_AT_ONCE: usize = 4 * OFFER_COUNT as usize;

/// What a grant has come to.
struct Handed {
    deliveries: Vec<Delivery>,
    /// The next event is larger than what is left of a grant that stays.
    too_large: bool,
}

impl Partition {
    /// A member's session grants credit: deliver, or answer that there is nothing, or keep it until
    /// there is something.
    pub(in crate::engine) fn grant(&mut self, step: &mut Step<'_>, key: MemberKey, grant: Grant) {
        let Some(no) = self.members.get(&key).copied() else { return };
        let members = &mut self.groups[no.0 as usize].dispatch.members;
        let member = members.get_mut(&key).expect("the maps agree");
        assert!(member.granted.is_none(), "one grant at a time");
        // Known bad: there is nothing for it, and nobody remembers it when there is.
        member.granted =
            Some(grant).filter(|grant| !grant.stays || !cfg!(bug_forget_staying_grant));
        // An offer has crossed a grant that stays: it is taken back, so that each has one answer.
        member.offered = false;
        if grant.stays {
            self.dirty.insert(no);
        } else {
            self.serve_in_turn(step, no, key);
        }
    }

    /// A member's session needs elsewhere what it has granted. A grant that stays is answered:
    /// there was nothing. Another's answer is on its way, or will be.
    pub(in crate::engine) fn call_back(&mut self, step: &mut Step<'_>, key: MemberKey) {
        let Some(no) = self.members.get(&key).copied() else { return };
        let dispatch = &self.groups[no.0 as usize].dispatch;
        if !dispatch.members[&key].granted.is_some_and(|grant| grant.stays) {
            return;
        }
        // What it may have had no turn for, or waits for a read, is offered to it.
        self.dirty.insert(no);
        self.answer_grant(step, no, key, Vec::new(), None);
    }

    /// Serves a grant, at once or when it is its turn.
    pub(in crate::engine) fn serve_in_turn(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        key: MemberKey,
    ) {
        let Some(member) = self.groups[no.0 as usize].dispatch.members.get(&key) else { return };
        let Some(grant) = member.granted else { return };
        if step.turn.takes(grant.events) {
            return self.serve_grant(step, no, key);
        }
        step.turn.wait(WaitingGrant { partition: self.id, group: no, member: key });
    }

    /// The turn has come of a grant that has waited for it; its member may have gone meanwhile.
    pub(in crate::engine) fn serve_waiting(&mut self, step: &mut Step<'_>, grant: WaitingGrant) {
        if self.members.get(&grant.member) == Some(&grant.group) {
            self.serve_grant(step, grant.group, grant.member);
        }
    }

    /// Offers what has become ready, or hands it to those who have granted credit before.
    pub(in crate::engine) fn offer_dirty(&mut self, step: &mut Step<'_>) {
        self.observe_wall(step);
        for no in std::mem::take(&mut self.dirty) {
            self.serve_staying(step, no);
            let members = &self.groups[no.0 as usize].dispatch.members;
            if members.values().all(|member| member.offered || member.granted.is_some()) {
                continue;
            }
            let Some(offer) = self.offer(step, no) else { continue };
            let partition = self.id;
            for (key, member) in &mut self.groups[no.0 as usize].dispatch.members {
                if !member.offered && member.granted.is_none() {
                    member.offered = true;
                    let subscription = key.subscription;
                    step.send(key.shard, MeshMessage::Offer { subscription, partition, offer });
                }
            }
        }
    }

    /// Hands out what is ready to members whose grants stay, in turn, until nothing is. A crowd is
    /// offered to them instead.
    fn serve_staying(&mut self, step: &mut Step<'_>, no: GroupNo) {
        let dispatch = &self.groups[no.0 as usize].dispatch;
        if dispatch.reading || dispatch.in_flight() >= limits::GROUP_UNSETTLED {
            return; // it is dirty again once that is over
        }
        while let Some(key) = self.groups[no.0 as usize].dispatch.next_staying() {
            let Some(offer) = self.offer(step, no) else { return };
            if offer.ready > limits::GRANT_SMALL {
                self.answer_grant(step, no, key, Vec::new(), Some(offer));
                continue;
            }
            if !step.turn.takes_staying() {
                self.dirty.insert(no);
                return;
            }
            self.serve_grant(step, no, key);
            if self.groups[no.0 as usize].dispatch.members[&key].granted.is_some() {
                return;
            }
        }
    }

    /// Hands out as much of a grant as is ready. A grant that must wait for a read stays open.
    fn serve_grant(&mut self, step: &mut Step<'_>, no: GroupNo, key: MemberKey) {
        let group = &self.groups[no.0 as usize];
        let Some(member) = group.dispatch.members.get(&key) else { return };
        let Some(grant) = member.granted else { return };
        self.observe_wall(step);
        let Handed { mut deliveries, too_large } = self.hand_out(step, no, key, grant);
        detach(&mut deliveries);
        step.turn.handed(deliveries.len());
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        if deliveries.is_empty() {
            if dispatch.reading {
                return; // the read's end comes back here
            }
            if grant.stays && !too_large {
                return;
            }
        } else {
            dispatch.served = Some(key);
        }
        // A group at its bound has something and can't give it: it offers again once it can.
        let has_more = !deliveries.is_empty() || too_large;
        let offer = if has_more { self.offer(step, no) } else { None };
        self.answer_grant(step, no, key, deliveries, offer);
    }

    /// Answers a grant.
    fn answer_grant(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        key: MemberKey,
        deliveries: Vec<Delivery>,
        offer: Option<Offer>,
    ) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        let member = dispatch.members.get_mut(&key).expect("who has granted is there");
        assert!(member.granted.take().is_some(), "a grant is answered once");
        member.offered = offer.is_some();
        let (subscription, partition) = (key.subscription, self.id);
        let granted = MeshMessage::Granted { subscription, partition, deliveries, offer };
        step.send(key.shard, granted);
    }

    fn hand_out(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        key: MemberKey,
        grant: Grant,
    ) -> Handed {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let (events, mut bytes_left) = (grant.events as usize, grant.bytes);
        let (mut found, mut near) = (VecDeque::new(), Near::default());
        let (mut too_large, mut deadline) = (false, None);
        while deliveries.len() < events {
            let group = &self.groups[no.0 as usize];
            if group.dispatch.in_flight() >= limits::GROUP_UNSETTLED {
                break;
            }
            let left = events - deliveries.len();
            let Some(candidate) = self.candidate(step, no, &mut found, left) else { break };
            let position = candidate.position();
            let group = &self.groups[no.0 as usize];
            let Some(event) = self.fetch(group.topic, position, &mut near) else {
                self.read_for_group(step, no, position);
                break;
            };
            assert_eq!(event.position(), position, "the log and the due axis agree");
            if event.schedule_ts > step.now.wall_ms() {
                self.not_yet(no, position, event.schedule_ts);
                continue;
            }
            let size = event.size();
            if size > bytes_left && (grant.stays || !deliveries.is_empty()) {
                too_large = true;
                break;
            }
            bytes_left = bytes_left.saturating_sub(size);
            if deliveries.is_empty() {
                // They may be many, and moving them costs.
                let fit = 1 + (bytes_left / size) as usize;
                deliveries.reserve_exact(found.len().clamp(1, fit));
            }
            let attempt = self.lease(step, no, key, candidate, &mut deadline);
            let (term, ack_timeout_ms) = (self.replica.term(), step.config.ack_timeout_ms);
            let seal = self.seal_of(no, position);
            deliveries.push(Delivery { event, group: no, term, attempt, ack_timeout_ms, seal });
        }
        if deliveries.capacity() > 2 * deliveries.len() {
            deliveries.shrink_to_fit(); // they may wait for long
        }
        Handed { deliveries, too_large }
    }

    /// Leases an event to a member. `deadline`: that of the events read before it for the same
    /// grant, which it may share.
    fn lease(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        key: MemberKey,
        candidate: Candidate,
        deadline: &mut Option<DeadlineNo>,
    ) -> u32 {
        let position = candidate.position();
        let group = &mut self.groups[no.0 as usize];
        group.dispatch.take(candidate);
        let failed = group.cursor.failures().get(&position).map_or(0, |f| f.attempts);
        let releases = group.dispatch.releases.get(&position).copied().unwrap_or(0);
        let attempt = failed + releases + 1;
        // One more than asked for: a deadline is rounded up, never down.
        let at = step.now.boot_ms() + step.config.ack_timeout_ms + 1;
        // What is handed out again comes in any order.
        let is_read = matches!(candidate, Candidate::Read(_));
        let with = deadline.filter(|_| is_read);
        let ends = self.share_deadline(no, position, at, with, Some(key));
        if is_read {
            *deadline = Some(ends);
        }
        let lease = Lease { attempt, failed, deadline: ends };
        self.groups[no.0 as usize].dispatch.busy.lend(position, lease);
        attempt
    }

    /// What a group has ready, if anything.
    fn offer(&mut self, step: &Step<'_>, no: GroupNo) -> Option<Offer> {
        let wall = step.now.wall_ms();
        let next = self.next_on_axis(wall, no);
        let dispatch = &self.groups[no.0 as usize].dispatch;
        let counted = match (next, dispatch.counted) {
            (Next::Found(_), 0) => self.count_due(wall, no, COUNT_AT_ONCE),
            (Next::Found(_), counted) => counted,
            (Next::Nothing | Next::Awaited, _) => 0,
        };
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        dispatch.counted = counted;
        let earliest = dispatch.first(next)?.position();
        let ready = (dispatch.ready.len() + counted).clamp(1, OFFER_COUNT as usize) as u32;
        Some(Offer { ready, earliest })
    }

    /// A member's session could not send these: they are free again, as if never handed out.
    pub(in crate::engine) fn give_back(
        &mut self,
        step: &mut Step<'_>,
        key: MemberKey,
        events: Vec<(Position, u32)>,
    ) {
        let Some(no) = self.members.get(&key).copied() else { return };
        for (position, attempt) in events {
            let dispatch = &mut self.groups[no.0 as usize].dispatch;
            let lease = dispatch.busy.lease(position).filter(|lease| lease.attempt == attempt);
            // Judged or run out in the meantime: then its credit has returned.
            let Some(lease) = lease.filter(|lease| dispatch.member_of(*lease) == Some(key)) else {
                continue;
            };
            dispatch.busy.remove(position);
            dispatch.release(position);
            self.end_lease(step, no, lease);
        }
        self.dirty.insert(no);
    }
}
