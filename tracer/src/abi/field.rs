//! Field paths: where a value lies, as reads from an object's address.

use std::fmt;

/// The path from an object's address to a field: follow the pointers at `derefs` in turn, then read
/// `width` bytes at `offset`. Offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FieldPath {
    pub derefs: Vec<i64>,
    pub offset: i64,
    /// 1, 2, 4 or 8.
    pub width: u8,
}

impl FieldPath {
    /// A field in the object itself.
    pub(crate) fn direct(offset: i64, width: u8) -> Self {
        Self {
            derefs: Vec::new(),
            offset,
            width,
        }
    }

    /// Whether both paths lead to the same byte, whatever their widths.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        self.derefs == other.derefs && self.offset == other.offset
    }

    /// This path from an outer object, from which following the pointers at `prefix` leads to the
    /// object that this path starts at.
    pub(crate) fn within(&self, prefix: &[i64]) -> Self {
        let mut derefs = prefix.to_vec();
        derefs.extend(&self.derefs);
        Self { derefs, ..*self }
    }

    /// The `derefs` of a path that starts at the object this field points to.
    pub(crate) fn followed(&self) -> Vec<i64> {
        let mut derefs = self.derefs.clone();
        derefs.push(self.offset);
        derefs
    }

    /// The path as text, from an object called `root`: `[[buffer+0x10]+0x8]`.
    pub(crate) fn text(&self, root: &str) -> String {
        let mut text = root.to_owned();
        for offset in self.derefs.iter().chain([&self.offset]) {
            text = if *offset < 0 {
                format!("[{text}-{:#x}]", offset.unsigned_abs())
            } else {
                format!("[{text}+{offset:#x}]")
            };
        }
        text
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text("buffer"))
    }
}

/// Where a field lies according to one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The function, demangled and without parameters, and what it does with the field:
    /// `Buffer::size (returns it)`.
    pub source: String,
    pub path: FieldPath,
}

/// A field with the evidence for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub path: FieldPath,
    /// At least one piece; all agree on the place.
    pub evidence: Vec<Evidence>,
}
