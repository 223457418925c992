//! Waiting for something, by name, with an end.

use std::time::{Duration, Instant};

/// Long enough for any machine; a test that passes never waits so long.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Polls `look` until it has found something.
///
/// # Panics
/// If it finds nothing in [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        // Between two polls of the condition.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The outcome of `future`.
///
/// # Panics
/// If there is none in [`PATIENCE`].
pub async fn for_the<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_elapsed| panic!("waited in vain for the {what}"))
}
