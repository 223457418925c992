//! The way to one shard: a connection that is made when it is needed and again when it is lost.
//!
//! Many may ask at once; one of them connects, the others wait for it. Between failed attempts the
//! wait doubles, with jitter, so that clients of a restarted server do not come all at once.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::connection::{Connection, ConnectionOptions};
use super::error::ClientError;
use super::topology::Topology;

/// Wait after the first failed attempt to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest wait between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Waits that double, with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// The standard library's one is seeded at random, per process.
    jitter: RandomState,
}

impl Backoff {
    /// The wait before the next attempt: 50 to 100 % of 20 ms, 40 ms ... 2 s.
    pub(super) fn next(&mut self) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures += 1;
        let percent = 50 + self.jitter.hash_one(self.failures) % 51;
        full * percent as u32 / 100
    }

    /// The last attempt went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// What the last handshakes told, over all connections of a client.
#[derive(Debug, Default)]
pub(super) struct Known {
    topology: Mutex<Option<Arc<Topology>>>,
}

impl Known {
    /// The latest; `None` before the first handshake.
    pub(super) fn topology(&self) -> Option<Arc<Topology>> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A handshake was made. Which shard is home is told by the home link alone.
    fn learn(&self, told: &Arc<Topology>, home: bool) {
        let mut known = self.topology.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = known.as_ref().filter(|_| !home).map_or(told.shard, |known| known.shard);
        *known = Some(Arc::new(told.as_ref().clone().at(shard)));
    }
}

#[derive(Debug)]
pub(super) struct Link {
    /// Tried in this order: the shard's own address, then the one every shard is behind.
    addrs: Vec<Arc<str>>,
    /// The link to the address that the client was given.
    home: bool,
    known: Arc<Known>,
    options: ConnectionOptions,
    reconnect_within: Duration,
    current: Mutex<Option<Connection>>,
    connecting: tokio::sync::Mutex<()>,
}

impl Link {
    pub(super) fn new(
        addrs: Vec<Arc<str>>,
        home: bool,
        known: Arc<Known>,
        options: ConnectionOptions,
        reconnect_within: Duration,
    ) -> Self {
        assert!(!addrs.is_empty(), "a link leads somewhere");
        let (current, connecting) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { addrs, home, known, options, reconnect_within, current, connecting }
    }

    /// The connection if it is open.
    pub(super) fn open(&self) -> Option<Connection> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// One attempt to connect, without backoff.
    pub(super) async fn connect(&self) -> Result<Connection, ClientError> {
        let mut failed = None;
        for addr in &self.addrs {
            match Connection::connect(addr, &self.options).await {
                Ok(connection) => {
                    self.known.learn(connection.topology(), self.home);
                    let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                    *current = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| ClientError::NotSent("there is no address".into())))
    }

    /// The open connection, or a new one: tries again with backoff as long as a retry can help and
    /// `reconnect_within` has not passed.
    pub(super) async fn connection(&self) -> Result<Connection, ClientError> {
        if let Some(connection) = self.open() {
            return Ok(connection);
        }
        let deadline = Instant::now() + self.reconnect_within;
        let _turn = self.connecting.lock().await;
        let mut backoff = Backoff::default();
        loop {
            // Whoever held the turn before may have connected.
            if let Some(connection) = self.open() {
                return Ok(connection);
            }
            let error = match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let wait = backoff.next();
            if !error.is_retryable() || Instant::now() + wait > deadline {
                return Err(error);
            }
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_bounds() {
        let mut backoff = Backoff::default();
        let mut full = BACKOFF_MIN;
        for _ in 0..40 {
            let wait = backoff.next();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(BACKOFF_MAX);
        }
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }
}
