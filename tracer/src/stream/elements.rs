//! The elements of programs' lists: their decoding, and their safekeeping until the record comes that they
//! belong to.

use std::collections::HashMap;

use tracer_common::{ARRAY_LEN, Element};

use super::{
    lists::{CORE_RANGE, ElementLocation, ElementPlan, REGION},
    record::{DecodeError, number, read_header},
};
use crate::ledger::programs::{
    Allocated, Backing, Core, CoreRange, Layout, ProgramBuffer, ProgramBufferKind,
    ProgramSemaphore, Region,
};

/// More cores than any device has in a row or a column: Wormhole and Blackhole have less than 20.
const MAX_IN_A_ROW: u64 = 64;
/// More bytes of L1 than any core has: Wormhole and Blackhole have 1.5 MiB.
const MAX_L1: u64 = 16 << 20;

impl ElementPlan {
    /// Adds an element to a layout. Returns whether the element is complete.
    pub(super) fn add_to(
        &self,
        layout: &mut Layout,
        element: &SentElement,
    ) -> Result<bool, DecodeError> {
        match *self {
            Self::Regions { kind, range, array } => {
                if element.faults & (range.needs | array) != 0 && element.array_len > 0 {
                    return Ok(false);
                }
                let range = core_range(element.bytes(range.at, CORE_RANGE))?;
                let mut regions = Vec::new();
                for bytes in element.array().chunks_exact(REGION) {
                    let region = Region {
                        begin: number(&bytes[..8]),
                        end: number(&bytes[8..]),
                    };
                    let last = regions.last().map_or(0, |last: &Region| last.end);
                    if region.begin < last || region.end < region.begin || region.end > MAX_L1 {
                        return Err(DecodeError::Region(region.begin, region.end));
                    }
                    regions.push(region);
                }
                // The first region of an allocator has no length.
                regions.retain(|region| region.end > region.begin);
                layout.allocated.push(Allocated {
                    kind,
                    cores: range,
                    regions,
                });
                Ok(element.is_whole())
            }
            Self::CircularBuffer {
                array,
                size,
                is_global,
                has_local,
                local,
                global,
            } => {
                let (Some(size), Some(is_global), Some(has_local)) = (
                    element.get(size),
                    element.get(is_global),
                    element.get(has_local),
                ) else {
                    return Ok(false);
                };
                let (at, backing) = if is_global != 0 {
                    (Some(global), Backing::Buffer)
                } else {
                    ((has_local != 0).then_some(local), Backing::Program)
                };
                layout.buffers.get_or_insert_default().push(ProgramBuffer {
                    kind: ProgramBufferKind::CircularBuffer,
                    address: at.and_then(|at| element.get(at)),
                    size,
                    cores: element.core_ranges(array)?,
                    backing,
                });
                Ok(element.faults == 0 && element.is_whole())
            }
            Self::DataflowBuffer {
                array,
                entry_size,
                entries,
                is_alias,
                is_borrowed,
                address,
            } => {
                let (Some(entry_size), Some(entries), Some(is_alias), Some(is_borrowed)) = (
                    element.get(entry_size),
                    element.get(entries),
                    is_alias.map_or(Some(0), |location| element.get(location)),
                    is_borrowed.map_or(Some(0), |location| element.get(location)),
                ) else {
                    return Ok(false);
                };
                let backing = match (is_alias != 0, is_borrowed != 0) {
                    (true, _) => Backing::Alias,
                    (false, true) => Backing::Buffer,
                    (false, false) => Backing::Program,
                };
                layout.buffers.get_or_insert_default().push(ProgramBuffer {
                    kind: ProgramBufferKind::DataflowBuffer,
                    // A buffer that isn't on any core has no address.
                    address: element.get(address).filter(|address| *address != 0),
                    size: entry_size.saturating_mul(entries),
                    cores: element.core_ranges(array)?,
                    backing,
                });
                Ok(element.faults & !address.needs == 0 && element.is_whole())
            }
            Self::Semaphore {
                array,
                id,
                initial_value,
            } => {
                let (Some(id), Some(initial_value)) = (element.get(id), element.get(initial_value))
                else {
                    return Ok(false);
                };
                layout
                    .semaphores
                    .get_or_insert_default()
                    .push(ProgramSemaphore {
                        id: id as u32,
                        initial_value: initial_value as u32,
                        cores: element.core_ranges(array)?,
                    });
                Ok(element.faults == 0 && element.is_whole())
            }
        }
    }
}

