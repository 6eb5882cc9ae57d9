//! The lists of programs: how their elements are read, and the locations of the fields in what is sent.

use tracer_common::{
    ARRAY_LEN, Element, ElementRead, LISTS, List, Lists, MAX_ELEMENT_READS, NO_IDENTITY,
};

use super::plan::PlanError;
use crate::{
    abi::{Buffers, FieldPath, Programs, Vector},
    ledger::programs::RegionKind,
};

/// Indices of a program's lists in [`Lists::lists`]. The kernel side sends them in this order.
pub(super) const CIRCULAR_REGIONS: usize = 0;
pub(super) const DATAFLOW_REGIONS: usize = 1;
pub(super) const CIRCULAR_BUFFERS: usize = 2;
pub(super) const DATAFLOW_BUFFERS: usize = 3;
pub(super) const SEMAPHORES: usize = 4;

/// The bytes of a `CoreRange`: four 64-bit coordinates (`abi` checks that).
pub(super) const CORE_RANGE: usize = 32;
/// The bytes of a region: two 64-bit addresses.
pub(super) const REGION: usize = 16;

/// The location of a field in [`Element::fields`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ElementLocation {
    pub(super) at: usize,
    pub(super) width: u8,
    /// The reads that must have succeeded for the bytes to be valid, as a mask.
    pub(super) needs: u32,
}

/// The reads of one list's elements, as they are being planned.
struct ElementPlanner {
    list: List,
    next: usize,
}

impl ElementPlanner {
    fn new(vector: Vector) -> Self {
        Self {
            list: List {
                begin: vector.offset,
                stride: vector.stride.unsigned_abs(),
                identity: NO_IDENTITY,
                ..List::default()
            },
            // The first word is the element's own address.
            next: 8,
        }
    }

    /// The location of the element's own address.
    fn element() -> ElementLocation {
        ElementLocation {
            at: 0,
            width: 8,
            needs: 0,
        }
    }

    /// Reads `len` bytes at `base` + `offset` into the next free words.
    fn read(
        &mut self,
        base: ElementLocation,
        offset: i64,
        len: usize,
    ) -> Result<ElementLocation, PlanError> {
        let too_many = || PlanError::TooManyReads {
            point: "a list of a program".into(),
        };
        let index = self.list.read_count;
        let slot = self.list.reads.get_mut(index as usize);
        *slot.ok_or_else(too_many)? = ElementRead {
            base: base.at as u16,
            to: self.next as u16,
            len: len as u16,
            reserved: 0,
            offset,
        };
        let location = ElementLocation {
            at: self.next,
            width: len.min(8) as u8,
            needs: base.needs | 1 << index,
        };
        self.list.read_count += 1;
        self.next += len.next_multiple_of(8);
        if self.next > size_of::<Element>() - ARRAY_LEN {
            return Err(too_many());
        }
        Ok(location)
    }

    /// Reads the field to which `path` leads from `base`.
    fn field(
        &mut self,
        base: ElementLocation,
        path: &FieldPath,
    ) -> Result<ElementLocation, PlanError> {
        let mut base = base;
        for deref in &path.derefs {
            base = self.read(base, *deref, 8)?;
        }
        self.read(base, path.offset, usize::from(path.width))
    }

    fn optional(
        &mut self,
        base: ElementLocation,
        path: Option<&FieldPath>,
    ) -> Result<Option<ElementLocation>, PlanError> {
        path.map(|path| self.field(base, path)).transpose()
    }

    /// Reads the vector at `base` + `offset`, whose elements are sent as the element's array. Returns the reads
    /// that the array needs, as a mask.
    fn array(&mut self, base: ElementLocation, offset: i64) -> Result<u32, PlanError> {
        let location = self.read(base, offset, 16)?;
        self.list.array_at = location.at as u32;
        Ok(location.needs | 1 << MAX_ELEMENT_READS)
    }
}

