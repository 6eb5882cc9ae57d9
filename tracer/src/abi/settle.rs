//! Whether witnesses agree.

use super::{
    AbiError,
    derive::Deriver,
    field::{Field, FieldPath, Witness},
    fields::Fields,
    listing, names,
};

impl Deriver<'_> {
    /// No two fields may lie in the same place.
    pub(super) fn all_apart(&self, fields: &Fields) -> Result<(), AbiError> {
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
    pub(super) fn settle<const N: usize>(
        &self,
        field: &'static str,
        witnesses: [Option<Witness>; N],
    ) -> Result<Field, AbiError> {
        self.settle_with(field, witnesses, &|| self.listing_for(field))
    }

    /// The same, with the code to show if they don't.
    pub(super) fn settle_with<const N: usize>(
        &self,
        field: &'static str,
        witnesses: [Option<Witness>; N],
        code: &dyn Fn() -> String,
    ) -> Result<Field, AbiError> {
        let witnesses: Vec<Witness> = witnesses.into_iter().flatten().collect();
        let Some(first) = witnesses.first().cloned() else {
            return Err(AbiError::Underivable {
                field,
                reason: "no function of the library tells where it lies".into(),
                code: code(),
            });
        };
        let told = self.debug_information(field, &first.path);
        let witnesses: Vec<Witness> = witnesses.into_iter().chain(told).collect();
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
            path: first.path,
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

    /// What the library's debug information says of a field that its functions found at `path`.
    fn debug_information(&self, field: &str, path: &FieldPath) -> Option<Witness> {
        let (outer, inner) = match field {
            "chip_id" => ("Device", ""),
            "mesh_id" => ("distributed::MeshDevice", "distributed::MeshDeviceImpl"),
            _ => ("Buffer", "BufferImpl"),
        };
        let member = member(field)?;
        let (class, derefs) = match path.derefs[..] {
            [] => (outer, Vec::new()),
            [via] => {
                let pointers = ["impl_", "pimpl_"];
                let mut told = pointers
                    .iter()
                    .filter_map(|name| self.members.offset(outer, name));
                (inner, vec![told.next().unwrap_or(via)])
            }
            _ => return None,
        };
        Some(Witness {
            source: format!("debug information ({class}::{member})"),
            path: FieldPath {
                derefs,
                offset: self.members.offset(class, member)?,
                width: path.width,
            },
        })
    }
}

/// What the member of a class is called that is a field (`tt_metal/impl/buffers/buffer.hpp`,
/// `device_impl.hpp`, `mesh_device_impl.hpp`). A release that calls it otherwise has one witness
/// less.
fn member(field: &str) -> Option<&'static str> {
    Some(match field {
        "device" => "device_",
        "size" => "size_",
        "page_size" => "page_size_",
        "buffer_type" => "buffer_type_",
        "layout" => "buffer_layout_",
        "owns_data" => "owns_data_",
        "allocator" => "allocator_",
        "status" => "allocation_status_",
        "hooked" => "hooked_allocation_",
        "address" => "address_",
        "unique_id" => "unique_id_",
        "chip_id" => "id_",
        "mesh_id" => "mesh_id_",
        _ => return None,
    })
}