/// An element that was sent.
#[derive(Debug)]
pub(super) struct SentElement {
    pub(super) object: u64,
    pub(super) list: u32,
    faults: u32,
    array_len: u64,
    /// The fields, and what was sent of the array.
    bytes: [u8; size_of::<Element>() - HEAD],
}

/// The bytes before an element's fields.
const HEAD: usize = std::mem::offset_of!(Element, fields);

impl SentElement {
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    /// A field's value, if it could be read.
    fn get(&self, location: ElementLocation) -> Option<u64> {
        let read = self.faults & location.needs == 0;
        read.then(|| number(self.bytes(location.at, usize::from(location.width))))
    }

    /// The bytes of its array that were sent.
    fn array(&self) -> &[u8] {
        let len = usize::try_from(self.array_len).map_or(ARRAY_LEN, |len| len.min(ARRAY_LEN));
        self.bytes(self.bytes.len() - ARRAY_LEN, len)
    }

    /// Whether all of its array was sent.
    fn is_whole(&self) -> bool {
        self.array_len <= ARRAY_LEN as u64
    }

    /// The array as core ranges. `needs`: the reads that it needs, as a mask.
    fn core_ranges(&self, needs: u32) -> Result<Vec<CoreRange>, DecodeError> {
        if self.faults & needs != 0 {
            return Ok(Vec::new());
        }
        let ranges = self.array().chunks_exact(CORE_RANGE);
        ranges.map(core_range).collect()
    }
}

fn core_range(bytes: &[u8]) -> Result<CoreRange, DecodeError> {
    let words: Vec<u64> = bytes.chunks_exact(8).map(number).collect();
    let [start_x, start_y, end_x, end_y] = words[..] else {
        return Err(DecodeError::Length(bytes.len()));
    };
    if start_x > end_x || start_y > end_y || end_x.max(end_y) >= MAX_IN_A_ROW {
        return Err(DecodeError::CoreRange([start_x, start_y, end_x, end_y]));
    }
    let core = |x: u64, y: u64| Core {
        x: x as u32,
        y: y as u32,
    };
    Ok(CoreRange {
        start: core(start_x, start_y),
        end: core(end_x, end_y),
    })
}

/// The elements of each process and thread whose hit's own record hasn't come yet, with the hit's time.
#[derive(Debug, Default)]
pub(super) struct Elements(HashMap<(u32, u32), (u64, Vec<SentElement>)>);

impl Elements {
    /// Keeps an element until the record comes that it belongs to.
    pub(super) fn keep(&mut self, record: &[u8]) -> Result<(), DecodeError> {
        let length = DecodeError::Length(record.len());
        let header = read_header(record).filter(|_| record.len() == size_of::<Element>());
        let header = header.ok_or(length)?;
        let at = |offset: usize, len: usize| number(&record[offset..offset + len]);
        let element = SentElement {
            object: at(std::mem::offset_of!(Element, object), 8),
            list: at(std::mem::offset_of!(Element, list), 4) as u32,
            faults: header.faults,
            array_len: at(std::mem::offset_of!(Element, array_len), 8),
            bytes: record[HEAD..]
                .try_into()
                .map_err(|_| DecodeError::Length(record.len()))?,
        };
        let (time, kept) = self.0.entry((header.pid, header.tid)).or_default();
        if *time != header.time_ns {
            *time = header.time_ns;
            // The record that the kept ones belong to was lost.
            kept.clear();
        }
        kept.push(element);
        Ok(())
    }

    /// Removes a process's elements.
    pub(super) fn forget(&mut self, pid: u32) {
        self.0.retain(|(owner, _), _| *owner != pid);
    }

    /// Takes the elements of a hit.
    pub(super) fn take(&mut self, pid: u32, tid: u32, time_ns: u64) -> Vec<SentElement> {
        let taken = self
            .0
            .remove(&(pid, tid))
            .filter(|(time, _)| *time == time_ns);
        taken.map(|(_, kept)| kept).unwrap_or_default()
    }
}
