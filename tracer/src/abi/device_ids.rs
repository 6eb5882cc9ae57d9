//! Derives where devices' ids lie, through the vtables of their classes.

use super::{
    AbiError,
    deriver::Deriver,
    field::{Evidence, Field},
    image::{Function, Pointee},
    interpreter::{Action, Callee},
    listing,
    method::{Method, this},
    names,
};

impl<'a> Deriver<'a> {
    /// `Device::id()`.
    pub(super) fn chip_id(&self) -> Result<Field, AbiError> {
        let mesh = self.required("distributed::MeshDevice", "id")?;
        let slot = self.vtable_slot("distributed::MeshDevice", &mesh.function)?;
        let function = self.in_vtable("Device", slot)?;
        let by_slot = self.interpret(function, Vec::new());
        // A local symbol: only a library with .symtab has it.
        let by_name = self.method("Device", "id");
        let function = by_slot.function;
        self.cross_check_with(
            "chip_id",
            [
                from_slot(by_slot.returned(), slot),
                by_name.and_then(|f| f.returned()),
            ],
            &|| listing::function(&function),
        )
    }

    /// `MeshDevice::id()`.
    pub(super) fn mesh_id(&self) -> Result<Field, AbiError> {
        let outer = self.required("distributed::MeshDevice", "id")?;
        if let Some(evidence) = outer.returned() {
            return self.cross_check("mesh_id", [Some(evidence)]);
        }
        // `MeshDevice` forwards to an implementation behind a pointer.
        let underivable = |reason: &str| AbiError::Underivable {
            field: "mesh_id",
            reason: reason.into(),
            code: listing::function(&outer.function),
        };
        let forwarded = outer
            .analysis
            .observations()
            .iter()
            .find_map(|observation| match &observation.what {
                Action::Call {
                    callee: Callee::Virtual { object, slot },
                    ..
                } => Some((object.loaded_from()?.clone(), Some(*slot), None)),
                Action::Call {
                    callee: Callee::Named(name),
                    arguments,
                } => Some((
                    arguments[0].loaded_from()?.clone(),
                    None,
                    Some(name.clone()),
                )),
                _ => None,
            });
        let (object, slot, name) = forwarded.ok_or_else(|| {
            underivable("MeshDevice::id() neither returns a field nor forwards the call")
        })?;
        let implementation = object.path_from(&this()).ok_or_else(|| {
            underivable("MeshDevice::id() forwards the call to an object that it doesn't point to")
        })?;
        let class = "distributed::MeshDeviceImpl";
        let by_slot = match slot {
            Some(slot) => Some(self.in_vtable(class, slot)?),
            None => name.and_then(|name| self.image.function(&name)),
        };
        let prefix = implementation.followed();
        self.cross_check_with(
            "mesh_id",
            [
                by_slot.and_then(|function| {
                    from_slot(
                        self.interpret(function, prefix.clone()).returned(),
                        slot.unwrap_or_default(),
                    )
                }),
                self.method(class, "id")
                    .and_then(|f| Method { prefix, ..f }.returned()),
            ],
            &|| listing::function(&by_slot.unwrap_or(outer.function)),
        )
    }

    /// The slot of a class's vtable that holds a function, as an offset from the address that an
    /// object's vtable pointer has.
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
                code: listing::function(function),
            })
    }

    /// The function in a slot of a class's vtable.
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

    /// The vtable pointer of the objects of a class, as a virtual address of the library.
    ///
    /// # Errors
    /// When the library has no such vtable.
    pub(super) fn vtable(&self, class: &str) -> Result<u64, AbiError> {
        let symbol = names::vtable(class);
        // It points behind the offset to the top and the type information (Itanium C++ ABI).
        self.image
            .address_of(&symbol)
            .map(|address| address + 16)
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec![format!("vtable for tt::tt_metal::{class}")],
            })
    }

    fn function_pointer(&self, address: u64) -> Option<Function<'a>> {
        match self.image.pointee(address)? {
            Pointee::Address(address) => self.image.function_at(address),
            Pointee::Symbol(name) => self.image.function(name),
        }
    }
}

/// Evidence from a function that was found through a slot of its class's vtable.
fn from_slot(evidence: Option<Evidence>, slot: i64) -> Option<Evidence> {
    evidence.map(|evidence| Evidence {
        source: format!("vtable slot {slot:#x}: {}", evidence.source),
        ..evidence
    })
}
