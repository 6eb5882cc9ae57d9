//! What the tracer must know of a TT-Metal library, learnt from the library's own machine code:
//! where a buffer's fields lie ([`Fields`]) and where probes go ([`Point`]).
//!
//! [`Abi::derive`] takes the bytes of `libtt_metal.so` and nothing else. It asks functions whose
//! meaning is fixed by their names (an accessor returns the field it is named for, a constructor
//! stores its arguments, `allocate_impl` stores what the allocator returned) through a small
//! symbolic [interpreter]. Two functions that disagree, or a field of which no function tells, are
//! errors with the code in hand. There is no table of offsets, and no release is known by name.

mod accessors;
mod call;
mod derive;
mod device;
mod dwarf;
mod error;
mod excerpt;
mod field;
mod fields;
mod free_list;
mod image;
mod instruction;
pub mod interpreter;
mod listing;
mod members;
mod names;
mod points;
mod program_buffers;
mod programs;
mod settle;
mod state;
mod value;
mod walks;
mod witness;

#[cfg(test)]
pub mod fixture;
#[cfg(test)]
mod tests;

pub use accessors::Accessors;
pub(crate) use call::never_returns;
pub use error::AbiError;
pub use excerpt::excerpt;
pub use field::{Field, FieldPath, Witness};
pub use fields::Fields;
pub use free_list::FreeList;
pub use image::{Image, Library, Pointee};
pub(crate) use listing::instruction as instruction_text;
pub use points::{Cost, Holder, Point, PointKind};
pub use programs::{
    Buffers, CircularBuffers, DataflowBuffers, List, Programs, Regions, Semaphores,
};
pub(crate) use state::number as register_number;
pub use walks::Vector;

/// All that is needed to trace one library.
#[derive(Clone, Debug)]
pub struct Abi {
    /// The GNU build id in hexadecimal, where the library has one.
    pub build_id: Option<String>,
    pub fields: Fields,
    /// In the order in which probes should be put on.
    pub points: Vec<Point>,
    /// The virtual address of the file's first byte: what the mapping of that byte is compared with
    /// to know how far the dynamic linker moved the library.
    pub first_address: u64,
    /// Where a `Device`'s vtable pointer points to, as a virtual address of the library.
    pub chip_vtable: u64,
    /// Where a `MeshDevice`'s vtable pointer points to, likewise.
    pub mesh_vtable: u64,
    /// What is known of programs, or why nothing is: buffers can be traced without. `None` where the
    /// library has none.
    pub programs: Result<Option<Programs>, String>,
}

impl Abi {
    /// Derives everything from the bytes of a library's file.
    ///
    /// # Errors
    /// See [`AbiError`]: not such a library, symbols missing, a field or probe point in doubt.
    pub fn derive(library: &[u8]) -> Result<Self, AbiError> {
        Self::of(&Image::parse(library)?)
    }

    /// Derives everything from a parsed library.
    ///
    /// # Errors
    /// Like [`Self::derive`].
    pub fn of(image: &Image<'_>) -> Result<Self, AbiError> {
        let members = dwarf::Members::read(image.file(), &members::compiled_with_classes(image));
        let deriver = derive::Deriver::new(image, members)?;
        let fields = deriver.fields()?;
        let points = points::find(&deriver, &fields)?;
        Ok(Self {
            build_id: image.build_id().map(str::to_owned),
            first_address: image.first_address(),
            chip_vtable: deriver.vtable("Device")?,
            mesh_vtable: deriver.vtable("distributed::MeshDevice")?,
            fields,
            points,
            programs: programs::of(&deriver).map_err(|error| error.to_string()),
        })
    }
}
