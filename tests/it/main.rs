//! Tests of the real program: processes of `chronosdb` on real files and sockets.
//!
//! Each test has servers of its own, on free ports, in a directory below `target` (a file system
//! with direct I/O). Nothing waits for a time to pass: tests poll or read until what they wait for
//! is there, and fail by name when it does not come.

mod backup;
mod bit_flips;
mod chance;
mod commands;
mod crowds;
mod delivery;
mod full_disk;
mod horizon;
mod hostile;
mod http;
mod http2;
mod idle;
mod kill_rounds;
mod ledger;
mod limits;
mod load;
mod log_tool;
mod log_tool_beside;
mod memory;
mod raw;
mod reflection;
mod refusals;
mod restart;
mod server;
mod shutdown;
mod wait;
