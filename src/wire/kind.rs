//! What a frame is: the byte `kind` and which kinds a server takes.

use crate::base::limits;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Kind of a native frame; `proto/native.proto` gives the body of each. Numbers are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameKind {
            $($(#[$doc])* $name = $number,)*
        }

        impl FrameKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The kind with this number, if there is one.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Opens the connection.
    Hello = 1,
    /// Answers `Hello`.
    HelloAck = 2,
    /// Asks for a sign of life.
    Ping = 3,
    /// Answers `Ping`.
    Pong = 4,
    /// Answers a request that failed as a whole; with correlation id 0, ends the connection.
    Error = 5,
    /// One event.
    Publish = 16,
    /// Answers `Publish`.
    Published = 17,
    /// Several events.
    PublishBatch = 18,
    /// Answers `PublishBatch`.
    PublishedBatch = 19,
    /// Opens a stream of deliveries.
    Subscribe = 32,
    /// The subscription is open on all its partitions.
    Subscribed = 33,
    /// Deliveries of a stream.
    Deliveries = 34,
    /// The last frame of a stream.
    StreamEnd = 35,
    /// Asks for the end of a stream.
    CloseStream = 36,
    /// One verdict.
    Ack = 48,
    /// Answers a request of one verdict.
    Acked = 49,
    /// Several verdicts.
    AckBatch = 50,
    /// Answers a request of none or several verdicts.
    AckedBatch = 51,
    /// Opens a stream of history.
    Replay = 64,
    /// Events of a replay.
    ReplayEvents = 65,
    /// Asks for the state of partitions.
    Partitions = 80,
    /// Answers `Partitions`.
    PartitionList = 81,
}

impl FrameKind {
    /// Whether a client sends it. All other kinds are the server's.
    #[must_use]
    pub fn is_request(self) -> bool {
        matches!(
            self,
            Self::Hello
                | Self::Ping
                | Self::Publish
                | Self::PublishBatch
                | Self::Subscribe
                | Self::CloseStream
                | Self::Ack
                | Self::AckBatch
                | Self::Replay
                | Self::Partitions
        )
    }

    /// Longest body of a frame of this kind, bytes.
    #[must_use]
    pub fn max_body(self) -> usize {
        match self {
            Self::Publish | Self::PublishBatch | Self::Ack | Self::AckBatch => {
                limits::MESSAGE_BYTES
            }
            kind if kind.is_request() => limits::SMALL_REQUEST_BYTES,
            _ => limits::MESSAGE_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::native;

    #[test]
    fn numbers_are_those_of_the_schema() {
        for number in 0..=u8::MAX {
            let schema = native::FrameKind::try_from(i32::from(number)).ok();
            let schema = schema.filter(|kind| *kind != native::FrameKind::Unspecified);
            let ours = FrameKind::from_number(number);
            let name = |kind: &dyn std::fmt::Debug| format!("{kind:?}");
            assert_eq!(ours.map(|kind| name(&kind)), schema.map(|kind| name(&kind)));
            assert!(ours.is_none_or(|kind| kind as u8 == number));
        }
    }

    #[test]
    fn requests_without_events_are_small() {
        for kind in FrameKind::ALL.iter().filter(|kind| kind.is_request()) {
            let large = matches!(
                kind,
                FrameKind::Publish | FrameKind::PublishBatch | FrameKind::Ack | FrameKind::AckBatch
            );
            assert_eq!(kind.max_body() == limits::MESSAGE_BYTES, large, "{kind:?}");
        }
    }
}
