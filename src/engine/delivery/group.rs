//! A consumer group in one partition: who it is, what it has settled, what it is doing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cursor::Cursor;
use super::dispatch::Dispatch;
use crate::base::ids::{GroupNo, NameHash, Offset, Position, TopicNo};

/// A group of one topic in one partition. `H` is the handle of a timer.
#[derive(Debug)]
pub struct Group<H> {
    /// Its number in the partition.
    pub no: GroupNo,
    /// Its name.
    pub name: Arc<str>,
    /// What delivery ids have of its name.
    pub name_hash: NameHash,
    /// The topic it consumes.
    pub topic: TopicNo,
    /// Start filter: events before this offset are not the group's.
    pub min_offset: Offset,
    /// Start filter: events due before this (Unix ms) are not the group's.
    pub min_due: u64,
    /// Applied state.
    pub cursor: Cursor,
    /// Volatile state of the leader.
    pub dispatch: Dispatch<H>,
    /// Events that ended as dead letters.
    pub dead: BTreeMap<Position, DeadLetter>,
}

/// An event that used up its attempts: settled for the group, kept for a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What ended the last attempt, as the log numbers it.
    pub reason: u8,
    /// Attempts that were made.
    pub attempts: u32,
    /// The member's words.
    pub text: Arc<str>,
}

impl<H: Copy> Group<H> {
    /// A group that has settled nothing.
    pub fn new(
        no: GroupNo,
        name: Arc<str>,
        topic: TopicNo,
        min_offset: Offset,
        min_due: u64,
    ) -> Self {
        let (cursor, dispatch, dead) = (Cursor::default(), Dispatch::default(), BTreeMap::new());
        let name_hash = NameHash::of(&*name);
        Self { no, name, name_hash, topic, min_offset, min_due, cursor, dispatch, dead }
    }

    /// Whether an event of the topic is the group's at all.
    pub fn admits(&self, position: Position) -> bool {
        position.offset >= self.min_offset && position.due >= self.min_due
    }

    /// The event is the group's and not done.
    pub fn wants(&self, position: Position) -> bool {
        self.admits(position) && !self.cursor.is_settled(position)
    }

    /// Whether the reading of the due axis is to hand the event out.
    pub fn is_free(&self, position: Position) -> bool {
        let dispatch = &self.dispatch;
        !dispatch.ahead.contains(&position) && self.wants(position) && !dispatch.is_busy(position)
    }

    /// Whether anything is known of an event here: it has been read, handed out or judged.
    pub fn knows(&self, position: Position) -> bool {
        self.dispatch.knows(position) || self.cursor.settled().get(position).is_some()
    }

    /// Forgets leases, members and reading position; what is unsettled becomes ready again, and
    /// failed events wait in `dispatch.held` until [`Dispatch::release`].
    pub fn restart(&mut self) {
        self.dispatch = Dispatch::starting_at(self.cursor.frontier());
        for position in self.cursor.failures().keys() {
            self.dispatch.held.insert(*position);
            self.dispatch.opened(*position);
        }
        for position in self.cursor.unsettled() {
            if !self.dispatch.held.contains(position) {
                self.dispatch.ready.insert(*position);
                self.dispatch.opened(*position);
            }
        }
    }
}
