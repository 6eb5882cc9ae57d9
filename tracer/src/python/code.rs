//! Code objects: the file, function and line of a frame.

use super::{
    Instruction, Layout, LineTable, Python, PythonError, RawFrame,
    objects::{bytes, expect, int, text, word},
};
use crate::{
    frame::{Frame, FrameKind},
    target::ReadMemory,
};

/// The longest line table that is read, in bytes.
const MAX_TABLE_LEN: u64 = 1 << 20;

/// The code object of a function, module, class body or the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodeObject {
    pub file: String,
    /// The qualified name (CPython 3.11 and newer) or the name (3.10).
    pub function: String,
    pub first_line: i32,
    pub lines: LineTable,
    /// The address of its instructions, if they are part of it (3.11 and newer).
    instructions: Option<u64>,
    /// The index of the first instruction at which CPython shows a frame.
    first_traceable: i64,
}

impl CodeObject {
    /// Reads the code object at an address. It must be read soon: once it is freed, as the one of code that
    /// `eval` ran is, another may take its place.
    ///
    /// # Errors
    /// When there is no code object, or an implausible one.
    pub(crate) fn read(
        memory: &dyn ReadMemory,
        python: &Python,
        address: u64,
    ) -> Result<Self, PythonError> {
        let Python { layout, types, .. } = python;
        let code = &layout.code;
        expect(memory, address, types.code, "code")?;
        let field = |offset: u16| address.wrapping_add(offset.into());
        let text = |offset| text(memory, types, layout.text, word(memory, field(offset))?);
        let table = word(memory, field(code.line_table))?;
        let table = bytes(memory, types, table, MAX_TABLE_LEN)?;
        Ok(Self {
            file: text(code.file_name)?,
            function: text(code.qualified_name.unwrap_or(code.name))?,
            first_line: int(memory, field(code.first_line))?,
            lines: match code.instructions {
                None => LineTable::Pairs(table),
                Some(_) => LineTable::Locations(table),
            },
            instructions: code.instructions.map(|code| field(code.start)),
            first_traceable: match code.instructions {
                None => i64::MIN,
                Some(code) => int(memory, field(code.first_traceable))?.into(),
            },
        })
    }

    /// Reads the fingerprint of the code object at an address: see [`Layout::fingerprint_offset`].
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn read_fingerprint(
        memory: &dyn ReadMemory,
        layout: &Layout,
        address: u64,
    ) -> Result<u64, PythonError> {
        let offset = layout.fingerprint_offset();
        Ok(word(memory, address.wrapping_add(offset.into()))?)
    }

    /// The index of a frame's instruction, in code units of two bytes; -1 before the first one. `None` if the
    /// instruction can't belong to this code object.
    pub(crate) fn index_of(&self, instruction: Instruction) -> Option<i64> {
        let index = match (instruction, self.instructions) {
            (Instruction::Index(index), None) => i64::from(index),
            (Instruction::Address(address), Some(start)) => {
                let bytes = address.wrapping_sub(start) as i64;
                (bytes & 1 == 0).then_some(bytes / 2)?
            }
            _ => return None,
        };
        (index >= -1).then_some(index)
    }

    /// The line of the instruction with this index. Before the first instruction it is the first line
    /// (`PyCode_Addr2Line`).
    pub(crate) fn line(&self, index: i64) -> Option<u32> {
        if index < 0 {
            return u32::try_from(self.first_line).ok();
        }
        let index = u32::try_from(index).ok()?;
        let spans = self.lines.spans(self.first_line);
        let span = spans.iter().find(|span| span.instructions.contains(&index));
        span?.line
    }

    /// A frame of this code with its names. `None` for one that CPython doesn't show in a traceback: it hasn't
    /// begun, or belongs to the interpreter itself (`_PyFrame_IsIncomplete`).
    ///
    /// # Errors
    /// When the frame's instruction lies outside this code.
    pub(crate) fn frame(&self, frame: &RawFrame) -> Result<Option<Frame>, PythonError> {
        let outside = PythonError::InstructionOutside { code: frame.code };
        let Some(index) = self.index_of(frame.instruction) else {
            return Err(outside);
        };
        if index < self.first_traceable && !frame.is_generator {
            return Ok(None);
        }
        // The table has all instructions.
        let spans = self.lines.spans(self.first_line);
        let count = spans.last().map_or(0, |span| span.instructions.end);
        if index >= i64::from(count) {
            return Err(outside);
        }
        Ok(Some(Frame {
            kind: FrameKind::Python,
            function: Some(self.function.clone()),
            file: Some(self.file.clone()),
            line: self.line(index),
            module: None,
            offset: None,
        }))
    }
}
