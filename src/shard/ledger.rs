//! What one connection has asked for and not been answered: bounded in requests, bytes and streams.

use ahash::AHashMap;

use crate::base::api::{Reply, Request};
use crate::base::limits;

/// An open request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Bytes it holds on to.
    bytes: usize,
    /// It opens a stream, which is open until its `StreamEnd`.
    pub(super) stream: bool,
}

/// The open requests of a connection, by correlation id.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: AHashMap<u64, Open>,
    requests: usize,
    request_bytes: usize,
    streams: usize,
}

impl Ledger {
    /// Whether another request may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.requests < limits::SESSION_IN_FLIGHT
            && self.request_bytes < limits::CONNECTION_IN_BYTES
    }

    /// Whether another stream may be opened.
    pub(super) fn has_stream_room(&self) -> bool {
        self.streams < limits::SESSION_STREAMS
    }

    /// Whether a request with this correlation id is open.
    pub(super) fn contains(&self, correlation: u64) -> bool {
        self.open.contains_key(&correlation)
    }

    /// Correlation ids of the open streams.
    pub(super) fn streams(&self) -> Vec<u64> {
        self.open
            .iter()
            .filter(|(_, open)| open.stream)
            .map(|(correlation, _)| *correlation)
            .collect()
    }

    /// Takes a request that holds on to so many bytes.
    pub(super) fn begin(&mut self, correlation: u64, request: &Request, bytes: usize) {
        if matches!(request, Request::CloseStream { .. }) {
            // Has no answer of its own; bounded by the inbox.
            return;
        }
        let stream = opens_stream(request);
        if stream {
            self.streams += 1;
        } else {
            self.requests += 1;
            self.request_bytes += bytes;
        }
        let before = self.open.insert(correlation, Open { bytes, stream });
        assert!(before.is_none(), "a correlation id is in use once");
    }

    /// Accounts for an answer and gives back what it answers; `None` if nobody waits for it.
    pub(super) fn answered(&mut self, correlation: u64, reply: &Reply) -> Option<Open> {
        if matches!(reply, Reply::Subscribed) {
            return self.open.get(&correlation).copied();
        }
        let Some(open) = self.open.remove(&correlation) else {
            // The one request that is not kept: closing a stream that is not open.
            let failed = matches!(reply, Reply::Failed(_));
            return failed.then_some(Open { bytes: 0, stream: false });
        };
        if open.stream {
            self.streams -= 1;
        } else {
            self.requests -= 1;
            self.request_bytes -= open.bytes;
        }
        Some(open)
    }
}

/// Whether the request opens a stream.
pub(super) fn opens_stream(request: &Request) -> bool {
    matches!(request, Request::Subscribe(_) | Request::Replay(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::api::{PartitionSet, ReplayRange, ReplaySpec};
    use crate::base::error::ApiError;
    use crate::base::ids::Offset;

    fn replay() -> Request {
        Request::Replay(ReplaySpec {
            topic: "t".into(),
            partitions: PartitionSet::All,
            range: ReplayRange::Offsets { start: Offset(0), count: 1 },
            speed: 0.0,
        })
    }

    #[test]
    fn requests_are_bounded_in_number_and_bytes() {
        let mut ledger = Ledger::default();
        for correlation in 0..limits::SESSION_IN_FLIGHT as u64 {
            assert!(ledger.has_room());
            ledger.begin(correlation, &Request::Partitions(None), 1);
        }
        assert!(!ledger.has_room());
        assert!(ledger.answered(0, &Reply::Partitions(vec![])).is_some());
        assert!(ledger.has_room());
        ledger.begin(5_000, &Request::Partitions(None), limits::CONNECTION_IN_BYTES);
        assert!(ledger.answered(1, &Reply::Partitions(vec![])).is_some());
        assert!(!ledger.has_room(), "one large message fills it");
        assert!(ledger.answered(1, &Reply::Partitions(vec![])).is_none(), "answered once");
    }

    #[test]
    fn a_stream_is_open_until_its_end() {
        let mut ledger = Ledger::default();
        for correlation in 1..=limits::SESSION_STREAMS as u64 {
            assert!(ledger.has_stream_room());
            ledger.begin(correlation, &replay(), 0);
        }
        assert!(!ledger.has_stream_room() && ledger.has_room());
        assert!(ledger.answered(1, &Reply::Subscribed).expect("open").stream);
        assert_eq!(ledger.streams().len(), limits::SESSION_STREAMS);
        assert!(ledger.contains(1) && !ledger.has_stream_room());
        assert!(ledger.answered(1, &Reply::StreamEnd(Ok(()))).expect("open").stream);
        assert!(!ledger.contains(1) && ledger.has_stream_room());
    }

    #[test]
    fn closing_what_is_not_open_may_fail() {
        let mut ledger = Ledger::default();
        ledger.begin(3, &Request::CloseStream { correlation: 9 }, 0);
        assert!(!ledger.contains(3));
        let failed = Reply::Failed(ApiError::invalid("no"));
        assert!(!ledger.answered(3, &failed).expect("passed on").stream);
    }
}
