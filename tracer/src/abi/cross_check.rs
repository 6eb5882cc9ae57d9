//! Cross-checks the evidence for fields.

use super::{
    AbiError,
    deriver::Deriver,
    field::{Evidence, Field, FieldPath},
    fields::Fields,
    listing, names,
};

impl Deriver<'_> {
    /// Checks that no two fields of a buffer overlap.
    ///
    /// # Errors
    /// When two do.
    pub(super) fn require_no_overlap(&self, fields: &Fields) -> Result<(), AbiError> {
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
                    evidence: first
                        .evidence
                        .iter()
                        .chain(&second.evidence)
                        .cloned()
                        .collect(),
                    code: "(two fields can't overlap)".into(),
                });
            }
        }
        Ok(())
    }

    /// The field that all evidence agrees on, debug information included.
    ///
    /// # Errors
    /// When there is no evidence, or when it disagrees.
    pub(super) fn cross_check<const N: usize>(
        &self,
        field: &'static str,
        evidence: [Option<Evidence>; N],
    ) -> Result<Field, AbiError> {
        self.cross_check_with(field, evidence, &|| self.listing_for(field))
    }

    /// Like [`Self::cross_check`], with the code to show in an error.
    pub(super) fn cross_check_with<const N: usize>(
        &self,
        field: &'static str,
        evidence: [Option<Evidence>; N],
        code: &dyn Fn() -> String,
    ) -> Result<Field, AbiError> {
        let mut evidence: Vec<Evidence> = evidence.into_iter().flatten().collect();
        let Some(first) = evidence.first().cloned() else {
            return Err(AbiError::Underivable {
                field,
                reason: "no function of the library shows where it lies".into(),
                code: code(),
            });
        };
        evidence.extend(self.debug_information(field, &first.path));
        if evidence
            .iter()
            .any(|other| !other.path.same_place(&first.path))
        {
            return Err(AbiError::Contradiction {
                field,
                code: code(),
                evidence,
            });
        }
        Ok(Field {
            path: first.path,
            evidence,
        })
    }

    /// The code to show when a field can't be derived: the functions that should give the evidence.
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
            .map(|function| listing::function(&function))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Evidence from the library's debug information for a field that its functions place at `path`.
    fn debug_information(&self, field: &str, path: &FieldPath) -> Option<Evidence> {
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
                let mut offsets = pointers
                    .iter()
                    .filter_map(|name| self.members.offset(outer, name));
                (inner, vec![offsets.next().unwrap_or(via)])
            }
            _ => return None,
        };
        Some(Evidence {
            source: format!("debug information ({class}::{member})"),
            path: FieldPath {
                derefs,
                offset: self.members.offset(class, member)?,
                width: path.width,
            },
        })
    }
}

/// The name that a field has as a member of its class (`tt_metal/impl/buffers/buffer.hpp`,
/// `device_impl.hpp`, `mesh_device_impl.hpp`). A release that uses another name has one piece of
/// evidence less.
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
