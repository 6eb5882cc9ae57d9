//! The free list of an allocator: what knows which addresses of its banks are free.
//!
//! An allocator hands out one address for all banks of a type, so there is one list for each. It is a
//! `FreeListOpt` (`tt_metal/impl/allocator/algorithms/free_list_opt.cpp`) for every type since 0.63;
//! before, other types than DRAM had a `FreeList`, of which nothing is known here.

use tracer_common::register;

use super::{
    derive::Deriver,
    image::{Function, Image},
    interpreter::{Action, Callee},
    names,
    points::{self, Point, PointKind},
};

pub(super) const CLASS: &str = "allocator::FreeListOpt";

/// Virtual addresses of its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeList {
    /// `get_statistics() const`, through a hidden pointer: what `AllocatorImpl::get_statistics` asks.
    pub statistics: u64,
    /// `allocated_addresses() const`: a `std::vector<std::pair<uint64_t, uint64_t>>` of where blocks in
    /// use begin and end, through a hidden pointer.
    pub allocated: u64,
    /// `available_addresses(size) const`: likewise, of the free blocks of at least that size.
    pub available: u64,
    /// `allocate(size, bottom_up, address_limit)`: a `std::optional` of an address.
    pub allocate: u64,
    /// `allocate_in_block(block, size, offset)`: takes a part of a free block, for all who allocate.
    pub allocate_in_block: u64,
}

impl FreeList {
    /// Finds them, if the library has them all.
    pub fn find(image: &Image<'_>) -> Option<Self> {
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
    names::methods(image, CLASS, name).into_iter().next()
}

/// Where the size of a block is at hand that is about to be taken, the same in each bank: the entry of
/// `allocate_in_block`. `None` if there is no such function, if it takes something else, or if those who
/// allocate don't call it (its code was copied to where it is used): sizes stay unknown then.
pub fn block_point(deriver: &Deriver<'_>) -> Option<Point> {
    let block = deriver.method(CLASS, "allocate_in_block")?;
    let symbol = block.function.symbol;
    if names::parameters(symbol) != ["unsigned long"; 3] {
        return None;
    }
    for name in ["allocate", "allocate_at_address"] {
        let caller = deriver.method(CLASS, name)?;
        let calls = caller.analysis.observations().iter().any(|seen| {
            // Linkers add to the names of what they make.
            matches!(
                &seen.what,
                Action::Call { callee: Callee::Named(name), .. } if name.starts_with(symbol)
            )
        });
        if !calls {
            return None;
        }
    }
    points::at_entry(deriver, PointKind::Block, &block, register::RDX).ok()
}
