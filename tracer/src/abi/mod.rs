//! What the tracer must know about a TT-Metal library, derived from the library's own machine code:
//! where a buffer's fields lie ([`Fields`]) and which instructions are probed ([`Point`]).
//!
//! [`Abi::derive`] needs only the bytes of `libtt_metal.so`. A small symbolic interpreter
//! (`interpreter`) analyses functions whose meaning is fixed by their names: an accessor returns the
//! field it is named for, a constructor stores its arguments, `allocate_impl` stores the address that
//! the allocator returned. If two functions disagree on a field, or no function shows where it lies,
//! the derivation fails with an error that contains the code. There is no table of offsets, and no
//! release is known by name.

mod accessors;
mod cross_check;
mod derive_fields;
mod derived;
mod deriver;
mod device_ids;
mod dwarf;
mod error;
mod excerpt;
mod field;
mod fields;
mod free_list;
mod image;
mod interpreter;
mod listing;
mod method;
mod names;
mod point;
mod points;
mod probe_placement;
mod programs;
mod vector_loop;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub(crate) use accessors::Accessors;
pub(crate) use derived::DerivedLibrary;
pub(crate) use error::AbiError;
pub(crate) use excerpt::excerpt;
pub(crate) use field::{Field, FieldPath};
pub(crate) use fields::Fields;
pub(crate) use free_list::FreeList;
pub(crate) use image::{Image, Library, Pointee};
pub(crate) use interpreter::{never_returns, number as register_number};
pub(crate) use listing::instruction as instruction_text;
pub(crate) use point::{Cost, Holder, Point, PointKind};
pub(crate) use programs::{Buffers, Programs};
pub(crate) use vector_loop::Vector;

/// What is needed to trace one library.
#[derive(Clone, Debug)]
pub(crate) struct Abi {
    /// The GNU build id in hexadecimal, where the library has one.
    pub build_id: Option<String>,
    pub fields: Fields,
    /// In the order in which probes should be attached.
    pub points: Vec<Point>,
    /// The virtual address of the file's first byte. The difference to the address at which that byte is
    /// mapped is what the dynamic linker added to all addresses.
    pub first_address: u64,
    /// The vtable pointer of a `Device`, as a virtual address of the library.
    pub chip_vtable: u64,
    /// The vtable pointer of a `MeshDevice`, as a virtual address of the library.
    pub mesh_vtable: u64,
    /// What is known about programs, or why nothing is: buffers can be traced without it. `None` if the
    /// library has no programs.
    pub programs: Result<Option<Programs>, String>,
}

impl Abi {
    /// Derives everything from the bytes of a library's file.
    ///
    /// # Errors
    /// See [`AbiError`]: it isn't such a library, symbols are missing, or a field or a probe point is in
    /// doubt.
    pub(crate) fn derive(library: &[u8]) -> Result<Self, AbiError> {
        Self::from_image(&Image::parse(library)?)
    }

    /// Derives everything from a parsed library.
    ///
    /// # Errors
    /// Like [`Self::derive`].
    pub(crate) fn from_image(image: &Image<'_>) -> Result<Self, AbiError> {
        let members = dwarf::Members::read(image.file(), &deriver::compiled_with_classes(image));
        let deriver = deriver::Deriver::new(image, members)?;
        let fields = deriver.fields()?;
        let points = points::buffer_points(&deriver, &fields)?;
        Ok(Self {
            build_id: image.build_id().map(str::to_owned),
            first_address: image.first_address(),
            chip_vtable: deriver.vtable("Device")?,
            mesh_vtable: deriver.vtable("distributed::MeshDevice")?,
            fields,
            points,
            programs: programs::derive(&deriver).map_err(|error| error.to_string()),
        })
    }
}
