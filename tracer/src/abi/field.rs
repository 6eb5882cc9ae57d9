//! Field paths: where a value lies, told as reads from an object's address.

use std::fmt;

/// The way from an object's address to a field: follow the pointers at `derefs` in turn, then read
/// `width` bytes at `offset`. Offsets in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldPath {
    pub derefs: Vec<i64>,
    pub offset: i64,
    /// 1, 2, 4 or 8.
    pub width: u8,
}

impl FieldPath {
    /// Whether both lead to the same byte, whatever their widths.
    pub fn same_place(&self, other: &Self) -> bool {
        self.derefs == other.derefs && self.offset == other.offset
    }

    /// This path, begun one object earlier: `prefix` leads to the object that this one starts from.
    pub fn within(&self, prefix: &[i64]) -> Self {
        let mut derefs = prefix.to_vec();
        derefs.extend(&self.derefs);
        Self { derefs, ..*self }
    }

    /// The derefs of a path that starts where this field points to.
    pub fn followed(&self) -> Vec<i64> {
        let mut derefs = self.derefs.clone();
        derefs.push(self.offset);
        derefs
    }

    /// As text, from an object called `root`: `[[buffer+0x10]+0x8]`.
    pub fn text(&self, root: &str) -> String {
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

/// One function's word on where a field lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The function, demangled and without parameters, and what in it: `Buffer::size(): returns`.
    pub source: String,
    pub path: FieldPath,
}

/// A field, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub path: FieldPath,
    /// One at least; all agree on the place.
    pub witnesses: Vec<Witness>,
}
