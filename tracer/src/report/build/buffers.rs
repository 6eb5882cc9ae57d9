//! Devices and buffers, from the ledger.

use std::collections::BTreeMap;

use super::origins::Origins;
use crate::{
    ledger::{Account, BufferType, Device, DeviceAccount, LiveBuffer},
    origin::Origin,
    report::summary::{BufferSummary, Capacity, DeviceSummary, MemorySummary, Usage},
};

/// A device with its use of each type of memory.
pub(super) fn device(
    device: Device,
    account: &DeviceAccount,
    capacity: &BTreeMap<(Device, BufferType), Capacity>,
) -> DeviceSummary {
    let Device { kind, id } = device;
    let DeviceAccount {
        members,
        memory,
        composition: _,
    } = account;
    let of = |buffer_type| Usage {
        capacity: capacity.get(&(device, buffer_type)).copied(),
        ..usage(&memory[buffer_type])
    };
    DeviceSummary {
        id,
        kind,
        members: members.iter().copied().collect(),
        memory: MemorySummary {
            dram: of(BufferType::Dram),
            l1: of(BufferType::L1),
            l1_small: of(BufferType::L1Small),
            trace: of(BufferType::Trace),
            system_memory: of(BufferType::SystemMemory),
        },
    }
}

/// Summaries of buffers, by device, type and address. Buffers with the same address are ordered by the
/// address of their object.
pub(super) fn buffers<'a>(
    live: impl Iterator<Item = &'a LiveBuffer>,
    origins: &mut Origins<'_>,
) -> Vec<BufferSummary> {
    let mut live: Vec<&LiveBuffer> = live.collect();
    live.sort_by_key(|live| {
        let buffer = &live.buffer;
        let order = BufferType::ALL
            .iter()
            .position(|t| *t == buffer.buffer_type);
        (buffer.device, order, buffer.address, buffer.object)
    });
    live.into_iter()
        .map(|live| buffer(live, origins.of_buffer(live)))
        .collect()
}

fn buffer(live: &LiveBuffer, origin: Origin) -> BufferSummary {
    let buffer = &live.buffer;
    BufferSummary {
        address: buffer.address,
        size: buffer.size,
        page_size: buffer.page_size,
        buffer_type: buffer.buffer_type,
        layout: buffer.layout,
        bytes_per_bank: buffer.bytes_per_bank,
        device_id: buffer.device.id,
        device_kind: buffer.device.kind,
        unique_id: buffer.unique_id,
        owns_data: live.owns_data(),
        before_attach: live.before_attach(),
        allocated_at_ns: live.since(),
        tid: live.tid(),
        stack: live.stack(),
        origin,
    }
}

fn usage(account: &Account) -> Usage {
    Usage {
        live_bytes: account.live_bytes,
        live_buffers: account.live_buffers,
        peak_bytes: account.peak_bytes,
        peak_at_ns: account.peak_at,
        allocated_bytes: account.allocated_bytes,
        freed_bytes: account.freed_bytes,
        allocations: account.allocations,
        deallocations: account.deallocations,
        capacity: None,
    }
}
