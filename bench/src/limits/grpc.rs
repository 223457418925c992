//! gRPC that does nothing: a unary call with an empty message there and back. What is left of a
//! core after it is all that a bridge can work with.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chronosdb::wire::codec::RawCodec;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;

use super::Figures;
use crate::target::channel;

const STREAMS: usize = 64;
const PATH: &str = "/bench.Echo/Echo";

/// The service; answers with what it was sent.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        ready(Ok(tonic::Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(RawCodec).unary(Echo, request).await) })
    }
}

/// Measures calls over 64 streams, of one connection and of 64.
pub async fn measure(each: Duration, figures: &mut Figures) -> Result<(), String> {
    let text = |error: &dyn ToString| error.to_string();
    // As many threads as the bridge of a server has.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| text(&error))?;
    let incoming = {
        let _entered = runtime.enter();
        let bound = TcpIncoming::bind(([127, 0, 0, 1], 0).into());
        bound.map_err(|error| text(&error))?.with_nodelay(Some(true))
    };
    let addr = incoming.local_addr().map_err(|error| text(&error))?.to_string();
    let server = tonic::transport::Server::builder().add_service(Echo);
    runtime.spawn(server.serve_with_incoming(incoming));
    for connections in [1, STREAMS] {
        let rate = calls(&addr, connections, each).await?;
        let what = format!("empty gRPC calls, 64 streams on {connections}");
        figures.tell(&what, rate, "/s", &format!("grpc_echo_64_on_{connections}_per_s"));
    }
    runtime.shutdown_background();
    Ok(())
}

async fn calls(addr: &str, connections: usize, each: Duration) -> Result<f64, String> {
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(channel(addr).await?);
    }
    let began = Instant::now();
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        streams.spawn(stream(channels[number % connections].clone(), began + each));
    }
    let mut calls = 0;
    while let Some(done) = streams.join_next().await {
        calls += done.map_err(|error| error.to_string())??;
    }
    Ok(calls as f64 / began.elapsed().as_secs_f64())
}

async fn stream(channel: Channel, until: Instant) -> Result<u64, String> {
    let mut grpc = Grpc::new(channel);
    let mut calls = 0;
    while Instant::now() < until {
        grpc.ready().await.map_err(|error| error.to_string())?;
        let request = tonic::Request::new(Bytes::new());
        let answer = grpc.unary(request, PathAndQuery::from_static(PATH), RawCodec).await;
        answer.map_err(|status| status.to_string())?;
        calls += 1;
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_answered() {
        let mut figures = Figures::default();
        measure(Duration::from_millis(20), &mut figures).await.expect("it serves");
        let told = figures.0["grpc_echo_64_on_1_per_s"].as_f64();
        assert!(told.is_some_and(|rate| rate > 0.0), "{figures:?}");
    }
}
