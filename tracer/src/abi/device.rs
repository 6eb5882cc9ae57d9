//! Where devices' ids lie: through the vtables of their classes.

use super::{
    AbiError,
    derive::Deriver,
    field::{Field, Witness},
    image::{Function, Pointee},
    interpreter::{Action, Callee},
    listing, names,
    witness::{Testimony, this},
};

impl<'a> Deriver<'a> {
    pub(super) fn chip_id(&self) -> Result<Field, AbiError> {
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

    pub(super) fn mesh_id(&self) -> Result<Field, AbiError> {
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
            Pointee::Address(address) => self.image.function_at(address),
            Pointee::Symbol(name) => self.image.function(name),
        }
    }
}

/// A witness that was found through a slot of its class's vtable.
fn in_vtable(witness: Option<Witness>, slot: i64) -> Option<Witness> {
    witness.map(|witness| Witness {
        source: format!("vtable slot {slot:#x}: {}", witness.source),
        ..witness
    })
}
