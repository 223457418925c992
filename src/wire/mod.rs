//! Foreign bytes to `base::api` and back: frames, the publish scanner, requests, replies, delivery
//! ids. Every check of foreign input is here.
//!
//! Bounded (`base::limits`) and total: no input makes it panic, loop or allocate out of proportion.
//! It knows no socket, clock or runtime; of tonic it knows the codec trait, for generated code.

pub mod codec;
pub mod delivery_id;
pub mod frame;
#[rustfmt::skip] // made by a tool
pub mod generated;
pub mod kind;
pub mod publish;
pub mod reply;
pub mod request;

mod field;

pub use generated::chronosdb::native;
pub use generated::cronos_db as events;
pub use generated::cronos_db_admin as admin;

#[cfg(test)]
mod tests {
    use super::generated::SCHEMA_HASH;
    use crate::base::route::fnv1a_64;

    #[test]
    fn generated_code_is_in_step_with_the_schemas() {
        let files = ["admin.proto", "events.proto", "native.proto"];
        let proto = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let read = |file| std::fs::read(proto.join(file)).expect("a schema file");
        let schemas: Vec<u8> = files.into_iter().flat_map(read).collect();
        assert_eq!(fnv1a_64(&schemas), SCHEMA_HASH, "run scripts/gen.sh and commit the result");
    }
}
