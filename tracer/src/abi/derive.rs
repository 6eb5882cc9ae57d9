//! Where each field of a buffer lies, by the word of the library's own functions.
//!
//! Releases differ in layout, in whether the fields stand in `Buffer` itself or in a `BufferImpl`
//! behind a pointer, and in which accessors are out of line. No release is known here: each field
//! has a list of functions that could tell, those that the library has are asked, and all that
//! answer must agree.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use super::{
    AbiError,
    field::{Field, FieldPath, Witness},
    image::{Function, Image},
    interpreter::{Action, Analysis, Callee},
    listing, names,
    value::{Base, Place, Value},
    witness::{Testimony, this, this_after_result},
};

/// The class that owns memory, in newer and older releases.
pub const ALLOCATORS: [&str; 2] = ["AllocatorImpl", "Allocator"];

/// Where everything lies that a record needs. Paths start at a `Buffer`'s address unless a comment
/// says otherwise.
#[derive(Clone, Debug)]
pub struct Fields {
    pub device: Field,
    pub size: Field,
    pub page_size: Field,
    pub buffer_type: Field,
    pub layout: Field,
    pub owns_data: Field,
    pub allocator: Field,
    pub status: Field,
    pub hooked: Field,
    pub address: Field,
    pub unique_id: Option<Field>,
    /// From a `Device`'s address: `Device::id()`.
    pub chip_id: Field,
    /// From a `MeshDevice`'s address: `MeshDevice::id()`.
    pub mesh_id: Field,
    /// The value of `status` before an address was given.
    pub requested: u8,
}

impl Fields {
    /// Every field by name, with what its path starts from.
    pub fn all(&self) -> Vec<(&'static str, &'static str, &Field)> {
        let mut all = vec![
            ("device", "buffer", &self.device),
            ("size", "buffer", &self.size),
            ("page_size", "buffer", &self.page_size),
            ("buffer_type", "buffer", &self.buffer_type),
            ("layout", "buffer", &self.layout),
            ("owns_data", "buffer", &self.owns_data),
            ("allocator", "buffer", &self.allocator),
            ("status", "buffer", &self.status),
            ("hooked", "buffer", &self.hooked),
            ("address", "buffer", &self.address),
        ];
        all.extend(
            self.unique_id
                .as_ref()
                .map(|field| ("unique_id", "buffer", field)),
        );
        all.push(("chip_id", "device", &self.chip_id));
        all.push(("mesh_id", "mesh_device", &self.mesh_id));
        all
    }
}

/// Asks the functions of one library.
pub struct Deriver<'a> {
    pub image: &'a Image<'a>,
    analyses: RefCell<HashMap<u64, Rc<Analysis>>>,
    /// The way from a `Buffer` to its `BufferImpl`; empty where the fields stand in `Buffer`.
    prefix: Vec<i64>,
}

