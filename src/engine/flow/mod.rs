//! One file a story. Each has a front half (the session's shard, `impl Front`) and an owner half
//! (the partition's shard, `impl Partition`) that talk by messages, even on one shard.

pub mod ack;
pub mod arm;
pub mod axis;
pub mod checkpoint;
#[cfg(test)]
mod cliff_test;
pub mod clockwork;
pub mod commit;
pub mod cut;
pub mod fetch;
pub mod fire;
pub mod flush;
pub mod flush_ids;
pub mod give_up;
pub mod grant;
#[cfg(test)]
mod grant_test;
pub mod hold_back;
#[cfg(test)]
mod lease_test;
pub mod load;
pub mod look_up;
#[cfg(test)]
mod look_up_test;
#[cfg(test)]
mod one_shard;
pub mod past;
pub mod publish;
pub mod query;
pub mod read_ahead;
pub mod reading;
pub mod recover;
pub mod replay;
pub mod replicate;
pub mod retention;
pub mod roll;
pub mod settle;
pub mod subscribe;
pub mod topic;
pub mod trim;
