//! Derives where each field of a buffer lies from the library's own functions.
//!
//! Releases differ in layout, in whether the fields stand in `Buffer` itself or in a `BufferImpl`
//! behind a pointer, and in which accessors are out of line. No release is known here. Each field has
//! a list of functions that can show where it lies. Those that the library has are interpreted, and
//! all evidence that they give must agree.

use super::{
    AbiError,
    deriver::Deriver,
    field::Field,
    fields::Fields,
    interpreter::Value,
    listing,
    method::Method,
    names::{self, ALLOCATORS},
};

impl<'a> Deriver<'a> {
    /// Derives every field.
    ///
    /// # Errors
    /// When there is no evidence for a field, or when its evidence disagrees.
    pub(super) fn fields(&self) -> Result<Fields, AbiError> {
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
        let allocate = self.buffer_method("allocate_impl");
        let deallocate = self.buffer_method("deallocate_impl");
        let deallocate_outer = self.buffer_method("deallocate");
        let returned = |name: &str| self.accessor(name).and_then(|accessor| accessor.returned());

        let device = self.cross_check(
            "device",
            [
                returned("device"),
                set("device", Some(8), &|kind| kind.ends_with("IDevice*"), 0),
                deallocate.as_ref().and_then(Method::first_virtual_object),
            ],
        )?;
        let size = self.cross_check(
            "size",
            [
                returned("size"),
                set("size", Some(8), &is_long, 0),
                self.buffer_method("is_valid_region")
                    .and_then(|f| f.only_read(8)),
            ],
        )?;
        let page_size = self.cross_check(
            "page_size",
            [
                returned("page_size"),
                set("page size", Some(8), &is_long, 1),
            ],
        )?;
        let buffer_type = self.cross_check(
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
        let layout = self.cross_check(
            "layout",
            [
                returned("buffer_layout"),
                self.buffer_method("get_buffer_page_mapping")
                    .and_then(|f| f.range_checked()),
                self.accessor("shard_spec")
                    .and_then(|f| f.with_hidden_result().range_checked()),
            ],
        )?;
        let status = self.status(&deallocate)?;
        let requested = self.requested_status(&status)?;
        let owns_data = self.cross_check(
            "owns_data",
            [
                deallocate_outer
                    .as_ref()
                    .and_then(|f| f.first_compared())
                    .map(|(evidence, _)| evidence),
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
        let allocator = self.cross_check(
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
        let hooked = self.cross_check(
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
                        .map(|(evidence, _)| evidence)
                }),
            ],
        )?;
        let address = self.address(&allocate)?;
        let unique_id = self.cross_check(
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
        self.require_no_overlap(&fields)?;
        Ok(fields)
    }

    fn status(&self, deallocate: &Option<Method<'a>>) -> Result<Field, AbiError> {
        self.cross_check(
            "status",
            [
                self.accessor("is_allocated")
                    .and_then(|f| f.first_compared())
                    .map(|(evidence, _)| evidence),
                self.accessor("address")
                    .and_then(|f| f.first_compared())
                    .map(|(evidence, _)| evidence),
                deallocate
                    .as_ref()
                    .and_then(|f| f.first_compared())
                    .map(|(evidence, _)| evidence),
                self.buffer_method("mark_as_deallocated")
                    .and_then(|f| f.stored("sets it", Some(1), &Value::Constant(2), &[])),
            ],
        )
    }

    /// The status of a buffer that has no address yet: the one with which `Buffer::address()` throws.
    fn requested_status(&self, status: &Field) -> Result<u8, AbiError> {
        let accessor = self.accessor("address");
        let compared = accessor.as_ref().and_then(|f| f.first_compared());
        compared
            .filter(|(evidence, _)| evidence.path.same_place(&status.path))
            .and_then(|(_, constant)| u8::try_from(constant).ok())
            .ok_or_else(|| AbiError::Underivable {
                field: "status",
                reason: "Buffer::address() doesn't show which value means that there is no address"
                    .into(),
                code: accessor
                    .map(|f| listing::function(&f.function))
                    .unwrap_or_default(),
            })
    }

    fn address(&self, allocate: &Option<Method<'a>>) -> Result<Field, AbiError> {
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
        let mut field = self.cross_check(
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
            .evidence
            .iter()
            .map(|evidence| evidence.path.width)
            .max()
            .unwrap_or(field.path.width);
        Ok(field)
    }
}
