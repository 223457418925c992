//! The wheel's nodes: one slab, a free list, and circular lists threaded through the nodes.
//!
//! A list is named by its first node ([`NIL`] if empty) and is circular, so that its end is one
//! step away and two lists are joined in constant time. Every node is in exactly one list while it
//! is in use, else in the free list.
//!
//! A node is 32 bytes for values of 8 bytes, and of 12 bytes aligned to 4; 40 for 16. The slab
//! grows by chunks of 4,096 nodes and never moves one, so growing costs no pause; it keeps its
//! chunks for reuse.

use std::num::NonZeroU32;

/// No node: the empty list.
pub(super) const NIL: u32 = u32::MAX;
/// log2 of the nodes of a chunk.
const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Names an entry of a wheel for as long as the entry is there; afterwards it names nothing, even
/// if its node is used again (until that node has been reused 2^31 times).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    node: u32,
    generation: NonZeroU32,
}

const _: () = assert!(size_of::<Handle>() == 8 && size_of::<Option<Handle>>() == 8);

#[derive(Clone, Copy, Debug)]
struct Node<T> {
    at_ms: u64,
    value: T,
    /// The next of its list; in the free list [`NIL`] ends it.
    next: u32,
    /// The previous of its list; meaningless in the free list.
    prev: u32,
    /// Raised when the node is taken into use and when it is freed: odd while in use.
    generation: u32,
}

const _: () = assert!(size_of::<Node<u64>>() == 32 && size_of::<Node<[u32; 3]>>() == 32);

/// All nodes of a wheel.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Node<T>>>,
    free: u32,
    len: usize,
}

