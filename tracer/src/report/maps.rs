//! What lies where in the banks of each device, as the summary tells it.

use serde::Serialize;

use super::grouping::Origins;
use crate::{
    ledger::{BankRange, BufferType, DeviceKind, Nanoseconds, Process, Space, Used},
    origin::Origin,
    stack::StackId,
};

/// The banks of one type of memory of one allocator: of a mesh, on each member. One line of addresses
/// stands for all of them, since an allocator gives the same address in each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MapSummary {
    pub device_kind: DeviceKind,
    pub device_id: u32,
    pub buffer_type: BufferType,
    /// When the allocator freed all that is shown, as it does when a device closes; `None` if it lies
    /// there still.
    pub freed_at_ns: Option<Nanoseconds>,
    /// How many banks there are; like what follows, `None` if the allocator couldn't be asked.
    pub banks: Option<u64>,
    /// The first address that it can give.
    pub start: Option<u64>,
    /// Behind the last one.
    pub end: Option<u64>,
    #[serde(flatten)]
    pub room: RoomSummary,
    /// By address. Free ones only where `room` is known: then each begins where the one before it ends.
    pub blocks: Vec<Block>,
}

/// What is free of each bank. `None` if the allocator couldn't be asked for its range, or not all that
/// is in use is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RoomSummary {
    pub allocated_per_bank: Option<u64>,
    pub free_per_bank: Option<u64>,
    /// The largest free block.
    pub largest_free_per_bank: Option<u64>,
    /// The part of what is free that isn't in that block: 0 where all is one block, or nothing is free.
    pub fragmentation: Option<f64>,
}

/// Addresses of one buffer, or free ones between two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Block {
    pub address: u64,
    /// Of each bank; `None` if it isn't known how much a buffer takes.
    pub bytes: Option<u64>,
    /// `None` where it is free.
    pub buffer: Option<BlockBuffer>,
}

/// Whose a block is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockBuffer {
    /// Of the whole buffer, as `live_buffers` has it.
    pub size: u64,
    pub unique_id: Option<u64>,
    pub before_attach: bool,
    pub stack: Option<StackId>,
    pub origin: Origin,
}

/// The maps of a process, by device and type.
pub fn maps(process: &Process, origins: &mut Origins<'_>) -> Vec<MapSummary> {
    let mut spaces: Vec<Space> = process.spaces().collect();
    spaces.sort_by_key(|space| {
        let shown = BufferType::ALL
            .iter()
            .position(|of| *of == space.buffer_type);
        (space.device, shown, space.range.map(|range| range.start))
    });
    let spaces = spaces.iter();
    spaces.map(|space| map(space, origins)).collect()
}

/// What lies, or lay, where.
pub fn map(space: &Space, origins: &mut Origins<'_>) -> MapSummary {
    let Space {
        device,
        buffer_type,
        range,
        used,
        freed_at,
        complete: _,
    } = space;
    let mut blocks: Vec<Block> = used.iter().map(|used| block(used, origins)).collect();
    let room = match (range, space.free()) {
        (Some(range), Some(free)) => {
            blocks.extend(gaps(range, used));
            blocks.sort_by_key(|block| block.address);
            RoomSummary {
                allocated_per_bank: Some(range.bytes() - free.bytes),
                free_per_bank: Some(free.bytes),
                largest_free_per_bank: Some(free.largest),
                fragmentation: Some(free.fragmentation()),
            }
        }
        _ => RoomSummary::default(),
    };
    MapSummary {
        device_kind: device.kind,
        device_id: device.id,
        buffer_type: *buffer_type,
        freed_at_ns: *freed_at,
        banks: range.map(|range| range.banks),
        start: range.map(|range| range.start),
        end: range.map(|range| range.end),
        room,
        blocks,
    }
}

fn block(used: &Used, origins: &mut Origins<'_>) -> Block {
    let Used {
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

/// The free blocks of a range in which these are in use, by address.
fn gaps(range: &BankRange, used: &[Used]) -> Vec<Block> {
    let mut gaps = Vec::new();
    let mut from = range.start;
    let ends = used
        .iter()
        .map(|used| (used.address, used.address + used.bytes.unwrap_or(0)));
    for (begin, end) in ends.chain([(range.end, range.end)]) {
        if begin > from {
            gaps.push(Block {
                address: from,
                bytes: Some(begin - from),
                buffer: None,
            });
        }
        from = from.max(end);
    }
    gaps
}
