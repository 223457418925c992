//! What is handed on to sockets lies in its entry, which it keeps in memory until it is encoded. A
//! few events of each of many large entries would keep all of them: such events get memory of
//! their own.
//!
//! Must hold: a batch keeps [`limits::BATCH_ALIVE_BYTES`] alive at most, or
//! [`limits::BATCH_ALIVE_TIMES`] times what is its own.

use bytes::{Bytes, BytesMut};

use crate::base::api::{Delivery, StoredEvent};
use crate::base::limits;

/// Gives memory of their own to events of entries that are hardly used, if the batch keeps more
/// alive than it may. Usually it does not: events that lie side by side are due side by side.
pub fn detach<T: AsRef<StoredEvent> + AsMut<StoredEvent>>(batch: &mut [T]) {
    let runs = batch.chunk_by(is_of_one_entry);
    let (mut alive, mut own) = (0, 0);
    for run in runs {
        alive += run[0].as_ref().body.len();
        own += own_bytes(run);
    }
    // Known bad: what waits for a slow consumer keeps whatever it lies in.
    let is_fine = alive <= limits::BATCH_ALIVE_BYTES.max(limits::BATCH_ALIVE_TIMES * own);
    if is_fine || cfg!(bug_keep_entries_alive) {
        return;
    }
    for run in batch.chunk_by_mut(is_of_one_entry) {
        let own = own_bytes(run);
        if run[0].as_ref().body.len() > limits::BATCH_ALIVE_TIMES * own {
            copy_out(run, own);
        }
    }
}

fn is_of_one_entry<T: AsRef<StoredEvent>>(event: &T, next: &T) -> bool {
    event.as_ref().body.as_ptr() == next.as_ref().body.as_ptr()
}

fn own_bytes<T: AsRef<StoredEvent>>(run: &[T]) -> usize {
    run.iter().flat_map(|event| event.as_ref().spans()).map(|span| span.len as usize).sum()
}

/// Moves the bytes of a run into a body that has nothing else.
fn copy_out<T: AsMut<StoredEvent>>(run: &mut [T], own: usize) {
    let mut bytes = BytesMut::with_capacity(own);
    for event in &mut *run {
        let StoredEvent { body, message_id, meta, payload, .. } = event.as_mut();
        for span in [message_id, meta, payload] {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(span.of(body));
            span.start = start;
        }
    }
    let body: Bytes = bytes.freeze();
    for event in run {
        event.as_mut().body = body.clone();
    }
}

impl AsRef<StoredEvent> for Delivery {
    fn as_ref(&self) -> &StoredEvent {
        &self.event
    }
}

impl AsMut<StoredEvent> for Delivery {
    fn as_mut(&mut self) -> &mut StoredEvent {
        &mut self.event
    }
}

impl AsRef<Self> for StoredEvent {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsMut<Self> for StoredEvent {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::api::Span;
    use crate::base::ids::{Offset, PartitionId, Term};

    /// An event of so many bytes of an entry.
    fn event(entry: &Bytes, payload: u32) -> StoredEvent {
        let at = |start, len| Span { start, len };
        StoredEvent {
            body: entry.clone(),
            message_id: at(1, 2),
            meta: at(3, 0),
            payload: at(4, payload),
            topic: Arc::from("t"),
            schedule_ts: 1,
            append_ts: 1,
            partition: PartitionId(0),
            offset: Offset(0),
            term: Term(1),
            checksum: 0,
        }
    }

    fn entry(len: usize) -> Bytes {
        (0..len).map(|n| n as u8).collect()
    }

    fn is_in(event: &StoredEvent, entry: &Bytes) -> bool {
        event.body.as_ptr() == entry.as_ptr()
    }

    fn fields(event: &StoredEvent) -> [Vec<u8>; 3] {
        [event.message_id, event.meta, event.payload].map(|span| span.of(&event.body).to_vec())
    }

    #[test]
    fn what_little_keeps_alive_is_let_be_up_to_the_limit() {
        let whole = entry(limits::BATCH_ALIVE_BYTES);
        let mut batch = [event(&whole, 10)];
        detach(&mut batch);
        assert!(is_in(&batch[0], &whole));
        let larger = entry(limits::BATCH_ALIVE_BYTES + 1);
        let mut batch = [event(&larger, 10)];
        detach(&mut batch);
        assert!(!is_in(&batch[0], &larger), "one byte more");
        assert_eq!(batch[0].body.len(), 12);
        assert_eq!(fields(&batch[0]), fields(&event(&larger, 10)));
    }

    #[test]
    fn who_has_a_part_of_what_it_keeps_is_let_be() {
        let large = entry(limits::BATCH_ALIVE_TIMES * limits::BATCH_ALIVE_BYTES);
        let part = limits::BATCH_ALIVE_BYTES as u32;
        let mut batch = [event(&large, part - 2)];
        detach(&mut batch);
        assert!(is_in(&batch[0], &large));
        let mut batch = [event(&large, part - 3)];
        detach(&mut batch);
        assert!(!is_in(&batch[0], &large), "one byte less");
    }

    #[test]
    fn only_those_of_entries_that_are_hardly_used_are_copied_together() {
        let (used, hardly) = (entry(1_000), entry(2 * limits::BATCH_ALIVE_BYTES));
        let new = || [event(&used, 900), event(&hardly, 100), event(&hardly, 50)];
        let mut batch = new();
        detach(&mut batch);
        assert!(is_in(&batch[0], &used));
        assert_eq!(batch[1].body.as_ptr(), batch[2].body.as_ptr(), "one piece of memory for both");
        assert_eq!(batch[1].body.len(), 2 + 100 + 2 + 50);
        for (event, before) in batch.iter().zip(&new()) {
            assert_eq!(fields(event), fields(before));
        }
        detach::<StoredEvent>(&mut []);
    }
}
