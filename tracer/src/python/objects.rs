//! Python objects in the memory of a process: text, bytes.

use serde::{Deserialize, Serialize};

use super::{
    PythonError,
    layout::{BYTES_LENGTH, BYTES_START, OBJECT_TYPE, TYPE_NAME, TextLayout},
};
use crate::target::{ReadMemory, Unreadable};

/// The addresses of the types that objects must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Types {
    pub code: u64,
    pub text: u64,
    pub bytes: u64,
    pub frame: u64,
}

/// The longest text that is read, in bytes: a name or a path.
const MAX_TEXT_LEN: u64 = 4 << 10;

pub(super) fn word(memory: &dyn ReadMemory, address: u64) -> Result<u64, Unreadable> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A C `int`.
pub(super) fn int(memory: &dyn ReadMemory, address: u64) -> Result<i32, Unreadable> {
    let mut bytes = [0; 4];
    memory.read(address, &mut bytes)?;
    Ok(i32::from_le_bytes(bytes))
}

/// Checks the type of an object.
pub(super) fn expect(
    memory: &dyn ReadMemory,
    address: u64,
    type_address: u64,
    expected: &'static str,
) -> Result<(), PythonError> {
    if word(memory, address.wrapping_add(OBJECT_TYPE))? == type_address {
        Ok(())
    } else {
        Err(PythonError::NotA { expected, address })
    }
}

/// Checks the name of a type.
pub(super) fn expect_type(
    memory: &dyn ReadMemory,
    address: u64,
    name: &'static str,
) -> Result<(), PythonError> {
    let wrong = PythonError::WrongType { name, address };
    let name_address = word(memory, address.wrapping_add(TYPE_NAME))?;
    if name_address == 0 {
        return Err(wrong);
    }
    let mut bytes = vec![0; name.len() + 1];
    memory.read(name_address, &mut bytes)?;
    if bytes.strip_suffix(&[0]) == Some(name.as_bytes()) {
        Ok(())
    } else {
        Err(wrong)
    }
}

/// The bytes of a `bytes` object.
pub(super) fn bytes(
    memory: &dyn ReadMemory,
    types: &Types,
    address: u64,
    longest: u64,
) -> Result<Vec<u8>, PythonError> {
    expect(memory, address, types.bytes, "bytes")?;
    let len = word(memory, address.wrapping_add(BYTES_LENGTH))?;
    if len > longest {
        return Err(PythonError::Implausible {
            what: "bytes",
            address,
            reason: "too long",
        });
    }
    let mut bytes = vec![0; len as usize];
    memory.read(address.wrapping_add(BYTES_START), &mut bytes)?;
    Ok(bytes)
}

/// The characters of a `str`. A lone surrogate, which stands for a byte of a file name that isn't UTF-8,
/// becomes U+FFFD.
pub(super) fn text(
    memory: &dyn ReadMemory,
    types: &Types,
    layout: TextLayout,
    address: u64,
) -> Result<String, PythonError> {
    expect(memory, address, types.text, "str")?;
    let wrong = |reason| PythonError::Implausible {
        what: "text",
        address,
        reason,
    };
    let field = |offset: u16| address.wrapping_add(offset.into());
    let state = int(memory, field(layout.state))? as u32;
    let (width, is_compact, is_ascii) =
        ((state >> 2) & 7, state & 1 << 5 != 0, state & 1 << 6 != 0);
    if !is_compact {
        return Err(wrong("its characters lie elsewhere"));
    }
    let length = word(memory, field(layout.length))?;
    let len = length
        .checked_mul(width.into())
        .filter(|len| *len <= MAX_TEXT_LEN)
        .ok_or(wrong("too long"))?;
    let mut bytes = vec![0; len as usize];
    let start = if is_ascii {
        layout.ascii
    } else {
        layout.compact
    };
    memory.read(field(start), &mut bytes)?;
    let points: Vec<u32> = match (width, is_ascii) {
        (1, true) if !bytes.is_ascii() => return Err(wrong("marked as ASCII, which it isn't")),
        (1, _) => bytes.into_iter().map(u32::from).collect(),
        (2, false) => {
            let (units, _) = bytes.as_chunks();
            units
                .iter()
                .map(|unit| u16::from_le_bytes(*unit).into())
                .collect()
        }
        (4, false) => {
            let (units, _) = bytes.as_chunks();
            units.iter().map(|unit| u32::from_le_bytes(*unit)).collect()
        }
        _ => return Err(wrong("of no known kind")),
    };
    let character = |point| char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER);
    Ok(points.into_iter().map(character).collect())
}
