//! Functions of the library that return what an allocator holds, for [`replay`](crate::replay).
//!
//! Their results are fixed by their names and have been the same in every release since 0.62
//! (`tt_metal/impl/allocator/allocator.hpp`, `mesh_device.hpp`).

use super::{
    AbiError, FreeList, Image, Pointee,
    deriver::Deriver,
    dwarf::Members,
    image::Function,
    names::{self, ALLOCATORS},
};

/// Virtual addresses of these functions, and what is needed to interpret the objects that they return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accessors {
    /// Offset in bytes, in the vtable of any device, of the function that returns a reference to the
    /// `unique_ptr` to the device's allocator.
    pub allocator_slot: u64,
    /// `MeshDevice::get_devices()` returns a `std::vector<IDevice*>` through a hidden pointer.
    pub mesh_devices: u64,
    /// `AllocatorImpl::get_allocated_buffers()` returns a `std::unordered_set<Buffer*>` through a hidden
    /// pointer.
    pub allocated_buffers: u64,
    /// `AllocatorImpl::get_statistics(BufferType const&)` returns, through a hidden pointer, four `size_t`
    /// and more. The four are the bytes of one bank: in total, allocated, free, and in the largest free
    /// block.
    pub statistics: u64,
    /// `AllocatorImpl::get_num_banks(BufferType const&)`.
    pub bank_count: u64,
    /// The functions of the allocators' free lists; `None` if the library lacks one.
    pub free_list: Option<FreeList>,
    /// The value of a buffer's `status` while it has an address: the constant that
    /// `Buffer::is_allocated()` compares it with.
    pub allocated: u8,
}

impl Accessors {
    /// Finds the functions.
    ///
    /// # Errors
    /// When the library lacks one that isn't optional.
    pub(crate) fn find(image: &Image<'_>) -> Result<Self, AbiError> {
        let missing = |name: &str| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{name}")],
        };
        let mesh = "distributed::MeshDevice";
        // Since 0.65 `allocator()` returns a view of the allocator that `allocator_impl()` returns.
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

/// The offset of a function in a class's vtable, in bytes from the address that an object's vtable pointer
/// has.
fn slot(image: &Image<'_>, class: &str, function: &Function<'_>) -> Option<u64> {
    // The vtable pointer points behind the offset to the top and the type information (Itanium C++ ABI).
    let start = image.address_of(&names::vtable(class))? + 16;
    (0..128).map(|i| i * 8).find(|slot| {
        let pointee = image.pointee(start + slot);
        match pointee {
            Some(Pointee::Address(address)) => address == function.address,
            Some(Pointee::Symbol(name)) => image.address_of(name) == Some(function.address),
            None => false,
        }
    })
}