impl<'a> Deriver<'a> {
    /// Finds out where the fields stand.
    ///
    /// # Errors
    /// When `Buffer::page_size()`, which every release has out of line, doesn't tell.
    pub fn new(image: &'a Image<'a>) -> Result<Self, AbiError> {
        let mut deriver = Self {
            image,
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

    fn chip_id(&self) -> Result<Field, AbiError> {
        let mesh = self.required("distributed::MeshDevice", "id")?;
        let slot = self.vtable_slot("distributed::MeshDevice", &mesh.function)?;
        let function = self.in_vtable("Device", slot)?;
        let by_slot = self.testimony(function, Vec::new());
        // A local symbol, there only in a library with .symtab.
        let by_name = self.method("Device", "id");
        let function = by_slot.function;
        self.settle_with(
            "chip_id",
            [
                in_vtable(by_slot.returned(), slot),
                by_name.and_then(|f| f.returned()),
            ],
            &|| listing::of(&function),
        )
    }

    fn mesh_id(&self) -> Result<Field, AbiError> {
        let outer = self.required("distributed::MeshDevice", "id")?;
        if let Some(witness) = outer.returned() {
            return self.settle("mesh_id", [Some(witness)]);
        }
        // `MeshDevice` forwards to an implementation behind a pointer.
        let underivable = |reason: &str| AbiError::Underivable {
            field: "mesh_id",
            reason: reason.into(),
            code: listing::of(&outer.function),
        };
        let forwarded = outer
            .analysis
            .observations()
            .iter()
            .find_map(|observation| match &observation.what {
                Action::Call {
                    callee: Callee::Virtual { object, slot },
                    ..
                } => Some((object.place()?.clone(), Some(*slot), None)),
                Action::Call {
                    callee: Callee::Named(name),
                    arguments,
                } => Some((arguments[0].place()?.clone(), None, Some(name.clone()))),
                _ => None,
            });
        let (place, slot, name) = forwarded
            .ok_or_else(|| underivable("MeshDevice::id() neither returns nor forwards"))?;
        let implementation = place
            .path_from(&this())
            .ok_or_else(|| underivable("MeshDevice::id() forwards from elsewhere"))?;
        let class = "distributed::MeshDeviceImpl";
        let by_slot = match slot {
            Some(slot) => Some(self.in_vtable(class, slot)?),
            None => name.and_then(|name| self.image.function(&name)),
        };
        let prefix = implementation.followed();
        self.settle_with(
            "mesh_id",
            [
                by_slot.and_then(|function| {
                    in_vtable(
                        self.testimony(function, prefix.clone()).returned(),
                        slot.unwrap_or_default(),
                    )
                }),
                self.method(class, "id")
                    .and_then(|f| Testimony { prefix, ..f }.returned()),
            ],
            &|| listing::of(&by_slot.unwrap_or(outer.function)),
        )
    }

    /// Which slot of a class's vtable holds a function: the offset from where an object's vtable
    /// pointer points to.
    fn vtable_slot(&self, class: &str, function: &Function<'_>) -> Result<i64, AbiError> {
        let start = self.vtable(class)?;
        (0..64)
            .map(|i| i * 8)
            .find(|slot| {
                self.function_pointer(start + slot)
                    .is_some_and(|f| f.address == function.address)
            })
            .map(|slot| slot as i64)
            .ok_or_else(|| AbiError::Underivable {
                field: "chip_id",
                reason: format!(
                    "{} isn't in its class's vtable",
                    names::short(function.symbol)
                ),
                code: listing::of(function),
            })
    }

    fn in_vtable(&self, class: &str, slot: i64) -> Result<Function<'a>, AbiError> {
        self.function_pointer(self.vtable(class)?.wrapping_add_signed(slot))
            .ok_or_else(|| AbiError::Underivable {
                field: "chip_id",
                reason: format!(
                    "the vtable of {class} has no function of the library at {slot:#x}"
                ),
                code: String::new(),
            })
    }

    /// Where an object of a class points to, as a virtual address of the library.
    pub fn vtable(&self, class: &str) -> Result<u64, AbiError> {
        let symbol = names::vtable(class);
        // Behind the offset to the top and the type information (Itanium C++ ABI).
        self.image
            .address_of(&symbol)
            .map(|address| address + 16)
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![format!("vtable for tt::tt_metal::{class}")],
            })
    }

    fn function_pointer(&self, address: u64) -> Option<Function<'a>> {
        match self.image.pointee(address)? {
            super::image::Pointee::Address(address) => self.image.function_at(address),
            super::image::Pointee::Symbol(name) => self.image.function(name),
        }
    }

    /// No two fields may lie in the same place.
    fn all_apart(&self, fields: &Fields) -> Result<(), AbiError> {
        let mut buffer_fields: Vec<_> = fields
            .all()
            .into_iter()
            .filter(|(_, root, _)| *root == "buffer")
            .collect();
        buffer_fields.sort_by_key(|(_, _, field)| (field.path.derefs.clone(), field.path.offset));
        for pair in buffer_fields.windows(2) {
            let [(_, _, first), (name, _, second)] = pair else {
                continue;
            };
            let end = first.path.offset + i64::from(first.path.width);
            if first.path.derefs == second.path.derefs && end > second.path.offset {
                return Err(AbiError::Contradiction {
                    field: name,
                    witnesses: first
                        .witnesses
                        .iter()
                        .chain(&second.witnesses)
                        .cloned()
                        .collect(),
                    code: "(two fields can't overlap)".into(),
                });
            }
        }
        Ok(())
    }

    /// The field that all witnesses agree on.
    fn settle<const N: usize>(
        &self,
        field: &'static str,
        witnesses: [Option<Witness>; N],
    ) -> Result<Field, AbiError> {
        self.settle_with(field, witnesses, &|| self.listing_for(field))
    }

    /// The same, with the code to show if they don't.
    fn settle_with<const N: usize>(
        &self,
        field: &'static str,
        witnesses: [Option<Witness>; N],
        code: &dyn Fn() -> String,
    ) -> Result<Field, AbiError> {
        let witnesses: Vec<Witness> = witnesses.into_iter().flatten().collect();
        let Some(first) = witnesses.first() else {
            return Err(AbiError::Underivable {
                field,
                reason: "no function of the library tells where it lies".into(),
                code: code(),
            });
        };
        if witnesses
            .iter()
            .any(|witness| !witness.path.same_place(&first.path))
        {
            return Err(AbiError::Contradiction {
                field,
                code: code(),
                witnesses,
            });
        }
        Ok(Field {
            path: first.path.clone(),
            witnesses,
        })
    }

    /// The code that a person would want to see when a field can't be derived.
    fn listing_for(&self, field: &str) -> String {
        let candidates: &[&str] = match field {
            "device" => &["device", "deallocate_impl"],
            "size" => &["size", "is_valid_region"],
            "page_size" => &["page_size"],
            "buffer_type" => &["buffer_type", "is_dram", "is_l1"],
            "layout" => &["buffer_layout", "shard_spec"],
            "owns_data" => &["deallocate"],
            "status" => &["is_allocated", "address", "mark_as_deallocated"],
            "address" => &["address", "allocate_impl"],
            "allocator" | "hooked" => &["allocate_impl", "deallocate_impl"],
            "unique_id" => &["unique_id"],
            _ => &[],
        };
        candidates
            .iter()
            .flat_map(|name| {
                ["BufferImpl", "Buffer"].map(|class| names::methods(self.image, class, name))
            })
            .flatten()
            .map(|function| listing::of(&function))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn testimony(&self, function: Function<'a>, prefix: Vec<i64>) -> Testimony<'a> {
        let analysis = Rc::clone(
            self.analyses
                .borrow_mut()
                .entry(function.address)
                .or_insert_with(|| Rc::new(Analysis::of(self.image, &function))),
        );
        Testimony {
            function,
            analysis,
            this: this(),
            prefix,
        }
    }

    /// A member function that isn't overloaded.
    pub fn method(&self, class: &str, name: &str) -> Option<Testimony<'a>> {
        let function = names::methods(self.image, class, name).into_iter().next()?;
        Some(self.testimony(function, Vec::new()))
    }

    fn required(&self, class: &str, name: &str) -> Result<Testimony<'a>, AbiError> {
        self.method(class, name)
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![format!("tt::tt_metal::{class}::{name}()")],
            })
    }

    /// A member function of `Buffer`.
    fn accessor(&self, name: &str) -> Option<Testimony<'a>> {
        self.method("Buffer", name)
    }

    /// A member function of the class that holds the fields, or of `Buffer`.
    fn holder(&self, name: &str) -> Option<Testimony<'a>> {
        match self.method("BufferImpl", name) {
            Some(testimony) => Some(Testimony {
                prefix: self.prefix.clone(),
                ..testimony
            }),
            None => self.accessor(name),
        }
    }

    fn constructor(&self) -> Result<Testimony<'a>, AbiError> {
        if let Some(function) = names::device_constructor(self.image, "BufferImpl") {
            return Ok(self.testimony(function, self.prefix.clone()));
        }
        names::device_constructor(self.image, "Buffer")
            .map(|function| self.testimony(function, Vec::new()))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::Buffer::Buffer(IDevice*, …)".into()],
            })
    }

    /// The overload of `create` that makes a non-owning buffer: the one with an address, so with
    /// three numbers behind the device.
    ///
    /// # Errors
    /// When the library has none.
    pub fn create(&self) -> Result<Testimony<'a>, AbiError> {
        ["BufferImpl", "Buffer"]
            .iter()
            .flat_map(|class| names::methods(self.image, class, "create"))
            .find(|function| {
                let parameters = names::parameters(function.symbol);
                parameters
                    .first()
                    .is_some_and(|kind| kind.ends_with("IDevice*"))
                    && parameters
                        .iter()
                        .skip(1)
                        .take_while(|kind| *kind == "unsigned long")
                        .count()
                        == 3
            })
            .map(|function| self.testimony(function, Vec::new()))
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![
                    "tt::tt_metal::Buffer::create(IDevice*, address, size, page_size, …)".into(),
                ],
            })
    }

    /// A member function of the allocator, under whichever name the release has it.
    pub fn allocator_method(&self, name: &str) -> Option<Testimony<'a>> {
        ALLOCATORS.iter().find_map(|class| self.method(class, name))
    }

    /// `Buffer::~Buffer()`.
    pub fn destructor(&self) -> Option<Testimony<'a>> {
        names::destructor(self.image, "Buffer").map(|function| self.testimony(function, Vec::new()))
    }
}

