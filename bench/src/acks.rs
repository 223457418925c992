//! Acks of deliveries, collected until they are worth a request.
//!
//! Frames that are there already share their acks. Where each frame had its own request, a
//! subscriber that was behind stayed behind for their sake: its credit came back in small pieces,
//! and what was handed out for them came in small frames.

use bytes::BytesMut;
use chronosdb::base::limits;
use chronosdb::client::{Answer, Connection, FrameStream};
use chronosdb::wire::frame::Frame;
use chronosdb::wire::kind::FrameKind;
use tokio::sync::mpsc;

use crate::received::put_ack;
use crate::recorder::Recorder;

/// Acks under way: the answer to come, and the due times (Unix ms) of what they settle.
pub type Acks = (Answer, Vec<u64>);

/// Acks of a request at most: a quarter of what the server takes, for it works on a whole one at
/// once, and other connections wait meanwhile.
const ACKS: usize = limits::ACK_BATCH / 4;

/// Receives and acknowledges until the stream ends, which is recorded. `take` looks at a frame,
/// adds the acks for it to the batch and returns those that are full.
pub async fn acknowledge(
    connection: &Connection,
    mut stream: FrameStream,
    acks: mpsc::Sender<Acks>,
    recorder: &Recorder,
    mut take: impl FnMut(&Frame, &mut AckBatch) -> Result<Vec<AckBatch>, String>,
) {
    let mut batch = AckBatch::default();
    while let Some(received) = stream.next().await {
        let (mut next, mut full) = (Some(received), Vec::new());
        while let Some(received) = next {
            let frame = received.map_err(|error| error.to_string());
            match frame.and_then(|frame| take(&frame, &mut batch)) {
                Ok(batches) => full.extend(batches),
                Err(why) => return recorder.fail(1, &why),
            }
            next = if full.is_empty() { stream.try_next() } else { None };
        }
        for batch in full.iter_mut().chain([&mut batch]) {
            if !batch.send(connection, &acks, recorder).await {
                return;
            }
        }
    }
    recorder.fail(1, &"the server ended the subscription");
}

/// Acks that are sent together.
#[derive(Default)]
pub struct AckBatch {
    body: BytesMut,
    due: Vec<u64>,
}

impl AckBatch {
    /// Adds the ack of a delivery; the batch, if it is full with it.
    pub fn put(&mut self, delivery_id: &[u8], schedule_ts: u64) -> Option<Self> {
        put_ack(&mut self.body, delivery_id);
        self.due.push(schedule_ts);
        (self.due.len() == ACKS).then(|| std::mem::take(self))
    }

    /// Sends what is in it, if anything is; whoever counts answers is told. False if that failed,
    /// which is recorded.
    async fn send(
        &mut self,
        connection: &Connection,
        acks: &mpsc::Sender<Acks>,
        recorder: &Recorder,
    ) -> bool {
        if self.due.is_empty() {
            return true;
        }
        let Self { body, due } = std::mem::take(self);
        let fill = |out: &mut BytesMut| out.extend_from_slice(&body);
        match connection.send(FrameKind::AckBatch, body.len(), fill).await {
            // Nobody counts any more once the run is over.
            Ok(answer) => acks.send((answer, due)).await.is_ok(),
            Err(error) => {
                recorder.fail(due.len() as u64, &error);
                false
            }
        }
    }
}
