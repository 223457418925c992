//! A dedup run: any file is one, that can be asked for any id, or a fault.

#![no_main]

use bytes::Bytes;
use chronosdb::base::ids::{PartitionId, RunNo};
use chronosdb::engine::dedup::{Dedup, RunIds, RunLoad};
use chronosdb_fuzz::{mend_blocks, number, slice};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    mend_blocks(&mut bytes);
    let ids = RunIds {
        cluster: number(&bytes, 8, 8),
        partition: PartitionId(number(&bytes, 16, 2) as u16),
        run: RunNo(number(&bytes, 24, 8)),
    };
    let file = Bytes::from(bytes);
    let Ok(mut load) = RunLoad::new(ids, file.len() as u64) else { return };
    while let Some(read) = load.next_read() {
        if load.feed(&slice(&file, read.position, read.len)).is_err() {
            return;
        }
    }
    let directory = load.finish();
    let dedup = Dedup::new([7; 16], 1);
    let hashes: Vec<_> = (0..64_u64).map(|n| dedup.hash("t", &n.to_le_bytes())).collect();
    let mut maybe = Vec::new();
    directory.probe_all(&hashes, &mut maybe);
    for (number, hash) in hashes.into_iter().enumerate() {
        let read = directory.probe(hash);
        assert_eq!(read.is_some(), maybe.iter().any(|(other, _)| *other == number));
        if let Some(read) = read {
            let bytes = slice(&file, read.position, read.len);
            let _fault = directory.find(hash, read, &bytes);
        }
    }
});
