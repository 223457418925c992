//! Made by tools/protogen from `proto/*.proto`; remake with `scripts/gen.sh`, never edit.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// FNV-1a, 64 bit, over admin.proto, events.proto and native.proto, one behind the other:
/// the schemas that this code was made from. A test compares it with the files.
pub const SCHEMA_HASH: u64 = 0x556b480b61d5b1cc;

/// The encoded `FileDescriptorSet` of all schemas, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!("descriptor.bin");

pub mod cronos_db;
pub mod cronos_db_admin;

/// Packages below `chronosdb`.
pub mod chronosdb {
    pub mod native;
}
