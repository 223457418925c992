//! How fast the system provides memory that the process touches for the first time. It clears it,
//! and on a virtual machine the host may have to find it first: then a server that still grows
//! pauses (`chronosdb serve --reserve-memory`).

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Figures;

/// Touched at once, bytes.
const PIECE: usize = 16 << 20;
/// Touched at most, pieces.
const PIECES: usize = 64;
const PAGE: usize = 4 << 10;

/// Tells it, of at most 1 GiB and about `each`.
pub fn measure(each: Duration, figures: &mut Figures) {
    let mut pieces = Vec::with_capacity(PIECES);
    let began = Instant::now();
    while pieces.len() < PIECES && began.elapsed() < each {
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE);
        for page in piece.spare_capacity_mut().iter_mut().step_by(PAGE) {
            page.write(1);
        }
        pieces.push(black_box(piece));
    }
    let mib = (pieces.len() * PIECE) as f64 / f64::from(1 << 20);
    let rate = mib / began.elapsed().as_secs_f64();
    figures.tell("memory touched for the first time", rate, "MiB/s", "fresh_memory_mib_s");
}
