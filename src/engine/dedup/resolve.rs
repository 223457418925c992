//! Who has an id, when several publishes claim it.
//!
//! Claims to one id lie in the window in memory and in several runs: a newer one does not reach
//! into older runs to remove what it replaces. They are sorted out when the id is asked for.

use super::row::Claim;
use super::window::Original;

/// The event that answers a publish of an id now, from all claims found to it, in any order.
///
/// It is the newest strong one if that is alive; else the oldest living weak one that is newer.
/// What is older than a strong claim was dead when the strong one was made, and dead ids stay dead.
///
/// `alive` says whether an event keeps its id alive at the log time of the new publish; it is asked
/// about as few as possible.
pub fn resolve(claims: &[Claim], mut alive: impl FnMut(&Original) -> bool) -> Option<Original> {
    let offset = |claim: &&Claim| claim.original.offset;
    let strong = claims.iter().filter(|claim| !claim.weak).max_by_key(offset);
    if let Some(strong) = strong.filter(|strong| alive(&strong.original)) {
        return Some(strong.original);
    }
    let mut behind = strong.map(|strong| strong.original.offset);
    loop {
        let newer = claims.iter().filter(|claim| claim.weak && Some(offset(claim)) > behind);
        let oldest = newer.min_by_key(offset)?;
        if alive(&oldest.original) {
            return Some(oldest.original);
        }
        behind = Some(oldest.original.offset);
    }
}
