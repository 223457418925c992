//! A log: any bytes are entries, as many as are sound, and then a fault. What an entry holds can be
//! walked without a look at what it says of itself.

#![no_main]

use bytes::Bytes;
use chronosdb::base::ids::{Index, PartitionId};
use chronosdb::engine::log::{Body, Content, Ids, Parsed, Place, Reader};
use chronosdb_fuzz::{mend_entries, number};
use libfuzzer_sys::fuzz_target;

fn walk(body: &Body) {
    let bytes = body.bytes();
    let inside = |span: chronosdb::base::api::Span| span.of(bytes).len();
    match body.content() {
        Content::NoOp => {}
        Content::Publish(view) => {
            for (_, name) in view.topics() {
                assert!(name.len() <= bytes.len());
            }
            for record in view.records() {
                let sum = inside(record.message_id) + inside(record.meta) + inside(record.payload);
                assert!(sum <= 3 * bytes.len());
            }
        }
        Content::Settle(view) => {
            assert_eq!(view.settlements().count(), view.len() as usize);
        }
        Content::Groups(view) => {
            let names = view.topics().map(|(_, name)| name.len()).sum::<usize>();
            let groups = view.groups().map(|group| group.name.len()).sum::<usize>();
            assert!(names + groups < usize::MAX);
        }
        Content::Topics(view) => {
            let names = view.topics().map(|(_, name)| name.len()).sum::<usize>();
            assert!(names + view.retention().count() < usize::MAX);
        }
        Content::State(view) => {
            assert!(view.part() < view.parts());
            let names = view.topics().map(|(_, name)| name.len()).sum::<usize>();
            let groups = view.groups().map(|group| group.name.len()).sum::<usize>();
            let rest = view.settled().count() + view.unsettled().count() + view.dead().count();
            let rest = rest + view.retention().count();
            assert!(names + groups + rest < usize::MAX);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(body) = Body::verify(Bytes::copy_from_slice(data)) {
        walk(&body);
    }
    let mut bytes = data.to_vec();
    mend_entries(&mut bytes);
    let ids =
        Ids { cluster: number(&bytes, 8, 8), partition: PartitionId(number(&bytes, 16, 2) as u16) };
    let (segment, first) = (Index(number(&bytes, 24, 8)), Index(number(&bytes, 48, 8)));
    let chunk = Bytes::from(bytes);
    let end = chunk.len() as u64;
    let mut reader = Reader::new(ids, Place::new(segment, 0), first);
    loop {
        let before = reader.place();
        match reader.next(0, &chunk, end) {
            Parsed::Entry { header, body, .. } => {
                assert!(reader.place().position > before.position, "it goes on");
                assert_eq!(header.count, body.records());
                walk(&body);
            }
            Parsed::Need { .. } | Parsed::End | Parsed::Bad { .. } => break,
        }
    }
});
