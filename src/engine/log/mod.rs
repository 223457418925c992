//! The log of a partition: bytes and numbers, no I/O.
pub mod batch;
pub mod body;
pub mod cache;
#[cfg(test)]
mod crash_test;
pub mod entry;
pub mod envelope;
mod fill;
mod hunt;
pub mod index;
#[cfg(test)]
mod model;
pub mod reader;
pub mod scan;
pub mod segment;
pub mod settle;
pub mod state;
pub mod tail;

#[allow(unsafe_code, missing_docs, unused_imports, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/record.rs"]
mod generated;
