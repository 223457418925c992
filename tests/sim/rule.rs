//! The rules a run must keep, and how the breaking of one is told: the name of the rule stands in
//! the failure, so that a known-bad build can be checked to fail for the right reason.

use std::fmt;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An acknowledged event (a duplicate's answer acknowledges too) is there ever after.
    AckedNeverLost,
    /// What comes out is what went in, byte by byte, with its own topic, meta and checksum.
    PayloadEqual,
    /// Nothing comes out that was refused or never sent.
    NoPhantom,
    /// One offset never names two events.
    OneOffsetOneId,
    /// Offsets have no hole.
    OffsetsDense,
    /// A duplicate answers with the original and adds nothing.
    DuplicateIsOriginal,
    /// `schedule_ts` is what was asked for.
    ScheduleKept,
    /// The wall has reached `schedule_ts` at every hand-over.
    NeverEarly,
    /// After heal everything due is acknowledged or a dead letter.
    EverythingSettles,
    /// settled + unsettled + beyond the frontier = all applied events of the group's topic.
    AuditSum,
    /// A confirmed ack is never followed by another delivery.
    ConfirmedAckFinal,
    /// Attempts run from 1 to `max_retries + 1`.
    AttemptsBounded,
    /// Only a nack or an expired lease makes the next attempt.
    AttemptCounted,
    /// A stream never has more in flight than its credit.
    CreditKept,
    /// Each event is with one member at a time.
    OneMember,
    /// First deliveries come in (due, offset) order.
    DueOrder,
    /// Deliveries belong to their stream: group, topic, partitions, start, sizes.
    StreamKept,
    /// A replay has exactly the committed due events of its range, in order.
    ReplayExact,
    /// A topic is kept as was answered once, in every partition.
    SettingKept,
    /// Every request gets one final reply, nothing follows it, and none is forgotten.
    OneReply,
    /// A refusal has a reason that the request or the weather explains.
    RefusalExplained,
    /// Nothing is stored of what is published while the disk has no more than its reserve.
    ReserveKept,
    /// Terms only grow.
    TermGrows,
    /// Damage of what was durable is reported and never silent; nothing else is called damage.
    RotReported,
    /// A committed entry is never cut.
    CommittedKept,
    /// A copy that ends where a cut says is a sound log with everything committed.
    CutSound,
    /// After heal the node answers, recovers and delivers within bounded time.
    Liveness,
    /// The driver's contract of writes, fills and files.
    DiskContract,
    /// Same seed, same run.
    Repeatable,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Ends the run: the rule is broken.
///
/// # Panics
/// Always.
pub fn broken(rule: Rule, what: impl fmt::Display) -> ! {
    panic!("{}", broken_text(rule, what))
}

/// How a broken rule is told, everywhere.
pub fn broken_text(rule: Rule, what: impl fmt::Display) -> String {
    format!("oracle: {rule} is broken: {what}")
}

/// Ends the run unless the rule holds.
#[macro_export]
macro_rules! hold {
    ($rule:ident, $condition:expr, $($what:tt)+) => {
        if !$condition {
            $crate::rule::broken($crate::rule::Rule::$rule, format_args!($($what)+));
        }
    };
}