/// The locations of an element's fields. `array`: the reads that its array needs, as a mask.
#[derive(Clone, Debug)]
pub(super) enum ElementPlan {
    Regions {
        kind: RegionKind,
        range: ElementLocation,
        array: u32,
    },
    CircularBuffer {
        array: u32,
        size: ElementLocation,
        is_global: ElementLocation,
        has_local: ElementLocation,
        local: ElementLocation,
        global: ElementLocation,
    },
    DataflowBuffer {
        array: u32,
        entry_size: ElementLocation,
        entries: ElementLocation,
        is_alias: Option<ElementLocation>,
        is_borrowed: Option<ElementLocation>,
        address: ElementLocation,
    },
    Semaphore {
        array: u32,
        id: ElementLocation,
        initial_value: ElementLocation,
    },
}

/// How the lists of a library's programs are read.
#[derive(Clone, Debug)]
pub(super) struct ListsPlan {
    pub(super) lists: Lists,
    pub(super) elements: [Option<ElementPlan>; LISTS],
}

impl ListsPlan {
    pub(super) fn new(programs: &Programs) -> Result<Self, PlanError> {
        let mut plan = Self {
            lists: Lists::default(),
            elements: [const { None }; LISTS],
        };
        let regions = [
            (
                CIRCULAR_REGIONS,
                RegionKind::CircularBuffers,
                Some(&programs.circular_regions),
            ),
            (
                DATAFLOW_REGIONS,
                RegionKind::DataflowBuffers,
                programs.dataflow_regions.as_ref(),
            ),
        ];
        for (index, kind, regions) in regions {
            let Some(regions) = regions else { continue };
            let mut planner = ElementPlanner::new(regions.list.vector);
            let element = ElementPlanner::element();
            let range = planner.read(element, regions.range, CORE_RANGE)?;
            let array = planner.array(element, regions.regions)?;
            // A layout hasn't changed if no region has.
            planner.list.identity = regions.regions;
            plan.put(index, planner, ElementPlan::Regions { kind, range, array });
        }
        if let Some(buffers) = &programs.buffers {
            plan.put_buffers(buffers)?;
        }
        if let Some(own) = &programs.semaphores {
            let mut planner = ElementPlanner::new(own.list.vector);
            let semaphore = ElementPlanner::element();
            let element = ElementPlan::Semaphore {
                array: planner.array(semaphore, own.ranges)?,
                id: planner.field(semaphore, &own.id)?,
                initial_value: planner.field(semaphore, &own.initial_value)?,
            };
            plan.put(SEMAPHORES, planner, element);
        }
        Ok(plan)
    }

    fn put_buffers(&mut self, buffers: &Buffers) -> Result<(), PlanError> {
        let own = &buffers.circular;
        let mut planner = ElementPlanner::new(own.list.vector);
        let buffer = planner.read(ElementPlanner::element(), 0, 8)?;
        let element = ElementPlan::CircularBuffer {
            array: planner.array(buffer, own.ranges)?,
            size: planner.field(buffer, &own.size)?,
            is_global: planner.field(buffer, &own.is_global)?,
            has_local: planner.field(buffer, &own.has_local)?,
            local: planner.field(buffer, &own.local)?,
            global: planner.field(buffer, &own.global)?,
        };
        self.put(CIRCULAR_BUFFERS, planner, element);
        if let Some(own) = &buffers.dataflow {
            let mut planner = ElementPlanner::new(own.list.vector);
            let buffer = planner.read(ElementPlanner::element(), 0, 8)?;
            let element = ElementPlan::DataflowBuffer {
                array: planner.array(buffer, own.ranges)?,
                entry_size: planner.field(buffer, &own.entry_size)?,
                entries: planner.field(buffer, &own.entries)?,
                is_alias: planner.optional(buffer, own.is_alias.as_ref())?,
                is_borrowed: planner.optional(buffer, own.is_borrowed.as_ref())?,
                address: planner.field(buffer, &own.address)?,
            };
            self.put(DATAFLOW_BUFFERS, planner, element);
        }
        Ok(())
    }

    /// Whether a list's elements are sent.
    pub(super) fn sends(&self, list: usize) -> bool {
        self.elements[list].is_some()
    }

    fn put(&mut self, index: usize, planner: ElementPlanner, element: ElementPlan) {
        self.lists.lists[index] = planner.list;
        self.elements[index] = Some(element);
    }
}
