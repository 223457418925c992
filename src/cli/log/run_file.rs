//! One run of a stopped node, read from end to end: every part of it is judged by the code that
//! reads it at a start.
//!
//! ```text
//!   of records or keys:  header, footer -> directory -> every block, against the directory
//!   of ids:              footer, header, index, filters -> every block of rows
//! ```
//! Where the directory is sound each damaged block is told by itself, with what the directory knows
//! of it. Without one nobody knows where blocks begin: then the run is damaged as a whole.

use std::ops::Range;

use bytes::Bytes;

use super::files::OpenFile;
use crate::base::ids::{Offset, Position, RunNo, TopicNo};
use crate::base::size::BLOCK;
use crate::engine::damage::Damage;
use crate::engine::dedup::{self, BlockRead, Dedup, ID_RUN_MAGIC, RunDirectory, RunLoad};
use crate::engine::log::Ids;
use crate::engine::runs::{Block, Directory, Extent, Footer, HEADER, RunHead, RunIds, RunKind};

/// What was found in a run.
#[derive(Clone, Debug)]
pub struct RunFindings {
    /// What it is, as far as it says.
    pub kind: Option<Kind>,
    /// Which offsets it may have, as far as it says.
    pub offsets: Option<Range<Offset>>,
    /// Events, keys or ids in it, as far as it says.
    pub records: Option<u64>,
    /// What is damaged, in file order, but for header and footer, which come first.
    pub damaged: Vec<BadPart>,
    /// It has a sound footer: it was finished once.
    pub is_finished: bool,
}

/// What a run holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records.
    Carried,
    /// Keys of records.
    Index,
    /// Ids.
    Ids,
}

/// A damaged part of a run.
#[derive(Clone, Debug)]
pub struct BadPart {
    /// Which.
    pub part: String,
    /// Where it lies in the file.
    pub bytes: Range<u64>,
    /// What is wrong with it.
    pub fault: String,
    /// Records, keys or ids in it; `None`: nobody knows.
    pub records: Option<u64>,
    /// Topics that have some of these.
    pub topics: Vec<BadTopic>,
}

/// What of a topic may be in a damaged block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTopic {
    /// The topic.
    pub topic: TopicNo,
    /// Records of it at most.
    pub records: u64,
    /// Due not earlier, Unix ms.
    pub first_due: u64,
    /// And not later.
    pub last_due: u64,
}

impl RunFindings {
    fn new(kind: Option<Kind>) -> Self {
        let damaged = Vec::new();
        Self { kind, offsets: None, records: None, damaged, is_finished: false }
    }

    /// What is damaged, for who asks whether the log has it as well; a run that does not say what
    /// it is may have had anything.
    #[must_use]
    pub fn damage(&self) -> Damage {
        let offsets = self.offsets.clone().unwrap_or(Offset(0)..Offset(u64::MAX));
        match self.kind {
            Some(Kind::Ids) => Damage::Ids(offsets),
            Some(Kind::Index) => Damage::Run { kind: RunKind::Index, offsets },
            Some(Kind::Carried) | None => Damage::Run { kind: RunKind::Carried, offsets },
        }
    }

    fn bad(&mut self, part: impl Into<String>, extent: Extent, fault: &str) {
        let (part, fault) = (part.into(), fault.to_owned());
        let bytes = extent.position..extent.end();
        self.damaged.push(BadPart { part, bytes, fault, records: None, topics: Vec::new() });
    }

    fn know(&mut self, head: &RunHead) {
        self.kind = Some(match head.kind {
            RunKind::Carried => Kind::Carried,
            RunKind::Index => Kind::Index,
        });
        self.offsets = Some(head.first_offset..head.end_offset);
    }
}

/// Reads a run; `read` hears how many bytes of it lie behind.
pub fn examine(
    ids: Ids,
    run: RunNo,
    file: &mut OpenFile,
    mut read: impl FnMut(u64),
) -> Result<RunFindings, String> {
    let begins = file.read(0, BLOCK)?;
    // Its last block says so as well, should the first one be damaged.
    let ends = file.read(file.len.saturating_sub(BLOCK), BLOCK)?;
    if [&begins, &ends].iter().any(|block| block.starts_with(&ID_RUN_MAGIC)) {
        return examine_ids(ids, run, file, &mut read);
    }
    let run_ids = RunIds { cluster: ids.cluster, partition: ids.partition, run };
    examine_records(&run_ids, file, (&begins, &ends), &mut read)
}

