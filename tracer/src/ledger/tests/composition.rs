//! What memory consists of, by where it was allocated.

use super::*;
use crate::frame::StackId;

type Parts = Vec<(Source, Count)>;

const fn at(stack: u32) -> Source {
    Source::Traced(Some(StackId(stack)))
}

const fn count(buffers: u64, bytes: u64) -> Count {
    Count { buffers, bytes }
}

/// What is live on a device, and what was at its peak.
fn parts(story: &Story, device: Device) -> (Parts, Parts) {
    let composition = &story.process().devices()[&device].composition[BufferType::Dram];
    let list = |parts: BTreeMap<Source, Count>| parts.into_iter().collect();
    (list(composition.live()), list(composition.peak()))
}

fn buffer(number: u64, size: u64) -> Buffer {
    owning(0x10 * number, chip(0), 0x1000 * number, size)
}

#[test]
fn live_memory_is_broken_down_by_where_it_was_allocated() {
    let mut story = Story::default();
    story.allocate_at(7, buffer(1, 4 * KIB));
    story.allocate_at(7, buffer(2, KIB));
    story.allocate_at(8, buffer(3, 2 * KIB));
    story.allocate(buffer(4, 3 * KIB));
    story.apply(EventKind::Found(buffer(5, KIB)));
    story.deallocate(buffer(1, 4 * KIB));

    let expected = [
        (Source::Traced(None), count(1, 3 * KIB)),
        (at(7), count(1, KIB)),
        (at(8), count(1, 2 * KIB)),
        (Source::BeforeAttach, count(1, KIB)),
    ];
    assert_eq!(parts(&story, chip(0)).0, expected);
}

#[test]
fn the_composition_of_the_peak_is_that_of_when_it_was_first_reached() {
    let mut story = Story::default();
    story.allocate_at(7, buffer(1, 4 * KIB));
    story.allocate_at(8, buffer(2, 2 * KIB));
    let peak = [(at(7), count(1, 4 * KIB)), (at(8), count(1, 2 * KIB))];
    assert_eq!(parts(&story, chip(0)).1, peak, "while the peak lasts");

    story.allocate_at(9, buffer(3, 0));
    assert_eq!(
        parts(&story, chip(0)).1,
        peak,
        "without a later empty buffer"
    );
    story.deallocate(buffer(1, 4 * KIB));
    story.deallocate(buffer(2, 2 * KIB));
    assert_eq!(parts(&story, chip(0)).1, peak, "after the peak");

    story.allocate_at(9, buffer(4, 6 * KIB));
    assert_eq!(
        parts(&story, chip(0)).1,
        peak,
        "as much again is no new peak"
    );
    story.deallocate(buffer(4, 6 * KIB));
    story.allocate_at(9, buffer(4, 7 * KIB));
    assert_eq!(
        parts(&story, chip(0)).1,
        [(at(9), count(2, 7 * KIB))],
        "more is a new peak"
    );
}

#[test]
fn what_a_mesh_consists_of_is_part_of_what_each_member_consists_of() {
    let mut story = Story {
        stack: Some(StackId(7)),
        ..Story::default()
    };
    story.allocate_on_mesh(owning(0x100, MESH, 0x1000, 4 * KIB), &[0, 1]);
    story.stack = None;
    story.allocate_at(
        8,
        Buffer {
            allocator: AllocatorPointer(0xb0),
            ..owning(0x200, chip(1), 0x1000, KIB)
        },
    );
    let of_mesh = (at(7), count(1, 4 * KIB));
    for (device, expected) in [
        (MESH, vec![of_mesh]),
        (chip(0), vec![of_mesh]),
        (chip(1), vec![of_mesh, (at(8), count(1, KIB))]),
    ] {
        assert_eq!(parts(&story, device), (expected.clone(), expected));
    }
}

#[test]
fn a_chip_that_joins_late_has_the_higher_of_the_two_peaks() {
    let mut story = Story::default();
    // The mesh's peak is over before the membership shows; the chip's own peak is lower.
    story.allocate_at(7, owning(0x100, MESH, 0x1000, 8 * KIB));
    story.deallocate(owning(0x100, MESH, 0x1000, 8 * KIB));
    story.allocate_at(
        8,
        Buffer {
            allocator: AllocatorPointer(0xb0),
            ..owning(0x200, chip(0), 0x1000, KIB)
        },
    );
    story.stack = Some(StackId(9));
    story.allocate_on_mesh(owning(0x300, MESH, 0x2000, 2 * KIB), &[0]);
    let (live, peak) = parts(&story, chip(0));
    assert_eq!(live, [(at(8), count(1, KIB)), (at(9), count(1, 2 * KIB))]);
    assert_eq!(peak, [(at(7), count(1, 8 * KIB))]);
}

#[test]
fn the_peak_of_a_chip_that_joins_includes_its_own_empty_buffers() {
    let mut story = Story::default();
    story.allocate_at(8, owning(0x200, chip(0), 0, 0));
    story.stack = Some(StackId(7));
    story.allocate_on_mesh(owning(0x100, MESH, 0x1000, 4 * KIB), &[0]);
    let expected = [(at(7), count(1, 4 * KIB)), (at(8), count(1, 0))];
    assert_eq!(parts(&story, chip(0)).1, expected);
}
