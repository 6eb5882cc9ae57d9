//! The addresses of the interpreter's data, from the symbols of its ELF file.

use std::collections::HashMap;

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, read::elf::ElfFile64};

use super::PythonError;

/// Addresses, in the process, of an interpreter's exported data. The file may be a `libpython3.x.so`, or an
/// executable that contains the interpreter, position-independent or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterpreterSymbols {
    /// `_PyRuntime` (3.7 and newer).
    pub(super) runtime: u64,
    /// `Py_Version` (3.11 and newer): a constant, `PY_VERSION_HEX`.
    pub(super) version: Option<u64>,
    /// Whether the file has `Py_NewRef` (3.10 and newer, `Include/object.h`). A file that has it and has no
    /// `Py_Version` is CPython 3.10.
    pub(super) is_3_10_or_newer: bool,
    pub(super) code_type: u64,
    pub(super) frame_type: u64,
    pub(super) text_type: u64,
    pub(super) bytes_type: u64,
}

impl InterpreterSymbols {
    /// Reads `.dynsym` of an ELF file whose first byte is mapped at `mapped_at` in the process.
    ///
    /// # Errors
    /// When it isn't an ELF file, or contains no interpreter.
    pub(crate) fn read(file: &[u8], mapped_at: u64) -> Result<Self, PythonError> {
        let file: ElfFile64<'_> = ElfFile64::parse(file)?;
        let first_address = file
            .segments()
            .find(|segment| segment.file_range().0 == 0)
            .map_or(0, |segment| segment.address());
        let bias = mapped_at.wrapping_sub(first_address);
        let addresses: HashMap<&str, u64> = file
            .dynamic_symbols()
            .filter(|symbol| symbol.is_definition())
            .filter_map(|symbol| Some((symbol.name().ok()?, symbol.address())))
            .collect();
        let find = |symbol| {
            let address: Option<&u64> = addresses.get(symbol);
            address.map(|address| address.wrapping_add(bias))
        };
        let need = |symbol| find(symbol).ok_or(PythonError::NotCPython { symbol });
        Ok(Self {
            runtime: need("_PyRuntime")?,
            version: find("Py_Version"),
            is_3_10_or_newer: find("Py_NewRef").is_some(),
            code_type: need("PyCode_Type")?,
            frame_type: need("PyFrame_Type")?,
            text_type: need("PyUnicode_Type")?,
            bytes_type: need("PyBytes_Type")?,
        })
    }
}
