//! PartitionService: what partitions there are; upkeep is yet to come.

use std::time::Instant;

use tonic::{Code, Request, Response, Status, async_trait};

use super::status;
use crate::base::api;
use crate::base::error::ApiError;
use crate::base::ids::PartitionId;
use crate::control::Bridge;
use crate::control::door::Door;
use crate::wire::events::partition_service_server::PartitionService;
use crate::wire::events::{
    CompactRequest, CompactResponse, GetPartitionRequest, GetSchedulerStatusRequest,
    GetWalStatusRequest, ListPartitionsRequest, ListPartitionsResponse, PartitionInfo,
    RetentionRequest, RetentionResponse, SchedulerStatus, SplitPartitionRequest,
    SplitPartitionResponse, WalStatus,
};
use crate::wire::{reply, request};

/// The service on the node's shards.
#[derive(Debug)]
pub struct Partitions<D> {
    bridge: Bridge<D>,
}

impl<D: Door> Partitions<D> {
    /// Over this bridge.
    pub fn new(bridge: Bridge<D>) -> Self {
        Self { bridge }
    }

    /// State of one partition, or of all in order.
    async fn statuses(
        &self,
        partition: Option<PartitionId>,
    ) -> Result<Vec<api::PartitionStatus>, ApiError> {
        let doors = &self.bridge.doors;
        let door = partition.map_or_else(|| doors.any(), |partition| doors.of(partition));
        match door.call(api::Request::Partitions(partition)).await? {
            api::Reply::Partitions(statuses) => Ok(statuses),
            reply => unreachable!("asked for partitions, answered {reply:?}"),
        }
    }

    /// Counts a call and makes its answer.
    fn answer<T>(
        &self,
        method: &'static str,
        since: Instant,
        result: Result<T, ApiError>,
    ) -> Result<Response<T>, Status> {
        let result = result.map(Response::new).map_err(|error| status(&error));
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.bridge.metrics.request(method, code, Some(since.elapsed()));
        result
    }

    fn refuse<T>(&self, method: &'static str, text: &str) -> Result<Response<T>, Status> {
        let status = Status::unimplemented(text);
        self.bridge.metrics.request(method, status.code(), None);
        Err(status)
    }
}

#[async_trait]
impl<D: Door> PartitionService for Partitions<D> {
    async fn get_partition(
        &self,
        request: Request<GetPartitionRequest>,
    ) -> Result<Response<PartitionInfo>, Status> {
        let since = Instant::now();
        let found = async {
            let id = request::partition(request.get_ref().partition_id, &self.bridge.bounds)?;
            let statuses = self.statuses(Some(id)).await?;
            let [status] = statuses.as_slice() else {
                unreachable!("partition {id} is one, answered {}", statuses.len());
            };
            Ok(reply::partition_info(status, &self.bridge.node_id))
        };
        self.answer("GetPartition", since, found.await)
    }

    async fn list_partitions(
        &self,
        _: Request<ListPartitionsRequest>,
    ) -> Result<Response<ListPartitionsResponse>, Status> {
        let since = Instant::now();
        let statuses = self.statuses(None).await;
        let list = statuses.map(|all| reply::partition_list(&all, &self.bridge.node_id));
        self.answer("ListPartitions", since, list)
    }

    async fn get_wal_status(
        &self,
        _: Request<GetWalStatusRequest>,
    ) -> Result<Response<WalStatus>, Status> {
        self.refuse(
            "GetWALStatus",
            "the state of a log can't be read yet; GetPartition has its segments and bytes",
        )
    }

    async fn get_scheduler_status(
        &self,
        _: Request<GetSchedulerStatusRequest>,
    ) -> Result<Response<SchedulerStatus>, Status> {
        self.refuse(
            "GetSchedulerStatus",
            "the state of a wheel can't be read yet; GetPartition has pending and ready events, \
             GET /metrics the lateness",
        )
    }

    async fn compact(
        &self,
        _: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        self.refuse("Compact", "logs are not compacted yet: nothing is deleted")
    }

    async fn run_retention(
        &self,
        _: Request<RetentionRequest>,
    ) -> Result<Response<RetentionResponse>, Status> {
        self.refuse("RunRetention", "retention is not applied yet: nothing is deleted")
    }

    async fn split_partition(
        &self,
        _: Request<SplitPartitionRequest>,
    ) -> Result<Response<SplitPartitionResponse>, Status> {
        self.refuse(
            "SplitPartition",
            "partitions can't be split: their number is fixed when the data directory is made, \
             because clients route by it",
        )
    }
}
