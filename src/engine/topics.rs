//! The topics of one partition: names to numbers, each with its due axis and its groups.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ahash::RandomState;

use super::horizon::OnDisk;
use super::runs::MemoryIndex;
use crate::base::ids::{GroupNo, TopicNo};
use crate::base::topic_retention::TopicRetention;

/// A topic in one partition.
#[derive(Debug)]
pub struct Topic {
    /// Its name, shared with every event handed out.
    pub name: Arc<str>,
    /// Its applied events in due order, but for those that are in runs only.
    pub axis: MemoryIndex,
    /// What is in runs only.
    pub disk: OnDisk,
    /// Groups that consume it here.
    pub groups: Vec<GroupNo>,
}

/// All topics of one partition; numbers are dense from 0 in log order.
#[derive(Debug)]
pub struct Topics {
    list: Vec<Topic>,
    numbers: HashMap<Arc<str>, TopicNo, RandomState>,
    /// Of the few that do not leave it to the node.
    retention: BTreeMap<TopicNo, TopicRetention>,
}

impl Default for Topics {
    fn default() -> Self {
        let numbers = HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        Self { list: Vec::new(), numbers, retention: BTreeMap::new() }
    }
}

impl Topics {
    /// The topic's number.
    pub fn number(&self, name: &str) -> Option<TopicNo> {
        self.numbers.get(name).copied()
    }

    /// An applied entry defines a topic.
    ///
    /// # Panics
    /// If the number is not the next one, or the name is taken.
    pub fn define(&mut self, no: TopicNo, name: &str) {
        assert_eq!(no.0 as usize, self.list.len(), "topic numbers are dense, in log order");
        let name: Arc<str> = Arc::from(name);
        let before = self.numbers.insert(name.clone(), no);
        assert!(before.is_none(), "a topic is defined once");
        let (axis, disk) = (MemoryIndex::default(), OnDisk::default());
        self.list.push(Topic { name, axis, disk, groups: Vec::new() });
    }

    /// The topic with this number, which an applied entry has defined.
    pub fn get(&self, no: TopicNo) -> &Topic {
        &self.list[no.0 as usize]
    }

    /// As [`Self::get`].
    pub fn get_mut(&mut self, no: TopicNo) -> &mut Topic {
        &mut self.list[no.0 as usize]
    }

    /// How long the topic's events are kept; one that is not defined yet leaves it to the node.
    pub fn retention(&self, no: TopicNo) -> TopicRetention {
        self.retention.get(&no).copied().unwrap_or_default()
    }

    /// An applied entry says how long a topic's events are kept.
    ///
    /// # Panics
    /// If the topic is not defined.
    pub fn retain(&mut self, no: TopicNo, retention: TopicRetention) {
        assert!((no.0 as usize) < self.list.len(), "a setting is one of a topic");
        match retention {
            TopicRetention::Node => self.retention.remove(&no),
            retention => self.retention.insert(no, retention),
        };
    }

    /// The topics that do not leave it to the node, with how long they are kept.
    pub fn retained(&self) -> impl Iterator<Item = (TopicNo, TopicRetention)> {
        self.retention.iter().map(|(no, retention)| (*no, *retention))
    }

    /// How many there are: the next number.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Per topic, by how much its events were late at most, ms, where they were.
    pub fn passed(&self) -> Vec<(TopicNo, u64)> {
        let passed = self.iter().map(|(no, topic)| (no, topic.axis.max_passed_ms()));
        passed.filter(|(_, ms)| *ms > 0).collect()
    }

    /// Events of any topic may be late by this much, ms.
    pub fn passed_up_to(&mut self, ms: u64) {
        self.list.iter_mut().for_each(|topic| topic.axis.passed_up_to(ms));
    }

    /// All of them, in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (TopicNo, &Topic)> {
        self.list.iter().enumerate().map(|(no, topic)| (TopicNo(no as u32), topic))
    }
}
