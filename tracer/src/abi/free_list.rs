//! The free list of an allocator, which knows the free addresses of its banks.
//!
//! An allocator assigns one address for all banks of a type, so each type has one list. Since 0.63 it is a
//! `FreeListOpt` (`tt_metal/impl/allocator/algorithms/free_list_opt.cpp`) for every type. Before 0.63,
//! types other than DRAM had a `FreeList`, which isn't supported.

use tracer_common::register;

use super::{
    deriver::Deriver,
    image::{Function, Image},
    names::{self, FREE_LIST},
    point::{Point, PointKind},
    probe_placement::{at_entry, require_call},
};

/// Virtual addresses of the functions of `FreeListOpt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeList {
    /// `get_statistics() const`, which `AllocatorImpl::get_statistics` calls. It returns through a hidden
    /// pointer.
    pub statistics: u64,
    /// `allocated_addresses() const`: a `std::vector<std::pair<uint64_t, uint64_t>>` of the begin and end
    /// addresses of the blocks in use. It is returned through a hidden pointer.
    pub allocated: u64,
    /// `available_addresses(size) const`: the same of the free blocks of at least that size.
    pub available: u64,
    /// `allocate(size, bottom_up, address_limit)`: returns a `std::optional` of an address.
    pub allocate: u64,
    /// `allocate_in_block(block, size, offset)`: takes a part of a free block. All functions that allocate
    /// call it.
    pub allocate_in_block: u64,
}

impl FreeList {
    /// Finds the functions, if the library has them all.
    pub(crate) fn find(image: &Image<'_>) -> Option<Self> {
        let address = |name: &str| Some(function(image, name)?.address);
        Some(Self {
            statistics: address("get_statistics")?,
            allocated: address("allocated_addresses")?,
            available: address("available_addresses")?,
            allocate: address("allocate")?,
            allocate_in_block: address("allocate_in_block")?,
        })
    }
}

fn function<'a>(image: &Image<'a>, name: &str) -> Option<Function<'a>> {
    names::methods(image, FREE_LIST, name).into_iter().next()
}

/// The point at the entry of `allocate_in_block`, where `rdx` holds the size of the block that is about to
/// be taken, in bytes of one bank. `None` if the library has no such function, if its parameters differ, or
/// if the functions that allocate don't call it because it was inlined. Block sizes stay unknown then.
pub(super) fn block_point(deriver: &Deriver<'_>) -> Option<Point> {
    let block = deriver.method(FREE_LIST, "allocate_in_block")?;
    let symbol = block.function.symbol;
    if names::parameters(symbol) != ["unsigned long"; 3] {
        return None;
    }
    for name in ["allocate", "allocate_at_address"] {
        let caller = deriver.method(FREE_LIST, name)?;
        // Compilers and linkers add suffixes to the names of the copies that they make.
        require_call(&caller, symbol, &|callee| callee.starts_with(symbol)).ok()?;
    }
    at_entry(deriver, PointKind::Block, &block, register::RDX).ok()
}
