//! Readers: replays by offset and by time, and questions about partitions. What comes back is the
//! oracle's to judge; after the chaos each topic is read once from end to end.

use std::sync::Arc;

use chronosdb::base::api::{PartitionSet, ReplayRange, ReplaySpec, Reply, Request};
use chronosdb::base::ids::{Offset, PartitionId};

use super::client::{Context, Session};

pub struct Reader {
    topics: Vec<Arc<str>>,
    partitions: u16,
    session: Option<Session>,
    /// Correlation id of the stream or question that is open.
    waiting: Option<u64>,
    /// Whole topics and statuses still to be read at the end.
    whole: Vec<Request>,
    /// What it was reading before does not matter any more; it may be paced to last for years.
    turned: bool,
    current: Option<Request>,
}

impl Reader {
    pub fn new(topics: &[Arc<str>], partitions: u16) -> Self {
        Self {
            topics: topics.to_vec(),
            partitions,
            session: None,
            waiting: None,
            whole: Vec::new(),
            turned: false,
            current: None,
        }
    }

    /// Reads everything there is, from now on.
    pub fn read_all(&mut self) {
        self.turned = true;
        self.whole = vec![Request::Partitions(None)];
        self.whole.extend(self.topics.iter().map(|topic| {
            Request::Replay(ReplaySpec {
                topic: topic.clone(),
                partitions: PartitionSet::All,
                range: ReplayRange::Offsets { start: Offset(0), count: 1 << 40 },
                speed: 0.0,
            })
        }));
    }

    pub fn is_done(&self) -> bool {
        self.whole.is_empty() && self.current.is_none() && self.waiting.is_none()
    }

    pub fn wake(&mut self, cx: &mut Context<'_>) {
        if !cx.up || (cx.healing && self.is_done()) {
            return;
        }
        let session = *self.session.get_or_insert_with(|| cx.connect());
        if std::mem::take(&mut self.turned)
            && let Some(correlation) = self.waiting.take()
        {
            cx.ask(session, Request::CloseStream { correlation });
        }
        if self.waiting.is_some() {
            if !cx.healing && cx.rng.percent(10) {
                let correlation = self.waiting.take().expect("tested above");
                cx.ask(session, Request::CloseStream { correlation });
            }
        } else if cx.healing {
            if self.current.is_none() {
                self.current = self.whole.pop();
            }
            if let Some(request) = self.current.clone().and_then(|request| sound(request, cx)) {
                self.waiting = Some(cx.ask(session, request));
            } else {
                self.current = None;
                cx.wake_in(1, 1);
            }
        } else if cx.rng.percent(5) {
            cx.close(session);
            self.disconnected();
        } else {
            let request = self.invent(cx);
            self.waiting = Some(cx.ask(session, request));
        }
        if !cx.healing {
            cx.wake_in(10_000, 400_000);
        }
    }

    pub fn reply(&mut self, correlation: u64, reply: &Reply, cx: &mut Context<'_>) {
        if self.waiting != Some(correlation) || matches!(reply, Reply::Subscribed) {
            return;
        }
        self.waiting = None;
        if matches!(reply, Reply::StreamEnd(Ok(())) | Reply::Partitions(_)) {
            self.current = None;
        }
        if cx.healing {
            cx.wake_in(1_000, 20_000);
        }
    }

    pub fn disconnected(&mut self) {
        self.session = None;
        self.waiting = None;
    }

    fn invent(&self, cx: &mut Context<'_>) -> Request {
        let rng = &mut *cx.rng;
        let one = rng.below(u64::from(self.partitions)) as u16;
        if rng.percent(20) {
            return Request::Partitions(rng.percent(50).then_some(PartitionId(one)));
        }
        let partitions = if rng.percent(50) {
            PartitionSet::All
        } else {
            PartitionSet::These(vec![PartitionId(one)])
        };
        let start = cx.wall_ms - rng.scale(1, 20_000);
        let range = match rng.below(4) {
            0 => ReplayRange::Time { start: 1, end: None },
            1 => ReplayRange::Time { start, end: Some(start + rng.scale(1, 20_000)) },
            2 => ReplayRange::Offsets { start: Offset(0), count: 1 << 40 },
            _ => ReplayRange::Offsets { start: Offset(rng.below(50)), count: rng.between(1, 60) },
        };
        let speed = *rng.pick(&[0.0, 0.0, 0.0, 1_000.0]);
        Request::Replay(ReplaySpec {
            topic: rng.pick(&self.topics).clone(),
            partitions,
            range,
            speed,
        })
    }
}

/// The request, less the partitions that are damaged; `None` if no other is left.
fn sound(request: Request, cx: &Context<'_>) -> Option<Request> {
    let all = &cx.oracle.records.partitions;
    match request {
        Request::Replay(spec) if all.iter().any(|p| p.rotten) => {
            let sound = (0..all.len() as u16).filter(|p| !all[*p as usize].rotten);
            let sound: Vec<PartitionId> = sound.map(PartitionId).collect();
            let partitions = PartitionSet::These(sound.clone());
            (!sound.is_empty()).then_some(Request::Replay(ReplaySpec { partitions, ..spec }))
        }
        other => Some(other),
    }
}
