//! Verdicts on deliveries: gathered into batches, sent to the shard that owns the partition.
//!
//! One queue per shard. A task takes whatever is there and sends it as one frame, a few at a time:
//! while these wait for their commits the next batch grows, so the faster verdicts come, the larger
//! the batches. Acks whose answer was lost are sent again (they are idempotent); nacks are not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::error::ClientError;
use super::link::Link;
use super::subscription::Delivery;
use super::{Client, Request};
use crate::base::error::ErrorCode;
use crate::base::limits;
use crate::wire::events::{AckRequest, AckResponse};
use crate::wire::frame::Frame;
use crate::wire::kind::FrameKind;
use crate::wire::native;

/// Verdicts that wait for a batch, per shard; more make the caller wait.
const QUEUE: usize = 4 * limits::ACK_BATCH;
/// Batches in flight, per shard.
const BATCHES: usize = 4;
/// Times that a batch of acks is sent when its answer is lost.
const SENDS: u32 = 3;

impl Client {
    /// Settles a delivery: done, and never delivered again to its group once this returns.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), ClientError> {
        self.settle(delivery, acked(delivery)).await
    }

    /// Gives a delivery back as failed. It comes again after `delay`, or after the server's backoff
    /// if that is `None`. `reason` is kept with the dead letter, should it become one.
    pub async fn nack(
        &self,
        delivery: &Delivery,
        delay: Option<Duration>,
        reason: &str,
    ) -> Result<(), ClientError> {
        let cut = reason.floor_char_boundary(limits::NACK_REASON_BYTES);
        let verdict = AckRequest {
            delivery_id: delivery.delivery_id.clone(),
            error: reason[..cut].to_owned(),
            retry_delay_ms: delay.map(millis),
            ..AckRequest::default()
        };
        self.settle(delivery, verdict).await
    }

    /// Asks for more time: the delivery's lease ends `by` from now.
    pub async fn extend(&self, delivery: &Delivery, by: Duration) -> Result<(), ClientError> {
        let verdict = AckRequest {
            delivery_id: delivery.delivery_id.clone(),
            extend_ms: millis(by).max(1),
            ..AckRequest::default()
        };
        self.settle(delivery, verdict).await
    }

    async fn settle(&self, delivery: &Delivery, verdict: AckRequest) -> Result<(), ClientError> {
        let (answer, settled) = oneshot::channel();
        self.enqueue(delivery, verdict, Interested::Caller(answer)).await?;
        settled.await.unwrap_or_else(|_gone| Err(ClientError::unknown("the client was closed")))
    }

    /// Queues an ack and returns; its outcome is counted in `tally`. Waits only while the queue is
    /// full.
    pub(super) async fn ack_later(
        &self,
        delivery: &Delivery,
        tally: &Arc<AckTally>,
    ) -> Result<(), ClientError> {
        tally.begin();
        let interested = Interested::Tally(Counted(Some(Arc::clone(tally))));
        self.enqueue(delivery, acked(delivery), interested).await
    }

    async fn enqueue(
        &self,
        delivery: &Delivery,
        verdict: AckRequest,
        interested: Interested,
    ) -> Result<(), ClientError> {
        let queue = self.ack_queue(delivery);
        let queued = queue.0.send(Queued { verdict, interested }).await;
        queued.map_err(|_closed| ClientError::NotSent("the client was closed".into()))
    }

    fn ack_queue(&self, delivery: &Delivery) -> AckQueue {
        let topology = self.topology();
        let owner = topology.owner(delivery.partition());
        let addr = topology.address(owner).filter(|_| owner != topology.shard);
        let addr = addr.unwrap_or(&self.inner.addr);
        let mut queues = self.inner.acks.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(addr.clone()).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let (batch, timeout) = (topology.ack_batch, self.inner.options.request_timeout);
            tokio::spawn(run(self.link(owner), receiver, batch, timeout));
            AckQueue(sender)
        });
        queue.clone()
    }
}

