//! The words everything else is built from: ids, time, limits, error codes, configuration and the
//! requests and replies of the API in the engine's own terms; and an ordered map of positions.
//!
//! Lowest layer: imports nothing of the project. Holds no state and does no I/O, but for the two
//! functions of [`time`] that read the system's clocks, which only drivers call.

pub mod api;
pub mod config;
pub mod error;
pub mod ids;
pub mod limits;
pub mod little_endian;
pub mod position_map;
pub mod route;
pub mod size;
pub mod time;
pub mod topic_retention;
