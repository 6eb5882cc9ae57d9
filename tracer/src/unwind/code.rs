//! A file of code, and what it says of unwinding.

use std::collections::HashMap;

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindContext, UnwindSection as _};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ReadRef};
use thiserror::Error;

use super::rules::{Slice, Step};

/// Why a file of code tells nothing.
#[derive(Debug, Error)]
#[error("not a readable ELF file: {0}")]
pub struct CodeError(#[from] object::Error);

/// What is kept of a file of code: an executable, a shared library.
#[derive(Debug)]
pub struct Code {
    /// Virtual address and bytes.
    eh_frame: (u64, Vec<u8>),
    eh_frame_hdr: (u64, Vec<u8>),
    text: u64,
    /// Where the parts that are mapped lie in the file, and at which virtual address: offset, length,
    /// address.
    segments: Vec<(u64, u64, u64)>,
    steps: HashMap<u64, Option<Step>>,
}

impl Code {
    /// Reads what is needed of a file.
    ///
    /// # Errors
    /// When it is no ELF file.
    pub fn read<'d>(data: impl ReadRef<'d>) -> Result<Self, CodeError> {
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

    /// The virtual address of a byte of the file.
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|(offset, length, address)| {
            let within = file_offset.checked_sub(*offset)?;
            (within < *length).then_some(address + within)
        })
    }

    /// How the frame of the function that an address lies in leads to its caller's.
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
