//! The library's file: symbols, code and relocations of an ELF file. Nothing here is specific to TT-Metal.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use object::{
    Architecture, Object as _, ObjectKind, ObjectSegment as _, ObjectSymbol as _, RelocationTarget,
    SegmentFlags, SymbolKind, elf, read::elf::ElfFile64,
};

use self_cell::self_cell;

use super::AbiError;

/// A function of the library.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function<'a> {
    /// The mangled name.
    pub symbol: &'a str,
    /// The virtual address of its first byte.
    pub address: u64,
    pub code: &'a [u8],
}

/// What a pointer in the library's data points to after the library was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pointee<'a> {
    /// A virtual address within the library.
    Address(u64),
    /// The definition to which the dynamic linker binds the symbol.
    Symbol(&'a str),
}

/// How many bytes are read of a function whose size isn't known.
const UNNAMED_LEN: u64 = 512;

/// A part of the file that is mapped.
#[derive(Clone, Copy, Debug)]
struct Segment<'a> {
    address: u64,
    file_offset: u64,
    data: &'a [u8],
}

/// A parsed library.
#[derive(Debug, Default)]
pub(crate) struct Image<'a> {
    file: &'a [u8],
    build_id: Option<String>,
    segments: Vec<Segment<'a>>,
    /// The virtual addresses that the process can write to: `.data`, `.bss`.
    writable: Vec<Range<u64>>,
    /// Address and size of each defined symbol, by name.
    symbols: BTreeMap<&'a str, (u64, u64)>,
    /// Sizes of the functions that are inline or local to a source file. They are found by address,
    /// because several local functions may have the same name.
    inlinable: HashMap<u64, u64>,
    /// Names by address; one of them, where several symbols have the same address.
    names: HashMap<u64, &'a str>,
    relocations: HashMap<u64, Pointee<'a>>,
}

self_cell!(
    /// A library's file together with its parsed contents.
    pub struct Library {
        owner: Vec<u8>,
        #[covariant]
        dependent: Image,
    }
    impl {Debug}
);

impl Library {
    /// Parses a library's file.
    ///
    /// # Errors
    /// Like [`Image::parse`].
    pub(crate) fn parse(data: Vec<u8>) -> Result<Self, AbiError> {
        Self::try_new(data, |data| Image::parse(data))
    }

    /// The parsed library.
    pub(crate) fn image(&self) -> &Image<'_> {
        self.borrow_dependent()
    }
}

