//! TT-Metal's shared-memory statistics: `/dev/shm/tt_device_<chip's unique id>_memory`.
//!
//! Layout of version 3, which ttnn 0.77.0 and 0.81.1 write. It is little-endian, and was found by comparing files
//! of known allocations; the names are those of `SharedMemoryStatsProvider`.
//!
//! ```text
//! 0x000 u32 version = 3            0x004 u32 number of active processes
//! 0x008 u64 last update            0x010 u32 processes attached
//! 0x018 u64 board serial           0x020 u64 chip's unique id      0x028 i32 device id
//! 0x030 u64 × 5: DRAM, L1, L1_SMALL, TRACE, circular buffers: bytes of all processes
//! 0x058 16 × { u32 chip id, u32 is remote, u64 × 5 as above }      unused: id 0xffffffff
//! 0x358 64 × { i32 pid, u32 padding, u64 × 5 as above, u64 last update, char name[64] }
//! 0x2158 padding to 0x2180
//! ```
//!
//! The file stays when its processes end, and so does the entry of a killed process.

use std::path::Path;

const VERSION: u32 = 3;
const SIZE: usize = 0x2180;
const PROCESSES: usize = 0x358;
const PROCESS_SIZE: usize = 0x78;
const PROCESS_COUNT: usize = 64;

/// Bytes of one process on one chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    pub dram: u64,
    pub l1: u64,
    pub l1_small: u64,
    pub trace: u64,
    pub circular_buffers: u64,
}

/// What the process has on the chip, according to TT-Metal.
#[track_caller]
pub fn of_process(statistics: &Path, pid: u32) -> Bytes {
    let file = std::fs::read(statistics)
        .unwrap_or_else(|error| panic!("{}: {error}", statistics.display()));
    let shown = statistics.display();
    assert_eq!(file.len(), SIZE, "the size of {shown}");
    assert_eq!(u32_at(&file, 0), VERSION, "the version of {shown}");
    let entry = (0..PROCESS_COUNT)
        .map(|index| PROCESSES + index * PROCESS_SIZE)
        .find(|entry| u32_at(&file, *entry) == pid)
        .unwrap_or_else(|| panic!("{shown} has no entry for process {pid}"));
    let bytes = |index: usize| u64_at(&file, entry + 8 + 8 * index);
    Bytes {
        dram: bytes(0),
        l1: bytes(1),
        l1_small: bytes(2),
        trace: bytes(3),
        circular_buffers: bytes(4),
    }
}

fn u32_at(file: &[u8], offset: usize) -> u32 {
    let bytes = file[offset..offset + 4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes)
}

fn u64_at(file: &[u8], offset: usize) -> u64 {
    let bytes = file[offset..offset + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}
