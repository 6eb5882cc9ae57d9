//! Where each field of a buffer lies, by the word of the library's own functions.
//!
//! Releases differ in layout, in whether the fields stand in `Buffer` itself or in a `BufferImpl`
//! behind a pointer, and in which accessors are out of line. No release is known here: each field
//! has a list of functions that could tell, those that the library has are asked, and all that
//! answer must agree.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use super::{
    AbiError, dwarf::Members, field::Field, fields::Fields, image::Image, interpreter::Analysis,
    listing, names, value::Value, witness::Testimony,
};

/// The class that owns memory, in newer and older releases.
pub const ALLOCATORS: [&str; 2] = ["AllocatorImpl", "Allocator"];

/// Asks the functions of one library.
pub struct Deriver<'a> {
    pub image: &'a Image<'a>,
    /// What the library's debug information says, where it has any.
    pub(super) members: Members,
    pub(super) analyses: RefCell<HashMap<u64, Rc<Analysis>>>,
    /// The way from a `Buffer` to its `BufferImpl`; empty where the fields stand in `Buffer`.
    pub(super) prefix: Vec<i64>,
}

impl<'a> Deriver<'a> {
    /// Finds out where the fields stand.
    ///
    /// # Errors
    /// When `Buffer::page_size()`, which every release has out of line, doesn't tell.
    pub fn new(image: &'a Image<'a>, members: Members) -> Result<Self, AbiError> {
        let mut deriver = Self {
            image,
            members,
            analyses: RefCell::default(),
            prefix: Vec::new(),
        };
        let page_size = deriver
            .accessor("page_size")
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::Buffer::page_size() const".into()],
            })?;
        let path = page_size.returned().map(|witness| witness.path);
        let Some(path) = path.filter(|path| path.derefs.len() <= 1) else {
            return Err(AbiError::Underivable {
                field: "page_size",
                reason: "Buffer::page_size() doesn't just return it".into(),
                code: listing::of(&page_size.function),
            });
        };
        deriver.prefix = path.derefs;
        Ok(deriver)
    }

    /// Derives every field.
    ///
    /// # Errors
    /// When a field has no witness, or two that disagree.
    pub fn fields(&self) -> Result<Fields, AbiError> {
        let constructor = self.constructor()?;
        let parameters = names::parameters(constructor.function.symbol);
        let set = |what: &str, width, wanted: &dyn Fn(&str) -> bool, nth: usize| {
            let slot = parameters
                .iter()
                .enumerate()
                .filter(|(_, kind)| wanted(kind))
                .map(|(i, _)| i)
                .nth(nth)?;
            constructor.stored(
                &format!("sets it to its {what}"),
                width,
                &names::argument(1 + slot),
                &[],
            )
        };
        let is_long = |kind: &str| kind == "unsigned long";
        let allocate = self.holder("allocate_impl");
        let deallocate = self.holder("deallocate_impl");
        let deallocate_outer = self.holder("deallocate");
        let returned = |name: &str| self.accessor(name).and_then(|accessor| accessor.returned());

        let device = self.settle(
            "device",
            [
                returned("device"),
                set("device", Some(8), &|kind| kind.ends_with("IDevice*"), 0),
                deallocate
                    .as_ref()
                    .and_then(Testimony::first_virtual_object),
            ],
        )?;
        let size = self.settle(
            "size",
            [
                returned("size"),
                set("size", Some(8), &is_long, 0),
                self.holder("is_valid_region").and_then(|f| f.only_read(8)),
            ],
        )?;
        let page_size = self.settle(
            "page_size",
            [
                returned("page_size"),
                set("page size", Some(8), &is_long, 1),
            ],
        )?;
        let buffer_type = self.settle(
            "buffer_type",
            [
                returned("buffer_type"),
                set(
                    "buffer type",
                    Some(4),
                    &|kind| kind.ends_with("::BufferType"),
                    0,
                ),
                self.accessor("is_dram").and_then(|f| f.only_read(4)),
                self.accessor("is_l1").and_then(|f| f.only_read(4)),
            ],
        )?;
        let layout = self.settle(
            "layout",
            [
                returned("buffer_layout"),
                self.holder("get_buffer_page_mapping")
                    .and_then(|f| f.range_checked()),
                self.accessor("shard_spec")
                    .and_then(|f| f.after_result().range_checked()),
            ],
        )?;
        let status = self.status(&deallocate)?;
        let requested = self.requested_status(&status)?;
        let owns_data = self.settle(
            "owns_data",
            [
                deallocate_outer
                    .as_ref()
                    .and_then(|f| f.first_compared())
                    .map(|(witness, _)| witness),
                parameters
                    .iter()
                    .rposition(|kind| kind == "bool")
                    .and_then(|slot| {
                        constructor.stored(
                            "sets it to its last bool",
                            Some(1),
                            &names::argument(1 + slot),
                            &[],
                        )
                    }),
            ],
        )?;
        let allocator = self.settle(
            "allocator",
            [
                allocate
                    .as_ref()
                    .and_then(|f| f.passed_as_this(&ALLOCATORS, "allocate_buffer")),
                deallocate
                    .as_ref()
                    .and_then(|f| f.passed_as_this(&ALLOCATORS, "deallocate_buffer")),
                self.accessor("allocator")
                    .and_then(|f| f.passed_as_this(&ALLOCATORS, "view")),
            ],
        )?;
        let hooked = self.settle(
            "hooked",
            [
                allocate.as_ref().and_then(|f| {
                    f.stored(
                        "sets it where a hook allocates",
                        Some(1),
                        &Value::Constant(1),
                        &[&status.path],
                    )
                }),
                deallocate.as_ref().and_then(|f| {
                    let compared = f.compared_bytes(&[&status.path, &owns_data.path]);
                    compared
                        .into_iter()
                        .find(|(_, constant)| *constant == 0)
                        .map(|(witness, _)| witness)
                }),
            ],
        )?;
        let address = self.address(&allocate)?;
        let unique_id = self.settle(
            "unique_id",
            [returned("unique_id"), constructor.counted("next_unique_id")],
        );
        let unique_id = match unique_id {
            Ok(field) => Some(field),
            Err(AbiError::Underivable { .. }) => None,
            Err(error) => return Err(error),
        };
        let fields = Fields {
            device,
            size,
            page_size,
            buffer_type,
            layout,
            owns_data,
            allocator,
            status,
            hooked,
            address,
            unique_id,
            chip_id: self.chip_id()?,
            mesh_id: self.mesh_id()?,
            requested,
        };
        self.all_apart(&fields)?;
        Ok(fields)
    }

    fn status(&self, deallocate: &Option<Testimony<'a>>) -> Result<Field, AbiError> {
        self.settle(
            "status",
            [
                self.accessor("is_allocated")
                    .and_then(|f| f.first_compared())
                    .map(|(witness, _)| witness),
                self.accessor("address")
                    .and_then(|f| f.first_compared())
                    .map(|(witness, _)| witness),
                deallocate
                    .as_ref()
                    .and_then(|f| f.first_compared())
                    .map(|(witness, _)| witness),
                self.holder("mark_as_deallocated")
                    .and_then(|f| f.stored("sets it", Some(1), &Value::Constant(2), &[])),
            ],
        )
    }

    /// The status that `Buffer::address()` refuses.
    fn requested_status(&self, status: &Field) -> Result<u8, AbiError> {
        let accessor = self.accessor("address");
        let compared = accessor.as_ref().and_then(|f| f.first_compared());
        compared
            .filter(|(witness, _)| witness.path.same_place(&status.path))
            .and_then(|(_, constant)| u8::try_from(constant).ok())
            .ok_or_else(|| AbiError::Underivable {
                field: "status",
                reason: "Buffer::address() doesn't tell which value means that there is no address"
                    .into(),
                code: accessor
                    .map(|f| listing::of(&f.function))
                    .unwrap_or_default(),
            })
    }

    fn address(&self, allocate: &Option<Testimony<'a>>) -> Result<Field, AbiError> {
        let from_allocator = allocate.as_ref().and_then(|f| {
            let results = f.results_of(&ALLOCATORS, "allocate_buffer");
            let stored = |value| {
                f.stored(
                    "sets it to what allocate_buffer returned",
                    Some(8),
                    value,
                    &[],
                )
            };
            results
                .first()
                .filter(|_| results.len() == 1)
                .and_then(stored)
        });
        let mut field = self.settle(
            "address",
            [
                self.accessor("address").and_then(|f| f.returned()),
                from_allocator,
                self.create()
                    .ok()
                    .and_then(|create| create.through_result()),
            ],
        )?;
        // `address()` returns 32 bits of it.
        field.path.width = field
            .witnesses
            .iter()
            .map(|w| w.path.width)
            .max()
            .unwrap_or(field.path.width);
        Ok(field)
    }
}