fn acked(delivery: &Delivery) -> AckRequest {
    AckRequest { delivery_id: delivery.delivery_id.clone(), success: true, ..AckRequest::default() }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The way into a shard's queue; its task ends with the last of these.
#[derive(Clone, Debug)]
pub(super) struct AckQueue(mpsc::Sender<Queued>);

#[derive(Debug)]
struct Queued {
    verdict: AckRequest,
    interested: Interested,
}

/// Who wants to know.
#[derive(Debug)]
enum Interested {
    Caller(oneshot::Sender<Result<(), ClientError>>),
    Tally(Counted),
}

impl Interested {
    fn tell(self, outcome: Result<(), ClientError>) {
        match self {
            Self::Caller(caller) => drop(caller.send(outcome)),
            Self::Tally(mut counted) => counted.end(outcome),
        }
    }
}

/// What became of acks that nobody waited for one by one.
#[derive(Clone, Debug, Default)]
pub struct AckSummary {
    /// Acks confirmed.
    pub confirmed: u64,
    /// Acks refused, or whose answer was lost.
    pub failed: u64,
    /// Why the first of those failed.
    pub error: Option<ClientError>,
}

#[derive(Debug, Default)]
pub(super) struct AckTally {
    state: Mutex<(u64, AckSummary)>,
    none_open: Notify,
}

/// An ack that the tally waits for: ended once, at the latest when it is dropped unsent.
#[derive(Debug)]
struct Counted(Option<Arc<AckTally>>);

impl Counted {
    fn end(&mut self, outcome: Result<(), ClientError>) {
        if let Some(tally) = self.0.take() {
            tally.end(outcome);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(Err(ClientError::NotSent("the ack was dropped".into())));
    }
}

impl AckTally {
    fn begin(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
    }

    fn end(&self, outcome: Result<(), ClientError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, summary) = &mut *state;
        assert!(*open > 0, "an ack ends once, after it began");
        *open -= 1;
        match outcome {
            Ok(()) => summary.confirmed += 1,
            Err(error) => {
                summary.failed += 1;
                summary.error.get_or_insert(error);
            }
        }
        if *open == 0 {
            self.none_open.notify_waiters();
        }
    }

    /// Waits until no ack is open; takes the summary since the last call.
    pub(super) async fn settled(&self) -> AckSummary {
        loop {
            let notified = self.none_open.notified();
            tokio::pin!(notified);
            // Before the look at the state: an end between the two wakes this.
            notified.as_mut().enable();
            if let (0, summary) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
                return std::mem::take(summary);
            }
            notified.await;
        }
    }
}

/// The queue's task.
async fn run(link: Arc<Link>, mut queue: mpsc::Receiver<Queued>, batch: usize, timeout: Duration) {
    let room = Arc::new(Semaphore::new(BATCHES));
    let mut items = Vec::new();
    while queue.recv_many(&mut items, batch).await > 0 {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        // What came while all batches were out goes along.
        while items.len() < batch {
            let Ok(item) = queue.try_recv() else { break };
            items.push(item);
        }
        let (link, items) = (Arc::clone(&link), std::mem::take(&mut items));
        tokio::spawn(async move {
            deliver(&link, items, timeout).await;
            drop(permit);
        });
    }
}

/// Sends one batch and tells everyone what became of it.
async fn deliver(link: &Link, items: Vec<Queued>, timeout: Duration) {
    let (verdicts, interested): (Vec<_>, Vec<_>) =
        items.into_iter().map(|item| (item.verdict, item.interested)).unzip();
    let repeatable = verdicts.iter().all(|verdict| verdict.success);
    let count = verdicts.len();
    let message = native::AckBatch { acks: verdicts };
    let mut sends = 0;
    let outcome = loop {
        sends += 1;
        let bytes = message.encoded_len();
        let request = Request { link, kind: FrameKind::AckBatch, bytes, timeout };
        let answer = request.call(|out| message.encode_raw(out)).await;
        match answer.and_then(|frame| decode(frame, count)) {
            Err(ClientError::Unknown(_)) if repeatable && sends < SENDS => {}
            outcome => break outcome,
        }
    };
    match outcome {
        Ok(results) => {
            for (interested, result) in interested.into_iter().zip(results) {
                interested.tell(judge(result));
            }
        }
        Err(error) => interested.into_iter().for_each(|who| who.tell(Err(error.clone()))),
    }
}

/// One result per verdict; the form of the answer goes by their number.
fn decode(frame: Frame, count: usize) -> Result<Vec<AckResponse>, ClientError> {
    let results = match frame.kind {
        FrameKind::Acked => vec![AckResponse::decode(frame.body).map_err(ClientError::answer)?],
        FrameKind::AckedBatch => {
            native::AckedBatch::decode(frame.body).map_err(ClientError::answer)?.results
        }
        other => return Err(ClientError::answer(format_args!("{other:?} in place of Acked"))),
    };
    if results.len() == count {
        return Ok(results);
    }
    let got = results.len();
    Err(ClientError::answer(format_args!("{got} results for {count} verdicts")))
}

fn judge(result: AckResponse) -> Result<(), ClientError> {
    if result.success {
        return Ok(());
    }
    // A refusal without a code is still one.
    Err(ClientError::refused(result.code.max(ErrorCode::InvalidArgument as i32), result.error))
}
