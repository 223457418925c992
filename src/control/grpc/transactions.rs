//! TransactionService: not there, on purpose.

use tonic::{Request, Response, Status, async_trait};

use crate::control::metrics::Metrics;
use crate::wire::events::transaction_service_server::TransactionService;
use crate::wire::events::{
    AbortTransactionRequest, AbortTransactionResponse, BeginTransactionRequest,
    BeginTransactionResponse, CommitTransactionRequest, CommitTransactionResponse,
    PrepareTransactionRequest, PrepareTransactionResponse,
};

/// Answers all methods alike.
#[derive(Debug)]
pub struct Transactions {
    metrics: Metrics,
}

impl Transactions {
    /// Counts its calls in `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }

    fn refuse<T>(&self, method: &'static str) -> Result<Response<T>, Status> {
        let status = Status::unimplemented(
            "transactions are not implemented on purpose: they never carried events; events of \
             one partition in a PublishBatch are stored all or none, and message_id makes a \
             publish safe to repeat",
        );
        self.metrics.request(method, status.code(), None);
        Err(status)
    }
}

#[async_trait]
impl TransactionService for Transactions {
    async fn begin_transaction(
        &self,
        _: Request<BeginTransactionRequest>,
    ) -> Result<Response<BeginTransactionResponse>, Status> {
        self.refuse("BeginTransaction")
    }

    async fn prepare_transaction(
        &self,
        _: Request<PrepareTransactionRequest>,
    ) -> Result<Response<PrepareTransactionResponse>, Status> {
        self.refuse("PrepareTransaction")
    }

    async fn commit_transaction(
        &self,
        _: Request<CommitTransactionRequest>,
    ) -> Result<Response<CommitTransactionResponse>, Status> {
        self.refuse("CommitTransaction")
    }

    async fn abort_transaction(
        &self,
        _: Request<AbortTransactionRequest>,
    ) -> Result<Response<AbortTransactionResponse>, Status> {
        self.refuse("AbortTransaction")
    }
}
