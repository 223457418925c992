//! ConsumerGroupService: groups are made by subscribing; administration is yet to come.

use tonic::{Request, Response, Status, async_trait};

use crate::control::metrics::Metrics;
use crate::wire::events::consumer_group_service_server::ConsumerGroupService;
use crate::wire::events::{
    ConsumerGroupMetadata, CreateConsumerGroupRequest, CreateConsumerGroupResponse,
    GetConsumerGroupRequest, ListConsumerGroupsRequest, ListConsumerGroupsResponse,
    RebalanceConsumerGroupRequest, RebalanceConsumerGroupResponse,
};

/// Answers with what to do instead.
#[derive(Debug)]
pub struct Groups {
    metrics: Metrics,
}

impl Groups {
    /// Counts its calls in `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }

    fn refuse<T>(&self, method: &'static str, text: &str) -> Result<Response<T>, Status> {
        let status = Status::unimplemented(text);
        self.metrics.request(method, status.code(), None);
        Err(status)
    }
}

const FIGURES: &str = "consumer groups can't be listed yet; GET /metrics has their members and lag";

#[async_trait]
impl ConsumerGroupService for Groups {
    async fn create_consumer_group(
        &self,
        _: Request<CreateConsumerGroupRequest>,
    ) -> Result<Response<CreateConsumerGroupResponse>, Status> {
        self.refuse(
            "CreateConsumerGroup",
            "consumer groups can't be created apart yet; the first Subscribe creates its group",
        )
    }

    async fn get_consumer_group(
        &self,
        _: Request<GetConsumerGroupRequest>,
    ) -> Result<Response<ConsumerGroupMetadata>, Status> {
        self.refuse("GetConsumerGroup", FIGURES)
    }

    async fn list_consumer_groups(
        &self,
        _: Request<ListConsumerGroupsRequest>,
    ) -> Result<Response<ListConsumerGroupsResponse>, Status> {
        self.refuse("ListConsumerGroups", FIGURES)
    }

    async fn rebalance_consumer_group(
        &self,
        _: Request<RebalanceConsumerGroupRequest>,
    ) -> Result<Response<RebalanceConsumerGroupResponse>, Status> {
        self.refuse(
            "RebalanceConsumerGroup",
            "members of a consumer group share all of its partitions; there is nothing to \
             rebalance yet",
        )
    }
}