impl<'a> Image<'a> {
    /// Parses the bytes of a library's file.
    ///
    /// # Errors
    /// When the bytes aren't a well-formed x86-64 ELF shared library.
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, AbiError> {
        match object::FileKind::parse(data)? {
            object::FileKind::Elf64 => {}
            other => {
                return Err(AbiError::WrongMachine {
                    found: format!("another format ({other:?})"),
                });
            }
        }
        let file: ElfFile64<'_> = ElfFile64::parse(data)?;
        if file.architecture() != Architecture::X86_64 || !file.is_little_endian() {
            return Err(AbiError::WrongMachine {
                found: format!("{:?}", file.architecture()),
            });
        }
        if file.kind() != ObjectKind::Dynamic {
            return Err(AbiError::WrongMachine {
                found: format!("{:?} rather than dynamic linking", file.kind()),
            });
        }
        let mut symbols = BTreeMap::new();
        let mut names = HashMap::new();
        let mut inlinable = HashMap::new();
        for symbol in file
            .dynamic_symbols()
            .chain(file.symbols())
            .filter(|s| s.is_definition())
        {
            let Ok(name) = symbol.name() else { continue };
            symbols
                .entry(name)
                .or_insert((symbol.address(), symbol.size()));
            if symbol.kind() == SymbolKind::Text && (symbol.is_weak() || symbol.is_local()) {
                inlinable.insert(symbol.address(), symbol.size());
            }
            if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data) {
                names.entry(symbol.address()).or_insert(name);
            }
        }
        let mut relocations = HashMap::new();
        for (address, relocation) in file.dynamic_relocations().into_iter().flatten() {
            let pointee = match (relocation.flags(), relocation.target()) {
                (
                    object::RelocationFlags::Elf {
                        r_type: elf::R_X86_64_RELATIVE,
                    },
                    _,
                ) => Pointee::Address(relocation.addend() as u64),
                (_, RelocationTarget::Symbol(index)) => {
                    let Some(table) = file.dynamic_symbol_table() else {
                        continue;
                    };
                    let name = object::ObjectSymbolTable::symbol_by_index(&table, index)
                        .and_then(|s| s.name());
                    let Ok(name) = name else { continue };
                    Pointee::Symbol(name)
                }
                _ => continue,
            };
            relocations.insert(address, pointee);
        }
        let writable = file.segments().filter_map(|segment| {
            let SegmentFlags::Elf { p_flags, .. } = segment.flags() else {
                return None;
            };
            let end = segment.address().checked_add(segment.size())?;
            (p_flags & elf::PF_W != elf::ProgramFlags(0)).then_some(segment.address()..end)
        });
        let writable = writable.collect();
        let segments = file.segments().filter_map(|segment| {
            let data = segment.data().ok()?;
            Some(Segment {
                address: segment.address(),
                file_offset: segment.file_range().0,
                data,
            })
        });
        let build_id = file.build_id().ok().flatten();
        Ok(Self {
            file: data,
            build_id: build_id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
            segments: segments.collect(),
            writable,
            symbols,
            inlinable,
            names,
            relocations,
        })
    }

    /// The bytes of the whole file.
    pub(crate) fn file(&self) -> &'a [u8] {
        self.file
    }

    /// The GNU build id, in hexadecimal.
    pub(crate) fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// The virtual address of a symbol.
    pub(crate) fn address_of(&self, symbol: &str) -> Option<u64> {
        self.symbols.get(symbol).map(|(address, _)| *address)
    }

    /// A function by its mangled name.
    pub(crate) fn function(&self, symbol: &str) -> Option<Function<'a>> {
        let (&symbol, &(address, size)) = self.symbols.get_key_value(symbol)?;
        Some(Function {
            symbol,
            address,
            code: self.bytes(address, size)?,
        })
    }

    /// The function that a call to `address` reaches, through a PLT entry or directly, if an optimiser
    /// could have inlined it: an inline function (a weak symbol, the same in all libraries) or one that is
    /// local to a source file (a local symbol).
    pub(crate) fn inlinable(&self, address: u64) -> Option<Function<'a>> {
        let (address, size) = match self.inlinable.get(&address) {
            Some(size) => (address, *size),
            None => {
                let (address, size) = *self.symbols.get(self.plt(address)?)?;
                self.inlinable
                    .contains_key(&address)
                    .then_some((address, size))?
            }
        };
        Some(Function {
            symbol: self.symbol_at(address)?,
            address,
            code: self.bytes(address, size)?,
        })
    }

    /// The functions whose mangled names begin with `prefix`, in the order of their names.
    pub(crate) fn functions_beginning(&self, prefix: &str) -> Vec<Function<'a>> {
        self.symbols
            .range(prefix..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter_map(|(name, _)| self.function(name))
            .collect()
    }

    /// The function that begins at an address. A function without a symbol (a local function in a library
    /// without `.symtab`) is assumed to have `UNNAMED_LEN` bytes: it ends where its code returns.
    pub(crate) fn function_at(&self, address: u64) -> Option<Function<'a>> {
        let named = self
            .names
            .get(&address)
            .and_then(|name| self.function(name));
        named.or_else(|| {
            let code = self.bytes(address, UNNAMED_LEN)?;
            Some(Function {
                symbol: "local-function",
                address,
                code,
            })
        })
    }

    /// The name of the function or variable that begins at an address.
    pub(crate) fn symbol_at(&self, address: u64) -> Option<&'a str> {
        self.names.get(&address).copied()
    }

    /// What the pointer at an address points to after the dynamic linker has relocated it.
    pub(crate) fn pointee(&self, address: u64) -> Option<Pointee<'a>> {
        self.relocations.get(&address).copied()
    }

    /// The name of the function that a call to `address` reaches, through a PLT entry or directly.
    pub(crate) fn callee(&self, address: u64) -> Option<&'a str> {
        self.symbol_at(address).or_else(|| self.plt(address))
    }

    /// The name of the function that the PLT entry at an address jumps to.
    fn plt(&self, address: u64) -> Option<&'a str> {
        let mut decoder =
            Decoder::with_ip(64, self.bytes(address, 16)?, address, DecoderOptions::NONE);
        let mut instruction = decoder.decode();
        if matches!(instruction.mnemonic(), Mnemonic::Endbr64) {
            instruction = decoder.decode();
        }
        if instruction.mnemonic() != Mnemonic::Jmp
            || instruction.op0_kind() != OpKind::Memory
            || !instruction.is_ip_rel_memory_operand()
        {
            return None;
        }
        match self.pointee(instruction.ip_rel_memory_address())? {
            Pointee::Symbol(name) => Some(name),
            Pointee::Address(address) => self.names.get(&address).copied(),
        }
    }

    /// The virtual address of the file's first byte.
    pub(crate) fn first_address(&self) -> u64 {
        self.segments
            .iter()
            .find(|segment| segment.file_offset == 0)
            .map_or(0, |segment| segment.address)
    }

    /// The virtual addresses of the library's variables.
    pub(crate) fn writable(&self) -> &[Range<u64>] {
        &self.writable
    }

    /// The offset in the file of the byte at a virtual address.
    pub(crate) fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            (within < segment.data.len() as u64).then_some(segment.file_offset + within)
        })
    }

    /// The library's code or data from a virtual address to the end of its segment.
    pub(crate) fn code_at(&self, address: u64) -> Option<&'a [u8]> {
        self.bytes(address, u64::from(u32::MAX))
    }

    fn bytes(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        self.segments.iter().find_map(|segment| {
            let start = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            segment
                .data
                .get(start..end.min(segment.data.len()))
                .filter(|bytes| !bytes.is_empty())
        })
    }
}

