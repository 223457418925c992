//! Made by tools/protogen from `proto/*.proto`; remake with `scripts/gen.sh`.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// The schemas that this code was made from: FNV-1a, 64 bit, over admin.proto,
/// events.proto and native.proto, one behind the other. A test compares.
pub const SCHEMA_HASH: u64 = 0xc247f7690d262a2a;

/// The encoded `FileDescriptorSet` of all schemas, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!("descriptor.bin");

pub mod cronos_db;
pub mod cronos_db_admin;

/// Packages below `chronosdb`.
pub mod chronosdb {
    pub mod native;
}
