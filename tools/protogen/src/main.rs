//! Remakes `src/wire/generated` from `proto/*.proto`: messages, gRPC services and clients, and the
//! file descriptor set for reflection. Run by `scripts/gen.sh`; the result is committed, so neither
//! this tool nor a protoc is needed to build the project.
//!
//! What differs from plain tonic code: the server side of `EventService` moves bytes. `Publish` and
//! `PublishBatch` hand the request over undecoded, and all five methods answer with encoded
//! messages (`wire::codec`), because the bridge shares its scanner and encoders with the native
//! protocol.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_build::{Service, ServiceGenerator};
use tonic_build::{CodeGenBuilder, manual};

/// In this order they are hashed and compiled.
const FILES: [&str; 3] = ["admin.proto", "events.proto", "native.proto"];
const RAW: &str = "crate::wire::codec::RawCodec";
const RAW_REPLY: &str = "crate::wire::codec::RawReplyCodec";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("usage: protogen PROJECT_ROOT")?);
    let protos = root.join("proto");
    let out = root.join("src/wire/generated");

    let descriptors = protox::compile(FILES, [&protos])?;
    fs::write(out.join("descriptor.bin"), bare(&descriptors).encode_to_vec())?;

    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .out_dir(&out)
        .service_generator(Box::new(Services))
        .compile_fds(descriptors)?;
    // Where the module `chronosdb::native` is looked for.
    fs::create_dir_all(out.join("chronosdb"))?;
    fs::rename(out.join("chronosdb.native.rs"), out.join("chronosdb/native.rs"))?;
    fs::write(out.join("mod.rs"), module(schema_hash(&protos)?))?;
    Ok(())
}

/// Without comments: reflection does not show them, and they are most of the bytes.
fn bare(descriptors: &prost_types::FileDescriptorSet) -> prost_types::FileDescriptorSet {
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    bare
}

/// FNV-1a, 64 bit, over the bytes of all schema files in the order of their names.
fn schema_hash(protos: &Path) -> std::io::Result<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in FILES {
        for byte in fs::read(protos.join(file))? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok(hash)
}

fn module(hash: u64) -> String {
    format!(
        "//! Made by tools/protogen from `proto/*.proto`; remake with `scripts/gen.sh`.\n\
         \n\
         #![allow(missing_docs, clippy::all, clippy::pedantic)]\n\
         \n\
         /// The schemas that this code was made from: FNV-1a, 64 bit, over admin.proto,\n\
         /// events.proto and native.proto, one behind the other. A test compares.\n\
         pub const SCHEMA_HASH: u64 = 0x{hash:016x};\n\
         \n\
         /// The encoded `FileDescriptorSet` of all schemas, for gRPC reflection.\n\
         pub const DESCRIPTOR_SET: &[u8] = include_bytes!(\"descriptor.bin\");\n\
         \n\
         pub mod cronos_db;\n\
         pub mod cronos_db_admin;\n\
         \n\
         /// Packages below `chronosdb`.\n\
         pub mod chronosdb {{\n    \
             pub mod native;\n\
         }}\n"
    )
}

/// tonic's code for all services, but for the server of `EventService`.
struct Services;

impl ServiceGenerator for Services {
    fn generate(&mut self, service: Service, buf: &mut String) {
        let raw = service.proto_name == "EventService";
        let server = raw.then(|| raw_server(&service));
        let tonic = tonic_prost_build::configure().build_server(!raw);
        let mut generator = tonic.service_generator();
        generator.generate(service, buf);
        generator.finalize(buf);
        if let Some(server) = server {
            let tokens = CodeGenBuilder::new().emit_package(true).generate_server(&server, "");
            let file: syn::File = syn::parse2(tokens).expect("tonic-build makes Rust");
            buf.push_str(&prettyplease::unparse(&file));
        }
    }
}

/// The service as the bridge sees it: requests of unary methods and all answers as bytes.
fn raw_server(service: &Service) -> manual::Service {
    let mut raw = manual::Service::builder().name(&service.name).package(&service.package);
    for line in &service.comments.leading {
        raw = raw.comment(line);
    }
    for method in &service.methods {
        let undecoded = !method.client_streaming && !method.server_streaming;
        let input = format!("super::{}", method.input_type);
        let mut out = manual::Method::builder()
            .name(&method.name)
            .route_name(&method.proto_name)
            .input_type(if undecoded { "bytes::Bytes" } else { &input })
            .output_type("bytes::Bytes")
            .codec_path(if undecoded { RAW } else { RAW_REPLY });
        for line in &method.comments.leading {
            out = out.comment(line);
        }
        if method.client_streaming {
            out = out.client_streaming();
        }
        if method.server_streaming {
            out = out.server_streaming();
        }
        raw = raw.method(out.build());
    }
    raw.build()
}
