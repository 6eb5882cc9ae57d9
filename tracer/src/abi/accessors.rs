//! Functions of the library that tell what an allocator holds, for [`replay`](crate::replay).
//!
//! What they return is fixed by their names and has been the same in every release since 0.62
//! (`tt_metal/impl/allocator/allocator.hpp`, `mesh_device.hpp`); whether they return it through a
//! hidden pointer is read from their code.

use super::{
    AbiError, FreeList, Image,
    derive::{ALLOCATORS, Deriver},
    dwarf::Members,
    image::Function,
    names,
};

/// Virtual addresses of the functions, and what is needed to understand what they tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accessors {
    /// In the vtable of any device, the offset in bytes of the function that returns a reference to
    /// the `unique_ptr` with the device's allocator.
    pub allocator_slot: u64,
    /// `MeshDevice::get_devices()`: a `std::vector<IDevice*>`, through a hidden pointer.
    pub mesh_devices: u64,
    /// `AllocatorImpl::get_allocated_buffers()`: a `std::unordered_set<Buffer*>`, through a hidden
    /// pointer.
    pub allocated_buffers: u64,
    /// `AllocatorImpl::get_statistics(BufferType const&)`: four `size_t` and more, through a hidden
    /// pointer: bytes in each bank; of these allocated; free; the largest free block.
    pub statistics: u64,
    /// `AllocatorImpl::get_num_banks(BufferType const&)`.
    pub bank_count: u64,
    /// Those of the free lists that allocators have; `None` where one is missing.
    pub free_list: Option<FreeList>,
    /// The value of a buffer's `status` while it has an address: what `Buffer::is_allocated()`
    /// compares it with.
    pub allocated: u8,
}

impl Accessors {
    /// Finds them.
    ///
    /// # Errors
    /// When the library lacks one.
    pub fn find(image: &Image<'_>) -> Result<Self, AbiError> {
        let missing = |name: &str| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{name}")],
        };
        let mesh = "distributed::MeshDevice";
        // Since 0.65 `allocator()` returns a view of what `allocator_impl()` does.
        let allocator = ["allocator_impl", "allocator"]
            .iter()
            .find_map(|name| names::getter(image, mesh, name))
            .ok_or_else(|| missing("distributed::MeshDevice::allocator() const"))?;
        let of_allocator = |name: &str| {
            ALLOCATORS
                .iter()
                .find_map(|class| names::methods(image, class, name).into_iter().next())
                .map(|function| function.address)
                .ok_or_else(|| missing(&format!("{}::{name}", ALLOCATORS[0])))
        };
        let allocated = Deriver::new(image, Members::default())?
            .method("Buffer", "is_allocated")
            .and_then(|accessor| accessor.first_compared())
            .and_then(|(_, constant)| u8::try_from(constant).ok())
            .ok_or_else(|| missing("Buffer::is_allocated() const"))?;
        Ok(Self {
            allocated,
            allocator_slot: slot(image, mesh, &allocator)
                .ok_or_else(|| missing("distributed::MeshDevice's vtable"))?,
            mesh_devices: names::getter(image, mesh, "get_devices")
                .ok_or_else(|| missing("distributed::MeshDevice::get_devices() const"))?
                .address,
            allocated_buffers: of_allocator("get_allocated_buffers")?,
            statistics: of_allocator("get_statistics")?,
            bank_count: of_allocator("get_num_banks")?,
            free_list: FreeList::find(image),
        })
    }
}

/// Where a class's vtable has a function, in bytes from where an object's vtable pointer points to.
fn slot(image: &Image<'_>, class: &str, function: &Function<'_>) -> Option<u64> {
    // Behind the offset to the top and the type information (Itanium C++ ABI).
    let start = image.address_of(&names::vtable(class))? + 16;
    (0..128).map(|i| i * 8).find(|slot| {
        let pointee = image.pointee(start + slot);
        match pointee {
            Some(super::Pointee::Address(address)) => address == function.address,
            Some(super::Pointee::Symbol(name)) => image.address_of(name) == Some(function.address),
            None => false,
        }
    })
}
