//! A CPython 3.12 that doesn't run: an interpreter, and functions as the kernel side sends them.

use tracer_common::{CODE_OBJECT_LEN, PYTHON_CODE_AT, PYTHON_FRAME_LEN};

use crate::{
    frame::{Frame, FrameKind},
    python::{Layout, Python, Version, Walk, objects::Types},
    stream::SentCode,
};

pub(in crate::python) const TYPES: Types = Types {
    code: 0x1_0000,
    text: 0x2_0000,
    bytes: 0x3_0000,
    frame: 0x4_0000,
};

pub(in crate::python) fn layout() -> Layout {
    Layout::of_series((3, 12)).expect("a known series")
}

pub(crate) fn interpreter() -> Python {
    Python {
        version: Version(0x030c_01f0),
        walk: Walk::new(&layout(), 0x1000),
        layout: layout(),
        types: TYPES,
    }
}

/// A function of the file `model.py`, from line 7 on, with two instructions in each of two lines.
pub(crate) struct Function {
    name: &'static str,
    /// Address and bytes of the code object, and of the parts that it points to.
    parts: [(u64, Vec<u8>); 4],
}

impl Function {
    pub(crate) fn new(address: u64, name: &'static str) -> Self {
        let [file_at, name_at, lines_at] = [0x200, 0x400, 0x600].map(|offset| address + offset);
        let mut object = vec![0; CODE_OBJECT_LEN];
        put(&mut object, 8, TYPES.code);
        object[68..72].copy_from_slice(&7_u32.to_le_bytes());
        for (at, pointer) in [
            (112, file_at),
            (120, name_at),
            (128, name_at),
            (136, lines_at),
        ] {
            put(&mut object, at, pointer);
        }
        Self {
            name,
            parts: [
                (address, object),
                (file_at, text("model.py")),
                (name_at, text(name)),
                (lines_at, lines()),
            ],
        }
    }

    pub(crate) fn sent(&self) -> SentCode<'_> {
        let (address, _) = self.parts[0];
        let parts = self.parts.each_ref();
        SentCode {
            address,
            word: self.fingerprint(),
            parts: parts.map(|(address, bytes)| (*address, bytes.as_slice())),
        }
    }

    pub(in crate::python) fn parts(&self) -> &[(u64, Vec<u8>)] {
        &self.parts
    }

    fn fingerprint(&self) -> u64 {
        self.parts[3].0
    }

    /// A frame of it at its last line, as it is sent.
    pub(crate) fn sent_frame(&self) -> Vec<u8> {
        let mut slot = vec![0; PYTHON_FRAME_LEN];
        let (address, _) = self.parts[0];
        put(&mut slot, 0, address);
        put(&mut slot, 56, address + 192 + 2 * 2);
        put(&mut slot, PYTHON_CODE_AT, self.fingerprint());
        slot
    }

    /// That frame with its names.
    pub(crate) fn frame(&self) -> Frame {
        Frame {
            kind: FrameKind::Python,
            function: Some(self.name.to_owned()),
            file: Some("model.py".to_owned()),
            line: Some(8),
            module: None,
            offset: None,
        }
    }
}

/// The frame that CPython puts between a frame that C code called and its caller, as it is sent.
pub(crate) fn sent_shim() -> Vec<u8> {
    let mut slot = vec![0; PYTHON_FRAME_LEN];
    slot[70] = 3;
    slot
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// A compact `str` of ASCII characters.
fn text(characters: &str) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    put(&mut bytes, 8, TYPES.text);
    put(&mut bytes, 16, characters.len() as u64);
    put(&mut bytes, 32, 1 << 2 | 1 << 5 | 1 << 6);
    bytes.extend(characters.as_bytes());
    bytes
}

/// A `bytes` object with two entries: two instructions with the line before, two with the next one.
fn lines() -> Vec<u8> {
    let table = [0x80 | 10 << 3 | 1, 0, 0, 0x80 | 11 << 3 | 1, 0, 0];
    let mut bytes = vec![0; 32];
    put(&mut bytes, 8, TYPES.bytes);
    put(&mut bytes, 16, table.len() as u64);
    bytes.extend(table);
    bytes
}
