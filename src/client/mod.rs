//! The native client.
pub mod connection;
mod driver;
pub mod error;
mod inflight;
pub mod topology;