/// A library rebuilt from the text that [`excerpt`](super::excerpt()) wrote.
#[cfg(test)]
impl Image<'static> {
    pub(crate) fn from_excerpt(text: &str) -> Self {
        let mut image = Image::default();
        let number =
            |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let leaked: &'static str = line.to_owned().leak();
            match leaked.split(' ').collect::<Vec<_>>()[..] {
                ["build-id", id] => image.build_id = Some(id.into()),
                [kind @ ("function" | "inline"), symbol, address, code] => {
                    let bytes = (0..code.len())
                        .step_by(2)
                        .map(|i| u8::from_str_radix(&code[i..i + 2], 16));
                    let data: Vec<u8> = bytes.collect::<Result<_, _>>().expect("hexadecimal code");
                    let address = number(address);
                    if kind == "inline" {
                        image.inlinable.insert(address, data.len() as u64);
                    }
                    image.symbols.insert(symbol, (address, data.len() as u64));
                    image.names.insert(address, symbol);
                    image.segments.push(Segment {
                        address,
                        file_offset: address,
                        data: data.leak(),
                    });
                }
                ["name", address, symbol] => {
                    image.names.insert(number(address), symbol);
                }
                ["symbol", address, symbol] => {
                    image
                        .relocations
                        .insert(number(address), Pointee::Symbol(symbol));
                }
                ["pointer", address, to] => {
                    image
                        .relocations
                        .insert(number(address), Pointee::Address(number(to)));
                }
                ["object", symbol, address] => {
                    image.symbols.insert(symbol, (number(address), 0));
                }
                _ => panic!("not a line of an excerpt: {line}"),
            }
        }
        image
    }
}

#[cfg(test)]
impl Library {
    /// A library put together from an excerpt.
    pub(crate) fn from_excerpt(text: &str) -> Self {
        Self::new(Vec::new(), |_| Image::from_excerpt(text))
    }
}
