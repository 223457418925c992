//! The introducer: connects the senders of all shards, on a thread of its own, while a node starts.
//!
//! A thread of its own, because what a runtime leaves behind would interrupt the next reads of the
//! caller's. It ends when all shards have connected, or the start has failed.

use std::sync::mpsc;
use std::thread;

use glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{Resource, getrlimit};

use super::boot::{BootError, explain};
use super::mesh;

/// Entries of its rings: it does no I/O.
const RING: usize = 8;

/// What each shard sends by, and what keeps it usable for those who connect to it.
pub(super) type Introduced = (Vec<mesh::Senders>, Option<mpsc::Sender<()>>);

/// Connects the shards with each other: each must have begun to connect its receivers, and what
/// comes with the senders must be kept until all have ended that.
pub(super) fn introduce(senders: Vec<mesh::Unconnected>) -> Result<Introduced, BootError> {
    let shards = senders.len() as u16;
    if shards == 1 {
        return Ok((vec![Vec::new()], None));
    }
    let (hand, introduced) = mpsc::channel();
    let (connected, wait) = mpsc::channel();
    let run = move || {
        let builder = LocalExecutorBuilder::new(Placement::Unbound);
        match builder.ring_depth(RING).io_memory(0).make() {
            Ok(executor) => {
                let _nobody = hand.send(Ok(executor.run(mesh::introduce(senders))));
                let _over = wait.recv();
            }
            Err(error) => {
                let memlock = getrlimit(Resource::Memlock).current;
                let _nobody = hand.send(Err(explain(&error, memlock, shards)));
            }
        }
    };
    let ended = |error: String| BootError::Executor { error };
    let spawned = thread::Builder::new().name("introducer".to_owned()).spawn(run);
    spawned.map_err(|error| ended(error.to_string()))?;
    let senders = introduced.recv().map_err(|error| ended(error.to_string()))??;
    Ok((senders, Some(connected)))
}
