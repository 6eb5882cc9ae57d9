//! Symbolic values: the content of a register or a stack slot in terms of the function's arguments.

use std::{fmt, rc::Rc};

use crate::abi::field::FieldPath;

/// A general register, by its number in machine code (`tracer_common::register`).
pub(crate) type RegisterNumber = u32;

/// Where a symbolic value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The value of the register at the function's entry.
    Argument(RegisterNumber),
    /// The argument passed on the stack at this offset from the stack pointer at entry (8 is the
    /// first, behind the return address).
    StackArgument(i64),
    /// The stack pointer at entry.
    Stack,
    /// The result of the call at this address.
    Result(u64),
    /// The address of the variable of this name.
    Symbol(String),
    /// The value that the variable of this name had before an atomic addition.
    Counter(String),
    /// A value that was read from memory.
    Loaded(Rc<MemoryLocation>),
}

/// Memory that was read: `width` bytes at `base + offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLocation {
    pub base: Base,
    pub offset: i64,
    pub width: u8,
}

/// The content of a register or a stack slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Unknown,
    Constant(i64),
    Symbolic { base: Base, offset: i64 },
}

impl Value {
    pub(crate) fn symbolic(base: Base) -> Self {
        Self::Symbolic { base, offset: 0 }
    }

    pub(crate) fn argument(register: RegisterNumber) -> Self {
        Self::symbolic(Base::Argument(register))
    }

    /// This value plus a constant.
    pub(crate) fn plus(&self, addend: i64) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Constant(value) => Self::Constant(value.wrapping_add(addend)),
            Self::Symbolic { base, offset } => Self::Symbolic {
                base: base.clone(),
                offset: offset.wrapping_add(addend),
            },
        }
    }

    /// What is known if either of two paths may have led here.
    pub(crate) fn join(&self, other: &Self) -> Self {
        if self == other {
            self.clone()
        } else {
            Self::Unknown
        }
    }

    /// The memory that this value was read from. `None` if it wasn't read from memory, or if something
    /// was added to it.
    pub(crate) fn loaded_from(&self) -> Option<&MemoryLocation> {
        match self {
            Self::Symbolic {
                base: Base::Loaded(location),
                offset: 0,
            } => Some(location),
            _ => None,
        }
    }
}

impl MemoryLocation {
    /// The path to this memory from the object that `root` points to, if only pointers lead there.
    pub(crate) fn path_from(&self, root: &Base) -> Option<FieldPath> {
        if self.base == *root {
            return Some(FieldPath {
                derefs: Vec::new(),
                offset: self.offset,
                width: self.width,
            });
        }
        let Base::Loaded(pointer) = &self.base else {
            return None;
        };
        if pointer.width != 8 {
            return None;
        }
        let mut path = pointer.path_from(root)?;
        path.derefs.push(path.offset);
        path.offset = self.offset;
        path.width = self.width;
        Some(path)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(register) => write!(f, "arg{register}"),
            Self::StackArgument(offset) => write!(f, "stack-arg{offset:#x}"),
            Self::Stack => f.write_str("stack"),
            Self::Result(call) => write!(f, "result@{call:x}"),
            Self::Symbol(name) => write!(f, "&{name}"),
            Self::Counter(name) => write!(f, "counter {name}"),
            Self::Loaded(from) => write!(f, "[{}{:+#x}]{}", from.base, from.offset, from.width),
        }
    }
}