impl Testimony<'_> {
    /// The same function, with its result returned through a hidden first argument.
    fn after_result(self) -> Self {
        Self {
            this: this_after_result(),
            ..self
        }
    }

    /// Where a `create` that returns a `shared_ptr<Buffer>` through a hidden pointer stores its
    /// address argument: the path from the `Buffer`.
    fn through_result(&self) -> Option<Witness> {
        let address = names::argument(2);
        self.analysis
            .observations()
            .iter()
            .find_map(|observation| match &observation.what {
                Action::Store {
                    to: Some(base),
                    offset,
                    width: 8,
                    value,
                } if *value == address => {
                    let path = Place {
                        base: base.clone(),
                        offset: *offset,
                        width: 8,
                    }
                    .path_from(&this())?;
                    // The first step is from the `shared_ptr` to the `Buffer`.
                    let (0, derefs) = path
                        .derefs
                        .split_first()
                        .map(|(first, rest)| (*first, rest.to_vec()))?
                    else {
                        return None;
                    };
                    Some(Witness {
                        source: format!(
                            "{} (sets it to its address)",
                            names::short(self.function.symbol)
                        ),
                        path: FieldPath { derefs, ..path },
                    })
                }
                _ => None,
            })
    }
}

/// A witness that was found through a slot of its class's vtable.
fn in_vtable(witness: Option<Witness>, slot: i64) -> Option<Witness> {
    witness.map(|witness| Witness {
        source: format!("vtable slot {slot:#x}: {}", witness.source),
        ..witness
    })
}

/// What the register of a function's hidden result held at its entry.
pub fn hidden_result() -> Value {
    Value::symbolic(Base::Argument(tracer_common::register::RDI))
}