impl<T: Copy> Slab<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NIL, len: 0 }
    }

    /// Nodes in use.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes taken by nodes, in use or not.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Node<T>>()
    }

    /// A node that is in no list yet.
    pub(super) fn allocate(&mut self, at_ms: u64, value: T) -> u32 {
        self.len += 1;
        if self.free != NIL {
            let index = self.free;
            let node = self.node_mut(index);
            assert!(node.generation.is_multiple_of(2), "a free node was in use");
            let generation = node.generation.wrapping_add(1);
            let next_free = node.next;
            *node = Node { at_ms, value, next: NIL, prev: NIL, generation };
            self.free = next_free;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("a chunk was just made sure of");
        let index = full + chunk.len();
        assert!(index < NIL as usize, "a wheel holds less than 2^32 entries");
        chunk.push(Node { at_ms, value, next: NIL, prev: NIL, generation: 1 });
        index as u32
    }

    /// Gives back a node that is in no list any more: what it held.
    pub(super) fn release(&mut self, index: u32) -> (u64, T) {
        let free = self.free;
        let node = self.node_mut(index);
        assert!(node.generation % 2 == 1, "a node was freed twice");
        node.generation = node.generation.wrapping_add(1);
        node.next = free;
        let held = (node.at_ms, node.value);
        self.free = index;
        self.len -= 1;
        held
    }

    /// The name of a node in use.
    pub(super) fn handle(&self, index: u32) -> Handle {
        let generation = self.node(index).generation;
        assert!(generation % 2 == 1, "only nodes in use have a name");
        Handle { node: index, generation: NonZeroU32::new(generation).expect("odd is not zero") }
    }

    /// The node of a name, if that entry is still there.
    pub(super) fn resolve(&self, handle: Handle) -> Option<u32> {
        let chunk = self.chunks.get((handle.node >> CHUNK_BITS) as usize)?;
        let node = chunk.get(handle.node as usize % CHUNK)?;
        (node.generation == handle.generation.get()).then_some(handle.node)
    }

    /// When the node's entry is due.
    pub(super) fn at_ms(&self, index: u32) -> u64 {
        self.node(index).at_ms
    }

    /// Puts a node at the end of a list.
    pub(super) fn push_back(&mut self, list: &mut u32, index: u32) {
        if *list == NIL {
            let node = self.node_mut(index);
            (node.next, node.prev) = (index, index);
            *list = index;
            return;
        }
        let last = self.node(*list).prev;
        let node = self.node_mut(index);
        (node.next, node.prev) = (*list, last);
        self.node_mut(last).next = index;
        self.node_mut(*list).prev = index;
    }

    /// Takes the first node of a list.
    pub(super) fn pop_front(&mut self, list: &mut u32) -> Option<u32> {
        let first = *list;
        if first == NIL {
            return None;
        }
        self.unlink(list, first);
        Some(first)
    }

    /// Takes a node out of its list. `list` is that list, or any other if the node is not the first
    /// of its own.
    pub(super) fn unlink(&mut self, list: &mut u32, index: u32) {
        let &Node { next, prev, .. } = self.node(index);
        if next == index {
            assert!(*list == index && prev == index, "a node alone in its list is its first");
            *list = NIL;
            return;
        }
        self.node_mut(prev).next = next;
        self.node_mut(next).prev = prev;
        if *list == index {
            *list = next;
        }
    }

    /// Puts a whole list at the end of another.
    pub(super) fn append(&mut self, list: &mut u32, tail: u32) {
        if tail == NIL {
            return;
        }
        if *list == NIL {
            *list = tail;
            return;
        }
        assert!(*list != tail, "a list can't be appended to itself");
        let last = self.node(*list).prev;
        let tail_last = self.node(tail).prev;
        self.node_mut(last).next = tail;
        self.node_mut(tail).prev = last;
        self.node_mut(tail_last).next = *list;
        self.node_mut(*list).prev = tail_last;
    }

    fn node(&self, index: u32) -> &Node<T> {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(slab: &mut Slab<u64>, mut list: u32) -> Vec<u64> {
        std::iter::from_fn(|| slab.pop_front(&mut list).map(|node| slab.at_ms(node))).collect()
    }

    #[test]
    fn lists_keep_their_order_and_join() {
        let mut slab = Slab::new();
        let (mut front, mut back, mut none) = (NIL, NIL, NIL);
        let nodes: Vec<u32> = (0..6).map(|at| slab.allocate(at, at)).collect();
        for &node in &nodes[..3] {
            slab.push_back(&mut front, node);
        }
        for &node in &nodes[3..] {
            slab.push_back(&mut back, node);
        }
        slab.unlink(&mut front, nodes[1]);
        slab.append(&mut front, NIL);
        slab.append(&mut front, back);
        slab.append(&mut none, front);
        assert_eq!(drain(&mut slab, none), [0, 2, 3, 4, 5]);
    }

    #[test]
    fn a_name_ends_with_its_entry() {
        let mut slab = Slab::new();
        let first = slab.allocate(1, 'a');
        let name = slab.handle(first);
        assert_eq!(slab.resolve(name), Some(first));
        assert_eq!(slab.release(first), (1, 'a'));
        assert_eq!(slab.resolve(name), None);
        let second = slab.allocate(2, 'b');
        assert_eq!(second, first, "the node is used again");
        assert_eq!(slab.resolve(name), None);
        assert_eq!(slab.resolve(slab.handle(second)), Some(second));
        let nowhere = Handle { node: 70_000, generation: NonZeroU32::MIN };
        assert_eq!(slab.resolve(nowhere), None);
    }

    #[test]
    fn growth_moves_nothing_and_is_reused() {
        let mut slab = Slab::new();
        let nodes: Vec<u32> = (0..=CHUNK as u64).map(|at| slab.allocate(at, ())).collect();
        assert_eq!(slab.memory_bytes(), 2 * CHUNK * size_of::<Node<()>>());
        for node in nodes {
            slab.release(node);
        }
        assert_eq!(slab.len(), 0);
        for at in 0..=CHUNK as u64 {
            slab.allocate(at, ());
        }
        assert_eq!(slab.chunks.len(), 2);
    }
}
