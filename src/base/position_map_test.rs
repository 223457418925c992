//! The map against the standard library's, and what it costs.

use proptest::prelude::*;

use super::super::ids::Offset;
use super::*;

fn at(n: u64) -> Position {
    Position::new(1_000 + n / 4, Offset(n % 4))
}

/// What must hold, and the entries.
fn checked(map: &PositionMap<u64>) -> Vec<(Position, u64)> {
    assert_eq!(map.tree.len(), map.blocks.len());
    let blocks = map.tree.iter().map(|(key, number)| (key, &map.blocks[*number as usize]));
    let blocks: Vec<_> = blocks
        .inspect(|(key, block)| assert_eq!(**key, block.key, "both know where it begins"))
        .map(|(key, block)| (key, &block.entries))
        .collect();
    for (key, block) in &blocks {
        assert!(!block.is_empty() && block.len() <= BLOCK, "{} entries", block.len());
        assert!(**key <= block[0].0 && block.is_sorted_by(|a, b| a.0 < b.0));
    }
    for pair in blocks.windows(2) {
        let (left, right) = (pair[0].1, pair[1].1);
        assert!(left[left.len() - 1].0 < *pair[1].0, "blocks do not overlap");
        assert!(left.len() + right.len() > SMALL, "neighbours that fit are one");
    }
    let entries: Vec<_> = blocks.iter().flat_map(|(_, block)| block.iter().copied()).collect();
    assert!(map.iter().eq(entries.iter().copied()), "the same, in order");
    assert_eq!(map.last(), entries.last().copied());
    assert_eq!(entries.len(), map.len());
    assert_eq!(map.is_empty(), entries.is_empty());
    entries
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    /// So many in order from there on.
    InsertRow(u64, u64),
    Remove(u64),
    RemoveRow(u64, u64),
    RemoveUpTo(u64),
    Change(u64),
    After(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (n, few) = (0..600_u64, 0..200_u64);
    let step = prop_oneof![
        4 => n.clone().prop_map(Step::Insert),
        2 => (n.clone(), few.clone()).prop_map(|(n, count)| Step::InsertRow(n, count)),
        4 => n.clone().prop_map(Step::Remove),
        1 => (n.clone(), few).prop_map(|(n, count)| Step::RemoveRow(n, count)),
        1 => (0..900_u64).prop_map(|n| Step::RemoveUpTo(n.saturating_sub(300))),
        1 => n.clone().prop_map(Step::Change),
        2 => n.prop_map(Step::After),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn it_is_an_ordered_map(steps in steps()) {
        let (mut map, mut model) = (PositionMap::default(), BTreeMap::new());
        for (value, step) in (1..).zip(steps) {
            let mut insert = |n| {
                let is_new = !model.contains_key(&at(n));
                model.entry(at(n)).or_insert(value);
                assert_eq!(map.insert(at(n), value), is_new);
            };
            match step {
                Step::Insert(n) => insert(n),
                Step::InsertRow(n, count) => (n..n + count).for_each(insert),
                Step::Remove(n) => prop_assert_eq!(map.remove(at(n)), model.remove(&at(n))),
                Step::RemoveRow(n, count) => {
                    for n in n..n + count {
                        prop_assert_eq!(map.remove(at(n)), model.remove(&at(n)));
                    }
                }
                Step::RemoveUpTo(n) => {
                    map.remove_up_to(at(n));
                    model.retain(|position, _| *position > at(n));
                }
                Step::Change(n) => {
                    prop_assert_eq!(map.get_mut(at(n)).map(|v| *v += 1_000).is_some(),
                        model.get_mut(&at(n)).map(|v| *v += 1_000).is_some());
                }
                Step::After(n) => {
                    let behind = model.range((Excluded(at(n)), Unbounded));
                    let behind: Vec<_> = behind.map(|(p, v)| (*p, *v)).collect();
                    prop_assert_eq!(map.after(at(n)).collect::<Vec<_>>(), behind);
                    prop_assert_eq!(map.get(at(n)), model.get(&at(n)).copied());
                }
            }
            let entries: Vec<_> = model.iter().map(|(p, v)| (*p, *v)).collect();
            prop_assert_eq!(checked(&map), entries);
        }
    }
}

/// Entries that the blocks have room for.
fn room(map: &PositionMap<u64>) -> usize {
    map.blocks.iter().map(|block| block.entries.capacity()).sum()
}

#[test]
fn entries_in_order_fill_their_blocks() {
    let mut map = PositionMap::default();
    (0..10_000).for_each(|n| assert!(map.insert(at(n), n)));
    checked(&map);
    assert_eq!((map.blocks.len(), room(&map)), (157, 157 * BLOCK));
}

#[test]
fn a_small_map_is_small() {
    let mut map = PositionMap::default();
    map.insert(at(7), 7);
    map.insert(at(3), 3);
    assert!(room(&map) <= 4, "{}", room(&map));
}

#[test]
fn what_is_left_of_many_is_kept_in_few_blocks() {
    let mut map = PositionMap::default();
    let scattered = |n: u64| n * 7_919 % 100_000;
    (0..100_000).for_each(|n| assert!(map.insert(at(scattered(n)), n)));
    checked(&map);
    assert!(room(&map) <= 170_000, "half a block is the least of a split: {}", room(&map));
    (0..100_000).filter(|n| n % 100 > 0).for_each(|n| {
        map.remove(at(n)).expect("it is there");
    });
    checked(&map);
    assert!(room(&map) <= 1_000 * BLOCK / (SMALL / 2), "{} for {}", room(&map), map.len());
    (0..100_000).filter(|n| n % 100 == 0).for_each(|n| {
        map.remove(at(n)).expect("it is there");
    });
    assert_eq!((map.len(), room(&map)), (0, 0));
}
