//! A device's memory of each type: totals, banks, and which addresses of a bank are in use.

use serde::Deserialize;

use super::{Device, nullable};

/// What a device has of one type of memory. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    pub live_bytes: u64,
    pub live_buffers: u64,
    pub peak_bytes: u64,
    pub peak_at_ns: u64,
    pub allocated_bytes: u64,
    pub freed_bytes: u64,
    pub allocations: u64,
    pub deallocations: u64,
    #[serde(deserialize_with = "nullable")]
    pub capacity: Option<Capacity>,
}

/// What the allocator says of its banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Capacity {
    pub banks: u64,
    pub bytes_per_bank: u64,
    pub allocated_per_bank: u64,
    pub free_per_bank: u64,
    pub largest_free_per_bank: u64,
}

/// Which addresses of a bank are in use, of one allocator and type of memory.
#[derive(Debug, Deserialize)]
pub struct BankMap {
    #[serde(flatten)]
    pub device: Device,
    pub buffer_type: String,
    #[serde(deserialize_with = "nullable")]
    pub freed_at_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub banks: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub start: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub end: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub allocated_per_bank: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub free_per_bank: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub largest_free_per_bank: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub fragmentation: Option<f64>,
    pub blocks: Vec<Block>,
}

/// Addresses that one buffer takes of each bank, or free ones.
#[derive(Debug, Deserialize)]
pub struct Block {
    pub address: u64,
    #[serde(deserialize_with = "nullable")]
    pub bytes: Option<u64>,
    /// `None` if the block is free.
    #[serde(deserialize_with = "nullable")]
    pub buffer: Option<BlockBuffer>,
}

/// The buffer that a block was taken for.
#[derive(Debug, Deserialize)]
pub struct BlockBuffer {
    pub size: u64,
    #[serde(deserialize_with = "nullable")]
    pub unique_id: Option<u64>,
    pub before_attach: bool,
    #[serde(deserialize_with = "nullable")]
    pub stack: Option<u64>,
    pub origin: String,
}
