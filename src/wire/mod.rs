//! Foreign bytes to `base::api` and back: frames, the publish scanner, requests, replies, delivery
//! ids. Every check of foreign input is here.
//!
//! Bounded (`base::limits`) and total: no input makes it panic, loop or allocate out of proportion.
//! It knows no socket, clock or runtime; of tonic it knows the codec trait, for generated code.

pub mod codec;

pub mod frame;
#[rustfmt::skip] // made by a tool
pub mod generated;
pub mod kind;
pub mod publish;

mod field;

pub use generated::chronosdb::native;
pub use generated::cronos_db as events;
pub use generated::cronos_db_admin as admin;
