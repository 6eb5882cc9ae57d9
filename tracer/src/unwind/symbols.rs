//! Names of functions.

use object::{Object as _, ObjectSymbol as _, ReadRef, SymbolKind};

use super::NotElf;
use crate::cpp_name::nested_name;

/// The functions of an ELF file, by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols(Vec<Symbol>);

#[derive(Debug)]
struct Symbol {
    address: u64,
    size: u64,
    name: String,
}

impl Symbols {
    /// Reads the functions that a file defines.
    ///
    /// # Errors
    /// When it isn't an ELF file.
    pub(crate) fn read<'d>(data: impl ReadRef<'d>) -> Result<Self, NotElf> {
        let file = object::File::parse(data)?;
        let mut symbols: Vec<Symbol> = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text)
            .filter_map(|symbol| {
                Some(Symbol {
                    address: symbol.address(),
                    size: symbol.size(),
                    name: symbol.name().ok()?.to_owned(),
                })
            })
            .collect();
        // Of several names of one address the first in the alphabet, so that each run shows the same one.
        symbols.sort_by(|a, b| (b.address, &a.name).cmp(&(a.address, &b.name)));
        symbols.dedup_by_key(|symbol| symbol.address);
        symbols.reverse();
        Ok(Self(symbols))
    }

    /// The mangled name of the function that covers an address; `None` if no function does.
    pub(crate) fn name(&self, address: u64) -> Option<&str> {
        let next = self.0.partition_point(|symbol| symbol.address <= address);
        let symbol = self.0.get(next.checked_sub(1)?)?;
        (address - symbol.address < symbol.size).then_some(symbol.name.as_str())
    }

    /// The demangled form of a name. Where `cpp_demangle` can't read it, as of constrained templates, the
    /// nested name without arguments.
    pub(crate) fn demangled(name: &str) -> String {
        let symbol = cpp_demangle::Symbol::new(name).ok();
        symbol
            .and_then(|symbol| symbol.demangle().ok())
            .or_else(|| nested_name(name))
            .unwrap_or_else(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled() {
        for (name, demangled) in [
            (
                "_ZNK2tt8tt_metal6Buffer7addressEv",
                "tt::tt_metal::Buffer::address() const",
            ),
            ("main", "main"),
            // A constrained template (`Tk`) of ttnn's `_ttnncpp.so`.
            (
                "_ZN4ttnn16device_operation6detail6launchITkNS0_22DeviceOperationConceptENS_4prim19CopyDevice\
                 OperationEEENT_21tensor_return_value_tERKNS5_22operation_attributes_tERKNS5_13tensor_args_tE",
                "ttnn::device_operation::detail::launch<…>",
            ),
            ("_ZThn16_N2tt", "_ZThn16_N2tt"),
        ] {
            assert_eq!(Symbols::demangled(name), demangled);
        }
    }
}
