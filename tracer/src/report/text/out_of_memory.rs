//! The line that reports a failed allocation as it happens.

use super::format::{bytes, count, printable};
use super::rows::device_name;
use crate::ledger::FailedAllocation;

/// The line that reports a failed allocation as it happens.
pub(crate) fn out_of_memory(comm: &str, pid: u32, failed: &FailedAllocation) -> String {
    let FailedAllocation {
        buffer, live, free, ..
    } = failed;
    let device = device_name(buffer.device.kind, &[buffer.device.id]);
    let held = match live.buffers {
        0 => "nothing was live".to_owned(),
        buffers => format!("{} held {}", count(buffers, "buffer"), bytes(live.bytes)),
    };
    let free = free.map(|(range, free)| {
        let left = match free.bytes {
            0 => "was full".to_owned(),
            _ => format!(
                "had {} free, the largest block {}",
                bytes(free.bytes),
                bytes(free.largest)
            ),
        };
        format!("; each of {} {left}", count(range.banks, "bank"))
    });
    let free = free.unwrap_or_default();
    format!(
        "out of memory: {} (pid {pid}) asked for {} of {} on {device}, where {held}{free}",
        printable(comm),
        bytes(buffer.size),
        buffer.buffer_type,
    )
}
