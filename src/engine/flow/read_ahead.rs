//! Reading ahead of a replay by offsets: the next pieces of the log are read while one is sent.
//!
//! The sparse index cuts the log into pieces of whole entries, so where the next one begins is
//! known before the last one has come. When the replay enters a piece, those behind it are begun,
//! [`PIECES`] at most: one is on its way while the shard, which looks at its disk only between two
//! turns, sends what it has, and one is ready. The first page asks by itself, and one that needs no
//! more begins nothing.
//!
//! Must hold: at most [`PIECES`] reads of a partition are ahead, and what they bring fits into what
//! the record cache keeps of reads: nothing is evicted before it is sent. Each begins at the head
//! of an applied entry, which is never cut away.

use std::collections::VecDeque;

use super::replay::Page;
use crate::base::ids::Offset;
use crate::base::size::BLOCK;
use crate::engine::log::{Piece, Spot};
use crate::engine::partition::Partition;
use crate::engine::reads::{Ahead, Flow};
use crate::engine::step::Step;

/// Pieces begun ahead of a replay.
const PIECES: usize = 2;
/// Pieces that must fit into the record cache, which keeps a quarter of its bytes for what is read:
/// the one that is sent, those ahead, and as much for others.
const CACHE_PIECES: u64 = 4 * 2 * (1 + PIECES as u64);
/// Records of the next piece that one may bring, in the block that they share: no more than the
/// block has bytes.
const SHARED_RECORDS: u64 = BLOCK;

impl Partition {
    /// A flow reads a piece because it needs the record at `offset`.
    pub(super) fn walks_from(&mut self, offset: Offset, piece: &Piece, flow: &Flow) {
        if matches!(flow, Flow::Replay(page) if Page::is_by_offset(page)) {
            let (at, begun) = (offset, VecDeque::new());
            self.reads.ahead = piece.next.map(|next| Ahead { at, begun, next });
        }
    }

    /// A replay goes on at `offset`: begins what it will need soon.
    pub(super) fn read_ahead(&mut self, step: &mut Step<'_>, offset: Offset) {
        let Some(mut ahead) = self.reads.ahead.take() else { return };
        // Another one, elsewhere in the log, is not what this is ahead of.
        if offset < ahead.at || offset > ahead.next.1.plus(SHARED_RECORDS) {
            self.reads.ahead = Some(ahead);
            return;
        }
        while let Some(at) = ahead.begun.pop_front_if(|first| *first <= offset) {
            ahead.at = at;
        }
        while ahead.begun.len() < PIECES {
            let (spot, first) = ahead.next;
            if self.sparse.segment_end(spot.place.segment).is_none() {
                return; // retention has passed it
            }
            let piece = self.sparse.piece(spot, step.config.read_bytes);
            if !self.is_worth_reading(step, (spot, first), &piece) {
                return;
            }
            self.read_piece(step, spot, piece, first, Vec::new());
            ahead.begun.push_back(first);
            let Some(next) = piece.next else { return };
            ahead.next = next;
        }
        self.reads.ahead = Some(ahead);
    }

    /// Whether a piece is applied, is not in memory, and there is room for it. A block that it
    /// shares with the one before may have brought its first records; a large entry is a piece.
    fn is_worth_reading(
        &self,
        step: &Step<'_>,
        (spot, first): (Spot, Offset),
        piece: &Piece,
    ) -> bool {
        let bytes = step.config.read_bytes.max(piece.end - spot.place.position);
        let fits = step.config.cache_bytes_each() >= CACHE_PIECES * bytes;
        let end = piece.next.map_or(self.applied_end, |(_, next)| next.min(self.applied_end));
        let last = Offset(end.0.saturating_sub(1));
        fits && self.reads.has_room() && first < end && self.cache.get(last).is_none()
    }
}
