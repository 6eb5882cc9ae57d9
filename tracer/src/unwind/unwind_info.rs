//! The unwinding rules of an ELF file.

use std::collections::HashMap;

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindContext, UnwindSection as _};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ReadRef};
use thiserror::Error;

use super::rules::{Slice, Step};

/// A file that isn't an ELF file, or can't be read.
#[derive(Debug, Error)]
#[error("not a readable ELF file: {0}")]
pub(crate) struct NotElf(#[from] object::Error);

/// What unwinding needs of an executable or a shared library.
#[derive(Debug)]
pub(crate) struct UnwindInfo {
    /// The section's virtual address and its bytes.
    eh_frame: (u64, Vec<u8>),
    eh_frame_hdr: (u64, Vec<u8>),
    /// The virtual address of `.text`.
    text: u64,
    /// The parts of the file that are mapped: offset in the file, length, virtual address.
    segments: Vec<(u64, u64, u64)>,
    /// By address; `None` for code without rules.
    steps: HashMap<u64, Option<Step>>,
}

impl UnwindInfo {
    /// Reads the unwinding rules of a file.
    ///
    /// # Errors
    /// When it isn't an ELF file.
    pub(crate) fn read<'d>(data: impl ReadRef<'d>) -> Result<Self, NotElf> {
        let file = object::File::parse(data)?;
        let section = |name: &str| {
            let section = file.section_by_name(name)?;
            let bytes = section.data().ok()?.to_vec();
            Some((section.address(), bytes))
        };
        Ok(Self {
            eh_frame: section(".eh_frame").unwrap_or_default(),
            eh_frame_hdr: section(".eh_frame_hdr").unwrap_or_default(),
            text: file
                .section_by_name(".text")
                .map_or(0, |text| text.address()),
            segments: file
                .segments()
                .map(|segment| {
                    let (offset, length) = segment.file_range();
                    (offset, length, segment.address())
                })
                .collect(),
            steps: HashMap::new(),
        })
    }

    /// The virtual address of the byte at an offset of the file; `None` if the byte isn't mapped.
    pub(crate) fn address_of(&self, file_offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|(offset, length, address)| {
            let within = file_offset.checked_sub(*offset)?;
            (within < *length).then_some(address + within)
        })
    }

    /// The rules at an address; `None` if the code there has none.
    pub(super) fn step(&mut self, address: u64) -> Option<&Step> {
        if !self.steps.contains_key(&address) {
            let step = self.find_step(address);
            self.steps.insert(address, step);
        }
        self.steps.get(&address)?.as_ref()
    }

    fn find_step(&self, address: u64) -> Option<Step> {
        let bases = BaseAddresses::default()
            .set_eh_frame(self.eh_frame.0)
            .set_eh_frame_hdr(self.eh_frame_hdr.0)
            .set_text(self.text);
        let section = EhFrame::from(Slice::new(&self.eh_frame.1, LittleEndian));
        let header = EhFrameHdr::from(Slice::new(&self.eh_frame_hdr.1, LittleEndian));
        let parsed = header.parse(&bases, 8).ok();
        let description = match parsed.as_ref().and_then(|header| header.table()) {
            Some(table) => table
                .fde_for_address(&section, &bases, address, EhFrame::cie_from_offset)
                .ok()?,
            None => section
                .fde_for_address(&bases, address, EhFrame::cie_from_offset)
                .ok()?,
        };
        let mut context = UnwindContext::new();
        let row = description
            .unwind_info_for_address(&section, &bases, &mut context, address)
            .ok()?;
        Step::new(row, &self.eh_frame.1)
    }
}
