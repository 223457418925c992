//! The gRPC listener: services, limits of HTTP/2, and how errors become statuses.

use std::time::Duration;

use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_health::ServingStatus;

use super::Bridge;
use super::accept::Entrance;
use super::door::Door;
use crate::base::error::{ApiError, ErrorCode};
use crate::base::limits;
use crate::wire::events::consumer_group_service_server::ConsumerGroupServiceServer;
use crate::wire::events::event_service_server::EventServiceServer;
use crate::wire::events::partition_service_server::PartitionServiceServer;
use crate::wire::events::transaction_service_server::TransactionServiceServer;
use crate::wire::generated::DESCRIPTOR_SET;

mod acks;
mod events;
mod groups;
mod outgoing;
mod partitions;
mod transactions;

pub use events::Events;
pub use groups::Groups;
pub use partitions::Partitions;
pub use transactions::Transactions;

/// Calls and streams that one connection may have open.
const STREAMS: u32 = 1_024;
/// Bytes under way to us on one call, and on one connection.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = limits::CONNECTION_IN_BYTES as u32;
/// Metadata of one call, bytes.
const HEADER_BYTES: u32 = 16 << 10;
/// A connection that is silent for so long is asked for a sign of life, and cut without one.
const PING_AFTER: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// The services that are served, as reflection lists them.
const SERVICES: [&str; 4] = [
    "cronos_db.EventService",
    "cronos_db.PartitionService",
    "cronos_db.ConsumerGroupService",
    "cronos_db.TransactionService",
];

/// Serves until the bridge stops. Clients may ping as often as they like, also without a call.
pub(super) async fn serve<D: Door>(entrance: Entrance, bridge: Bridge<D>, reflection: bool) {
    let limit = limits::MESSAGE_BYTES;
    let events = EventServiceServer::new(Events::new(bridge.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let partitions = PartitionServiceServer::new(Partitions::new(bridge.clone()))
        .max_encoding_message_size(limit);
    let groups = ConsumerGroupServiceServer::new(Groups::new(bridge.metrics.clone()));
    let transactions = TransactionServiceServer::new(Transactions::new(bridge.metrics.clone()));
    let (health, health_server) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let sound = "the descriptors are made with the code";
    let v1 = reflection.then(|| reflect().build_v1().expect(sound));
    let v1alpha = reflection.then(|| reflect().build_v1alpha().expect(sound));

    let stopping = bridge.clone();
    let stopped = async move {
        stopping.stopped().await;
        for service in SERVICES.into_iter().chain([""]) {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
    };
    let server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .add_service(events)
        .add_service(partitions)
        .add_service(groups)
        .add_service(transactions)
        .add_service(health_server)
        .add_optional_service(v1)
        .add_optional_service(v1alpha);
    let incoming = entrance.connections();
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
        tracing::error!(%error, "the gRPC listener ended");
    }
}

fn reflect() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    SERVICES
        .into_iter()
        .chain(["grpc.health.v1.Health"])
        .fold(builder, tonic_reflection::server::Builder::with_service_name)
}

/// The status that tells a client of this error.
pub(super) fn status(error: &ApiError) -> Status {
    let code = match error.code {
        ErrorCode::InvalidArgument | ErrorCode::Malformed | ErrorCode::Protocol => {
            Code::InvalidArgument
        }
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::ResourceExhausted => Code::ResourceExhausted,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::NotLeader => Code::FailedPrecondition,
        ErrorCode::Unimplemented => Code::Unimplemented,
        ErrorCode::DataLoss => Code::DataLoss,
        ErrorCode::Duplicate => Code::AlreadyExists,
    };
    Status::new(code, error.text.as_ref())
}

/// Ends streams while the node stops.
pub(super) fn shutting_down() -> Status {
    Status::unavailable("the node is shutting down; reconnect to another, or later")
}

#[cfg(test)]
#[path = "grpc_test.rs"]
mod grpc_test;
