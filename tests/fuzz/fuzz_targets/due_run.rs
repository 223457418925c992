//! A due run or due index: any file is one, read whole and in order, or a fault.

#![no_main]

use bytes::Bytes;
use chronosdb::base::ids::{PartitionId, Position, RunNo};
use chronosdb::engine::runs::{Directory, Footer, HEADER, RunHead, RunIds};
use chronosdb_fuzz::{mend_parts, number, slice};
use libfuzzer_sys::fuzz_target;

fn open(file: &Bytes, ids: &RunIds) -> Option<Directory> {
    let head = RunHead::decode(&slice(file, HEADER.position, HEADER.len), ids).ok();
    let place = Footer::extent(file.len() as u64)?;
    let footer = Footer::decode(&slice(file, place.position, place.len), ids, file.len() as u64);
    let footer = footer.ok()?;
    let bytes = slice(file, footer.directory.position, footer.directory.len);
    let directory = Directory::decode(&bytes, &footer).ok()?;
    head.map(|_| directory)
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    mend_parts(&mut bytes);
    let ids = RunIds {
        cluster: number(&bytes, 8, 8),
        partition: PartitionId(number(&bytes, 16, 2) as u16),
        run: RunNo(number(&bytes, 24, 8)),
    };
    let file = Bytes::from(bytes);
    let Some(directory) = open(&file, &ids) else { return };
    let mut last = None;
    for number in 0..directory.blocks() {
        let extent = directory.extent(number);
        let bytes = slice(&file, extent.position, extent.len);
        let Ok(block) = directory.decode_block(number, bytes) else { return };
        for i in 0..block.len() {
            let key = block.key(i);
            assert!(last.is_none_or(|last| last < key), "sorted over all blocks");
            last = Some(key);
            let _event = block.due_event(i);
            let _record = block.record(i);
            assert_eq!(block.find(&key), Some(i));
        }
    }
    for topic in directory.topics() {
        let _block = directory.block_for(topic.topic, Position::START);
        let _due = directory.next_due(topic.topic, Position::START);
    }
});
