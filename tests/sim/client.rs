//! What producers, members and readers share: a session on a shard, and the way they act on the
//! world. A client never touches the engine; it leaves commands that the world carries out.

use chronosdb::base::api::Request;
use chronosdb::base::ids::{Caller, SessionId, ShardId};

use super::oracle::Oracle;
use super::rng::Rng;

/// A connection to one shard of the present process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub shard: ShardId,
    pub id: SessionId,
}

/// What a client wants done.
#[derive(Debug)]
pub enum Command {
    /// A connection is made.
    Open { session: Session },
    /// Send a request.
    Ask { session: Session, correlation: u64, request: Box<Request> },
    /// Break the connection.
    Close { session: Session },
    /// Call the client again at this world time.
    Wake { at_us: u64 },
}

/// What a client sees of the world.
pub struct Context<'a> {
    pub time_us: u64,
    pub wall_ms: u64,
    /// The node is up and takes connections.
    pub up: bool,
    /// The chaos is over: behave.
    pub healing: bool,
    pub shards: u16,
    pub rng: &'a mut Rng,
    pub oracle: &'a mut Oracle,
    /// Numbers for sessions and requests, never used twice.
    pub serial: &'a mut u64,
    /// Open sessions of all clients.
    pub sessions: &'a mut Vec<Session>,
    pub commands: &'a mut Vec<Command>,
}

impl Context<'_> {
    pub fn connect(&mut self) -> Session {
        assert!(self.up, "there is nobody to connect to");
        let shard = ShardId(self.rng.below(u64::from(self.shards)) as u16);
        let session = Session { shard, id: SessionId(self.number()) };
        self.sessions.push(session);
        self.commands.push(Command::Open { session });
        session
    }

    pub fn close(&mut self, session: Session) {
        self.sessions.retain(|other| *other != session);
        self.commands.push(Command::Close { session });
    }

    /// Sends a request; the answer comes under the correlation id that is returned.
    pub fn ask(&mut self, session: Session, request: Request) -> u64 {
        let correlation = self.number();
        self.commands.push(Command::Ask { session, correlation, request: Box::new(request) });
        correlation
    }

    pub fn wake_in(&mut self, low_us: u64, high_us: u64) {
        let at_us = self.time_us + self.rng.between(low_us, high_us);
        self.commands.push(Command::Wake { at_us });
    }

    pub fn wake_at(&mut self, at_us: u64) {
        self.commands.push(Command::Wake { at_us });
    }

    fn number(&mut self) -> u64 {
        *self.serial += 1;
        *self.serial
    }
}

impl Session {
    pub fn caller(self, correlation: u64) -> Caller {
        Caller { session: self.id, correlation }
    }
}
