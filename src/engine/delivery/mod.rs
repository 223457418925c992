//! Delivery: what each consumer group still has to get, and who holds what at the moment.
//!
//! ```text
//!  scheduled --(schedule_ts)--> due --> ready --(grant)--> leased --(ack)--> acked      } settled
//!      ^                                  ^                 |  |                        }
//!      |                                  +--(disconnect)---+  +--(attempts used)--> dead }
//!      +------------(nack, expiry: backoff)-----------------+
//! ```
//!
//! Two kinds of state, kept apart on purpose:
//! * [`Cursor`] is *applied*: it changes only when a log entry is applied, knows no clock, and is
//!   the same on every replica. It says what is settled.
//! * [`Dispatch`] is *volatile*: leases, members, what has been read so far. It belongs to the
//!   leader, is rebuilt from the cursor at every start, and losing it costs a redelivery, never an
//!   event.
//!
//! Must hold: for every event of the group's topic that passes its filter, exactly one of settled,
//! unsettled or beyond the frontier ([`Cursor`]); a leased, settling or waiting event is never in
//! `ready`; an event is leased to one member at a time.

mod busy;
mod cursor;
mod deadline;
mod dispatch;
mod group;
mod lease;
mod retry;

pub use busy::{Busy, Settling};
pub use cursor::{Cursor, Failures};
pub use deadline::DeadlineNo;
pub use dispatch::{Candidate, Dispatch, FrontierMove, Next, PASS_AT_ONCE};
pub use group::{DeadLetter, Group};
pub use lease::{Grant, Lease, Member, MemberKey};
pub use retry::backoff_ms;
