//! More and more connections that publish single events, one in flight each.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use super::{Rows, ScalingArgs, remove_data};
use crate::args::Load;
use crate::node::{NATIVE, Node};
use crate::publish::closed_loop;
use crate::recorder::Recorder;
use crate::target::{Run, publishers};

const EACH: Duration = Duration::from_secs(3);

/// Measures; the number of errors.
pub async fn measure(args: &ScalingArgs, rows: &mut Rows) -> Result<u64, String> {
    raise_descriptor_limit(u64::from(args.connections) + 64)?;
    let node = Node::start(&args.node)?;
    let mut errors = 0;
    let steps = [1, 10, 100, 1_000].into_iter().filter(|step| *step < args.connections);
    for connections in steps.chain([args.connections]) {
        let load = Load {
            addr: Some(NATIVE.to_owned()),
            connections,
            batch: Some(1),
            in_flight: 1,
            duration: EACH,
            ..Load::standard()
        };
        let run = Run::new(&load);
        let began = Instant::now();
        let to = publishers(&load).await?;
        let connected = began.elapsed();
        let recorder: Arc<Recorder> = Recorder::new();
        let began = Instant::now();
        closed_loop(&load, &run, to, load.due(), &recorder, true).await;
        let stored = recorder.stored.load(Ordering::Relaxed);
        let figures = [
            ("events_per_s", stored as f64 / began.elapsed().as_secs_f64()),
            ("p50_us", recorder.latencies.percentile(50.0) as f64),
            ("p99_us", recorder.latencies.percentile(99.0) as f64),
            ("connect_us", connected.as_micros() as f64 / f64::from(connections)),
            ("server_memory_mib", (node.memory().0 >> 20) as f64),
        ];
        rows.tell("connections", "connections", u64::from(connections), &figures);
        errors += recorder.errors.load(Ordering::Relaxed);
    }
    node.kill();
    remove_data(args)?;
    Ok(errors)
}

/// A login shell grants fewer descriptors than this takes.
fn raise_descriptor_limit(wanted: u64) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < wanted) {
        return Err(format!("{wanted} open files are not allowed here; take fewer --connections"));
    }
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|error| error.to_string())
}
