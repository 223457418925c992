//! How long the events of one topic are kept, where it is not as the node says.

use std::fmt;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicRetention {
    /// As the node's flags say.
    #[default]
    Node,
    /// This long beyond max(append, due), ms; not 0, nor [`u64::MAX`].
    For(u64),
    /// For ever.
    Forever,
}

impl TopicRetention {
    /// The setting that a logged number stands for.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Node,
            u64::MAX => Self::Forever,
            ms => Self::For(ms),
        }
    }

    /// The number to be logged: ms, 0 for [`Self::Node`], [`u64::MAX`] for [`Self::Forever`].
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Node => 0,
            Self::For(ms) => ms,
            Self::Forever => u64::MAX,
        }
    }

    /// What is due before this is past its time (Unix ms), at a moment; `None`: the node says.
    #[must_use]
    pub fn passed_ms(self, now_ms: u64) -> Option<u64> {
        match self {
            Self::Node => None,
            Self::For(ms) => Some(now_ms.saturating_sub(ms)),
            Self::Forever => Some(0),
        }
    }

    /// Whether a node that keeps things this long (ms; 0: for ever), or lets them go by size, may
    /// let go of something that the topic still wants.
    #[must_use]
    pub fn outlives(self, node_ms: u64, by_size: bool) -> bool {
        match self {
            Self::Node => false,
            Self::For(ms) => by_size || (node_ms > 0 && ms > node_ms),
            Self::Forever => by_size || node_ms > 0,
        }
    }
}

/// `default`, `forever`, or milliseconds as in `1500ms`.
impl fmt::Display for TopicRetention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("default"),
            Self::For(ms) => write!(f, "{ms}ms"),
            Self::Forever => f.write_str("forever"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_setting() {
        for number in [0, 1, 90_000, u64::MAX - 1, u64::MAX] {
            assert_eq!(TopicRetention::from_number(number).number(), number);
        }
        let texts = [0, 1_500, u64::MAX].map(|n| TopicRetention::from_number(n).to_string());
        assert_eq!(texts, ["default", "1500ms", "forever"]);
    }

    #[test]
    fn what_is_past_is_told_by_the_topic_alone() {
        assert_eq!(TopicRetention::Node.passed_ms(1_000), None);
        assert_eq!(TopicRetention::For(300).passed_ms(1_000), Some(700));
        assert_eq!(TopicRetention::For(3_000).passed_ms(1_000), Some(0));
        assert_eq!(TopicRetention::Forever.passed_ms(1_000), Some(0));
    }

    #[test]
    fn a_topic_outlives_a_node_that_keeps_less() {
        let (hour, day) = (TopicRetention::For(3_600_000), TopicRetention::For(86_400_000));
        assert!(!hour.outlives(86_400_000, false) && day.outlives(3_600_000, false));
        assert!(!day.outlives(86_400_000, false) && !day.outlives(0, false));
        assert!(hour.outlives(86_400_000, true) && TopicRetention::Forever.outlives(1, false));
        assert!(
            !TopicRetention::Forever.outlives(0, false) && !TopicRetention::Node.outlives(1, true)
        );
    }
}