fn examine_records(
    ids: &RunIds,
    file: &mut OpenFile,
    (begins, ends): (&Bytes, &Bytes),
    read: &mut dyn FnMut(u64),
) -> Result<RunFindings, String> {
    let mut found = RunFindings::new(None);
    let head = RunHead::decode(begins, ids);
    match &head {
        Ok(head) => found.know(head),
        Err(fault) => found.bad("header", HEADER, &fault.to_string()),
    }
    let footer = match Footer::decode(ends, ids, file.len) {
        Ok(footer) => footer,
        Err(fault) => {
            let last = Extent { position: file.len.saturating_sub(BLOCK), len: BLOCK };
            found.bad("footer", last, &fault.to_string());
            return Ok(found);
        }
    };
    found.is_finished = true;
    let extent = footer.directory;
    let directory = match Directory::decode(&file.read(extent.position, extent.len)?, &footer) {
        Ok(directory) => directory,
        Err(fault) => {
            found.bad("directory", extent, &fault.to_string());
            return Ok(found);
        }
    };
    if head.is_ok_and(|head| head != *directory.head()) {
        found.bad("header", HEADER, "it contradicts the directory");
    }
    found.know(directory.head());
    found.records = Some(directory.records());
    let mut seen = Seen::default();
    for number in 0..directory.blocks() {
        let Extent { position, len } = directory.extent(number);
        match directory.decode_block(number, file.read(position, len)?) {
            Ok(block) => seen.add(&block),
            Err(fault) => found.damaged.push(bad_block(&directory, number, &fault.to_string())),
        }
        read(position + len);
    }
    let all = found.damaged.is_empty();
    if all && !seen.agrees(&directory) {
        found.bad("directory", extent, "it counts other records than the blocks have");
    }
    Ok(found)
}

/// What the directory knows of a block.
fn bad_block(directory: &Directory, number: usize, fault: &str) -> BadPart {
    let extent = directory.extent(number);
    let records = directory.block_records(number);
    let slices = directory.topics().iter().filter(|slice| slice.blocks().contains(&number));
    let topics = slices.map(|slice| {
        let (topic, blocks) = (slice.topic, slice.blocks());
        // It begins behind what the block before ends with.
        let before = number.checked_sub(1).filter(|before| blocks.contains(before));
        let first = before.and_then(|before| directory.block_end(topic, before));
        let first_due = first.map_or(slice.first_due, |first| first.due);
        let last_due = directory.block_end(topic, number).map_or(slice.last.due, |last| last.due);
        let records = records.min(u64::from(slice.records));
        BadTopic { topic, records, first_due, last_due }
    });
    BadPart {
        part: format!("block {number}"),
        bytes: extent.position..extent.end(),
        fault: fault.to_owned(),
        records: Some(records),
        topics: topics.collect(),
    }
}

/// What all blocks of a run have.
#[derive(Default)]
struct Seen {
    tombstones: u64,
    /// Of each topic, in order: records, first due, last place.
    topics: Vec<(TopicNo, u64, u64, Position)>,
}

impl Seen {
    fn add(&mut self, block: &Block) {
        for row in 0..block.len() {
            let key = block.key(row);
            self.tombstones += u64::from(block.record(row).tombstone);
            match self.topics.last_mut().filter(|(topic, ..)| *topic == key.topic) {
                Some((_, records, _, last)) => (*records, *last) = (*records + 1, key.position),
                None => self.topics.push((key.topic, 1, key.position.due, key.position)),
            }
        }
    }

    fn agrees(&self, directory: &Directory) -> bool {
        let told = directory.topics().iter();
        let told = told.map(|t| (t.topic, u64::from(t.records), t.first_due, t.last));
        self.tombstones == directory.tombstones() && told.eq(self.topics.iter().copied())
    }
}

fn examine_ids(
    ids: Ids,
    run: RunNo,
    file: &mut OpenFile,
    read: &mut dyn FnMut(u64),
) -> Result<RunFindings, String> {
    let mut found = RunFindings::new(Some(Kind::Ids));
    let ids = dedup::RunIds { cluster: ids.cluster, partition: ids.partition, run };
    let bad = |found: &mut RunFindings, fault: dedup::RunFault| {
        let position = u64::from(fault.block) * BLOCK;
        let text = fault.to_string();
        let text = text.split_once(": ").map_or(text.as_str(), |(_, what)| what);
        found.bad(format!("block {}", fault.block), Extent { position, len: BLOCK }, text);
    };
    let mut load = match RunLoad::new(ids, file.len) {
        Ok(load) => load,
        Err(fault) => {
            bad(&mut found, fault);
            return Ok(found);
        }
    };
    // Footer and header are asked for first; then what is behind the rows.
    let (mut asked, mut rows_end) = (0, file.len - BLOCK);
    while let Some(BlockRead { position, len }) = load.next_read() {
        asked += 1;
        if asked == 3 {
            rows_end = position;
        }
        if let Err(fault) = load.feed(&file.read(position, len)?) {
            bad(&mut found, fault);
            return Ok(found);
        }
        found.is_finished = true;
    }
    let directory = load.finish();
    found.offsets = Some(directory.offsets());
    found.records = Some(directory.rows());
    let rows = if directory.rows() > 0 { BLOCK..rows_end } else { 0..0 };
    for position in rows.step_by(BLOCK as usize) {
        if let Err(fault) = check_rows(&directory, position, &file.read(position, BLOCK)?) {
            bad(&mut found, fault);
        }
        read(position + BLOCK);
    }
    Ok(found)
}

/// Checks a block of rows: a look-up of any id does.
fn check_rows(
    directory: &RunDirectory,
    position: u64,
    bytes: &[u8],
) -> Result<(), dedup::RunFault> {
    let any = Dedup::new([0; 16], 1).hash("", b"");
    directory.find(any, BlockRead { position, len: BLOCK }, bytes).map(drop)
}
