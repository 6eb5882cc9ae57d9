//! Maps: their JSON and their occupancy bars.

use super::*;
use crate::frame::StackId;

const DRAM: BankRange = BankRange {
    banks: 12,
    start: 0x40,
    end: 0x40 + 1024 * MIB,
};
const L1: BankRange = BankRange {
    banks: 64,
    start: 0x1_8000,
    end: 0x1_8000 + 1320 * KIB,
};

fn know_dram(story: &mut Story, range: BankRange) {
    story
        .ledger
        .set_bank_range(PID, ALLOCATOR, BufferType::Dram, range);
}

/// A mesh of two chips. In DRAM there is a gap between two buffers, and a small buffer at the end; L1 is half
/// full, with eight buffers and equal gaps from the top down.
pub(super) fn with_holes() -> Story {
    let mut story = Story::default();
    story.ledger.add_members(PID, MESH, [0, 1]);
    know_dram(&mut story, DRAM);
    story
        .ledger
        .set_bank_range(PID, ALLOCATOR, BufferType::L1, L1);
    let mut object = 0x1000;
    let mut buffer = |buffer_type, address, bytes| {
        object += 0x10;
        Buffer {
            buffer_type,
            bytes_per_bank: Some(bytes),
            ..owning(object, MESH, address, bytes * 8)
        }
    };
    story.allocate_at(1, buffer(BufferType::Dram, 0x40, 256 * MIB));
    story.allocate_at(2, buffer(BufferType::Dram, 0x40 + 320 * MIB, 64 * MIB));
    story.allocate_at(2, buffer(BufferType::Dram, DRAM.end - 32, 32));
    for i in 1..=8 {
        let at = L1.end - i * 160 * KIB;
        story.allocate_at(3, buffer(BufferType::L1, at, 80 * KIB));
    }
    story.stack = Some(StackId(4));
    story.apply(EventKind::Failed(buffer(BufferType::L1, 0, 512 * KIB)));
    story.stack = None;
    story
}

pub(super) fn summary_of(story: &Story) -> Summary {
    let facts = facts(vec![ProcessFacts {
        stacks: by_stack::stacks(),
        ..python_facts(PID, Attached::Start)
    }]);
    Summary::new(&story.ledger, &facts)
}

fn shown(story: &Story, width: Option<u16>) -> String {
    let options = TableOptions {
        colour: false,
        width,
    };
    let text = table(&summary_of(story), options);
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with(" In each bank"));
    let lines = lines.take_while(|line| {
        let is_of_maps = line.is_empty() || line.contains('%') || line.contains("Fragmented");
        is_of_maps || line.starts_with(" In each bank")
    });
    let lines: Vec<&str> = lines.collect();
    lines.join("\n").trim_end().to_owned()
}

#[test]
fn the_json_of_maps() {
    let mut story = Story::default();
    know_dram(&mut story, DRAM);
    let in_bank = |object, address, bytes| Buffer {
        bytes_per_bank: Some(bytes),
        ..owning(object, MESH, address, bytes * 12)
    };
    story.allocate_at(1, in_bank(0x10, 0x40, MIB));
    story.allocate_at(2, in_bank(0x20, 0x40 + 2 * MIB, MIB));
    story.apply(EventKind::Failed(in_bank(0x30, 0, 2048 * MIB)));
    let process = &summary_of(&story).processes[0];
    insta::assert_json_snapshot!((&process.maps, &process.failures));
}

#[test]
fn each_memory_with_buffers_has_a_bar() {
    insta::assert_snapshot!(shown(&with_holes(), None));
}

#[test]
fn a_bar_is_as_long_as_the_terminal_allows() {
    let story = with_holes();
    for (width, longest) in [(80, 80), (100, 100), (300, 102), (20, 64)] {
        let text = shown(&story, Some(width));
        let bars = text.lines().filter(|line| line.contains('%'));
        let longest_bar = bars.map(|line| line.chars().count()).max();
        assert_eq!(longest_bar, Some(longest), "{width}: {text}");
    }
    insta::assert_snapshot!(shown(&story, Some(80)));
}

#[test]
fn the_map_at_a_devices_closing_has_its_own_title() {
    let mut story = with_holes();
    let before = shown(&story, None);
    story.apply(EventKind::BulkFree(ALLOCATOR));
    let after = shown(&story, None);
    let closed = "\n In each bank, when its device was closed (";
    assert!(after.contains(closed));
    // Without L1, whose map at the failure shows the same.
    let lines = before.replace("\n In each bank (", closed);
    let expected: Vec<&str> = lines.lines().collect();
    assert_eq!(
        after.lines().collect::<Vec<_>>(),
        expected[..expected.len() - 1]
    );
}

#[test]
fn devices_with_the_same_blocks_share_a_bar() {
    let mut story = Story::default();
    for id in 0..4 {
        let allocator = AllocatorPointer(0xa0 + u64::from(id));
        story
            .ledger
            .set_bank_range(PID, allocator, BufferType::Dram, DRAM);
        story.allocate(Buffer {
            allocator,
            bytes_per_bank: Some(MIB * (1 + u64::from(id) / 3)),
            ..owning(0x10 + u64::from(id), chip(id), 0x40, MIB)
        });
    }
    let text = shown(&story, None);
    let names: Vec<&str> = text
        .lines()
        .skip(2)
        .filter_map(|line| line.split("  ").next())
        .collect();
    assert_eq!(names, [" DRAM, chips 0-2", " DRAM, chip 3"]);
}

#[test]
fn without_known_free_space_there_is_no_bar() {
    let mut story = with_holes();
    story.allocate(owning(0x10, MESH, 0x100_0000, KIB));
    let text = shown(&story, None);
    assert!(text.contains("L1") && !text.contains("DRAM"), "{text}");
    story.ledger.expect_unknown_buffers(PID);
    let text = shown(&story, None);
    assert!(!text.contains("\n In each bank ("), "{text}");
    assert_eq!(shown(&by_stack::model(), None), "");
}

#[test]
fn a_map_without_known_free_space_lists_blocks_in_use() {
    let process = &summary_of(&by_stack::model()).processes[0];
    let [dram, l1, trace] = process.maps.as_slice() else {
        panic!("three: {:#?}", process.maps)
    };
    assert_eq!(
        (dram.banks, dram.start, dram.space),
        (None, None, SpaceSummary::default())
    );
    assert_eq!(dram.blocks.len(), 9);
    assert!(dram.blocks.iter().all(|block| block.bytes.is_none()));
    assert_eq!((l1.blocks.len(), trace.blocks.len()), (1, 1));
}

#[test]
fn a_failure_is_reported_with_the_free_space() {
    let story = with_holes();
    let failed = &story.process().failed_allocations()[0];
    assert_eq!(
        out_of_memory("python", PID, failed),
        "out of memory: python (pid 100) asked for 4.00 MiB of L1 on mesh 1, where 8 buffers held \
         5.00 MiB; each of 64 banks had 680.00 KiB free, the largest block 80.00 KiB"
    );
    let mut story = Story::default();
    let full = BankRange {
        end: 0x40 + MIB,
        ..DRAM
    };
    know_dram(&mut story, full);
    let all = Buffer {
        bytes_per_bank: Some(MIB),
        ..owning(0x10, MESH, 0x40, 12 * MIB)
    };
    story.allocate(all);
    story.apply(EventKind::Failed(owning(0x20, MESH, 0, KIB)));
    let failed = &story.process().failed_allocations()[0];
    let line = out_of_memory("python", PID, failed);
    assert!(
        line.ends_with("held 12.00 MiB; each of 12 banks was full"),
        "{line}"
    );
}
