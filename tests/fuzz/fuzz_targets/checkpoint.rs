//! A checkpoint: any file is one, or a fault; one that is read is written the same way again.

#![no_main]

use bytes::Bytes;
use chronosdb::base::ids::PartitionId;
use chronosdb::engine::checkpoint::Checkpoint;
use chronosdb::engine::log::Ids;
use chronosdb_fuzz::{mend_checkpoint, number};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    mend_checkpoint(&mut bytes);
    let partition = PartitionId(number(&bytes, 12, 2) as u16);
    let ids = Ids { cluster: number(&bytes, 16, 8), partition };
    let file = Bytes::from(bytes);
    if let Ok(checkpoint) = Checkpoint::decode(&file, ids) {
        assert!(checkpoint.encode() == file, "there is one way to write it");
        assert!(checkpoint.runs().all(|run| run <= checkpoint.last_run));
    }
});
