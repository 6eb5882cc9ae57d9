//! The blocks in the banks of each device, from the ledger.

use super::origins::Origins;
use crate::{
    ledger::{BankRange, BufferType, Process, Space, UsedBlock},
    report::summary::{Block, BlockBuffer, DeviceMemory, MapSummary, SpaceSummary},
};

/// The maps of a process, by device and type.
pub(super) fn maps(process: &Process, origins: &mut Origins<'_>) -> Vec<MapSummary> {
    let mut spaces: Vec<Space> = process.spaces().collect();
    spaces.sort_by_key(|space| {
        let order = BufferType::ALL
            .iter()
            .position(|of| *of == space.buffer_type);
        (space.device, order, space.range.map(|range| range.start))
    });
    let spaces = spaces.iter();
    spaces.map(|space| map(space, origins)).collect()
}

/// The map of one type of memory of one allocator.
pub(super) fn map(space: &Space, origins: &mut Origins<'_>) -> MapSummary {
    let Space {
        device,
        buffer_type,
        range,
        used,
        freed_at,
        complete: _,
    } = space;
    let mut blocks: Vec<Block> = used.iter().map(|used| block(used, origins)).collect();
    let summary = match (range, space.free()) {
        (Some(range), Some(free)) => {
            blocks.extend(free_blocks(range, used));
            blocks.sort_by_key(|block| block.address);
            SpaceSummary {
                allocated_per_bank: Some(range.bytes() - free.bytes),
                free_per_bank: Some(free.bytes),
                largest_free_per_bank: Some(free.largest),
                fragmentation: Some(free.fragmentation()),
            }
        }
        _ => SpaceSummary::default(),
    };
    MapSummary {
        memory: DeviceMemory {
            device_kind: device.kind,
            device_id: device.id,
            buffer_type: *buffer_type,
        },
        freed_at_ns: *freed_at,
        banks: range.map(|range| range.banks),
        start: range.map(|range| range.start),
        end: range.map(|range| range.end),
        space: summary,
        blocks,
    }
}

fn block(used: &UsedBlock, origins: &mut Origins<'_>) -> Block {
    let UsedBlock {
        address,
        bytes,
        buffer: live,
    } = used;
    Block {
        address: *address,
        bytes: *bytes,
        buffer: Some(BlockBuffer {
            size: live.buffer.size,
            unique_id: live.buffer.unique_id,
            before_attach: live.before_attach(),
            stack: live.stack(),
            origin: origins.of_buffer(live),
        }),
    }
}

/// The free blocks between the used blocks of a range, by address.
fn free_blocks(range: &BankRange, used: &[UsedBlock]) -> Vec<Block> {
    let mut free = Vec::new();
    let mut from = range.start;
    let ends = used
        .iter()
        .map(|used| (used.address, used.address + used.bytes.unwrap_or(0)));
    for (begin, end) in ends.chain([(range.end, range.end)]) {
        if begin > from {
            free.push(Block {
                address: from,
                bytes: Some(begin - from),
                buffer: None,
            });
        }
        from = from.max(end);
    }
    free
}
