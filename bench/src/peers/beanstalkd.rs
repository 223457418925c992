//! beanstalkd with a binlog (`-b DIR -f 0`): it syncs whenever it has written a command, so a
//! pipeline saves round trips and no syncs. Jobs can be delayed by whole seconds; there are no
//! groups, no duplicates found, and no history.

use std::fmt::Write;

use super::wire::Wire;
use super::{Peer, id, payload};

/// Jobs reserved at once by a connection.
const MOST: usize = 1_000;

/// A connection.
pub struct Beanstalkd {
    wire: Wire,
    payload: Vec<u8>,
}

impl Peer for Beanstalkd {
    async fn connect(addr: &str, count: usize) -> Result<Vec<Self>, String> {
        let mut peers = Vec::new();
        for _ in 0..count {
            peers.push(Self { wire: Wire::connect(addr).await?, payload: payload() });
        }
        Ok(peers)
    }

    async fn publish(&mut self, first: u64, count: u16) -> Result<(), String> {
        let mut out = Vec::new();
        for number in first..first + u64::from(count) {
            let id = id(number);
            let len = id.len() + self.payload.len();
            out.extend_from_slice(format!("put 0 0 60 {len}\r\n{id}").as_bytes());
            out.extend_from_slice(&self.payload);
            out.extend_from_slice(b"\r\n");
        }
        self.wire.send(&out).await?;
        for _ in 0..count {
            let line = self.wire.line().await?;
            if !line.starts_with("INSERTED") {
                return Err(line);
            }
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<u64, String> {
        self.wire.send(&b"reserve-with-timeout 0\r\n".repeat(MOST)).await?;
        let (mut deletes, mut taken) = (String::new(), 0);
        for _ in 0..MOST {
            let line = self.wire.line().await?;
            if let Some(rest) = line.strip_prefix("RESERVED ") {
                let (id, len) = rest.split_once(' ').ok_or("no length")?;
                self.wire.body(len.parse().map_err(|_| "no length".to_owned())?).await?;
                let _ = write!(deletes, "delete {id}\r\n");
                taken += 1;
            } else if line != "TIMED_OUT" {
                return Err(line);
            }
        }
        self.wire.send(deletes.as_bytes()).await?;
        for _ in 0..taken {
            let line = self.wire.line().await?;
            if line != "DELETED" {
                return Err(line);
            }
        }
        Ok(taken)
    }
}
