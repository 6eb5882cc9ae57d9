//! What is sent of the lists of programs: how each element is read, and where what stands.

use tracer_common::{
    ARRAY_LEN, Element, ElementRead, LISTS, List, Lists, MAX_ELEMENT_READS, NO_IDENTITY,
};

use super::plan::PlanError;
use crate::{
    abi::{Buffers, FieldPath, Programs, Vector},
    ledger::programs::RegionKind,
};

/// The kernel's side sends those of each program in this order.
pub(super) const CIRCULAR_REGIONS: usize = 0;
pub(super) const DATAFLOW_REGIONS: usize = 1;
pub(super) const CIRCULAR_BUFFERS: usize = 2;
pub(super) const DATAFLOW_BUFFERS: usize = 3;
pub(super) const SEMAPHORES: usize = 4;

/// Bytes of a `CoreRange`: four 64-bit coordinates (`abi` has made sure).
pub(super) const CORE_RANGE: usize = 32;
/// Bytes of a region: two 64-bit addresses.
pub(super) const REGION: usize = 16;

/// Where in [`Element::fields`] something stands, and which reads brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub at: usize,
    pub width: u8,
    pub needs: u32,
}

/// How the elements of one list are read.
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
            // Behind the element's own address.
            next: 8,
        }
    }

    /// The element's own address.
    fn element() -> Place {
        Place {
            at: 0,
            width: 8,
            needs: 0,
        }
    }

    fn read(&mut self, base: Place, offset: i64, len: usize) -> Result<Place, PlanError> {
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
        let place = Place {
            at: self.next,
            width: len.min(8) as u8,
            needs: base.needs | 1 << index,
        };
        self.list.read_count += 1;
        self.next += len.next_multiple_of(8);
        if self.next > size_of::<Element>() - ARRAY_LEN {
            return Err(too_many());
        }
        Ok(place)
    }

    fn field(&mut self, base: Place, path: &FieldPath) -> Result<Place, PlanError> {
        let mut base = base;
        for deref in &path.derefs {
            base = self.read(base, *deref, 8)?;
        }
        self.read(base, path.offset, usize::from(path.width))
    }

    fn optional(
        &mut self,
        base: Place,
        path: Option<&FieldPath>,
    ) -> Result<Option<Place>, PlanError> {
        path.map(|path| self.field(base, path)).transpose()
    }

    /// A vector in what `base` points to, whose elements are sent as the element's array.
    fn array(&mut self, base: Place, offset: i64) -> Result<u32, PlanError> {
        let place = self.read(base, offset, 16)?;
        self.list.array_at = place.at as u32;
        Ok(place.needs | 1 << MAX_ELEMENT_READS)
    }
}

/// Where what is sent of an element stands.
#[derive(Clone, Debug)]
pub(super) enum ElementPlan {
    Regions {
        kind: RegionKind,
        range: Place,
        array: u32,
    },
    CircularBuffer {
        array: u32,
        size: Place,
        is_global: Place,
        has_local: Place,
        local: Place,
        global: Place,
    },
    DataflowBuffer {
        array: u32,
        entry_size: Place,
        entries: Place,
        is_alias: Option<Place>,
        is_borrowed: Option<Place>,
        address: Place,
    },
    Semaphore {
        array: u32,
        id: Place,
        initial_value: Place,
    },
}

/// How the lists of a library's programs are read.
#[derive(Clone, Debug)]
pub(super) struct ListsPlan {
    pub lists: Lists,
    pub elements: [Option<ElementPlan>; LISTS],
}

impl ListsPlan {
    pub fn of(programs: &Programs) -> Result<Self, PlanError> {
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
            let mut of = ElementPlanner::new(regions.list.vector);
            let element = ElementPlanner::element();
            let range = of.read(element, regions.range, CORE_RANGE)?;
            let array = of.array(element, regions.regions)?;
            // A layout is what it was if all regions are.
            of.list.identity = regions.regions;
            plan.put(index, of, ElementPlan::Regions { kind, range, array });
        }
        if let Some(buffers) = &programs.buffers {
            plan.put_buffers(buffers)?;
        }
        if let Some(own) = &programs.semaphores {
            let mut of = ElementPlanner::new(own.list.vector);
            let semaphore = ElementPlanner::element();
            let element = ElementPlan::Semaphore {
                array: of.array(semaphore, own.ranges)?,
                id: of.field(semaphore, &own.id)?,
                initial_value: of.field(semaphore, &own.initial_value)?,
            };
            plan.put(SEMAPHORES, of, element);
        }
        Ok(plan)
    }

    fn put_buffers(&mut self, buffers: &Buffers) -> Result<(), PlanError> {
        let own = &buffers.circular;
        let mut of = ElementPlanner::new(own.list.vector);
        let buffer = of.read(ElementPlanner::element(), 0, 8)?;
        let element = ElementPlan::CircularBuffer {
            array: of.array(buffer, own.ranges)?,
            size: of.field(buffer, &own.size)?,
            is_global: of.field(buffer, &own.is_global)?,
            has_local: of.field(buffer, &own.has_local)?,
            local: of.field(buffer, &own.local)?,
            global: of.field(buffer, &own.global)?,
        };
        self.put(CIRCULAR_BUFFERS, of, element);
        if let Some(own) = &buffers.dataflow {
            let mut of = ElementPlanner::new(own.list.vector);
            let buffer = of.read(ElementPlanner::element(), 0, 8)?;
            let element = ElementPlan::DataflowBuffer {
                array: of.array(buffer, own.ranges)?,
                entry_size: of.field(buffer, &own.entry_size)?,
                entries: of.field(buffer, &own.entries)?,
                is_alias: of.optional(buffer, own.is_alias.as_ref())?,
                is_borrowed: of.optional(buffer, own.is_borrowed.as_ref())?,
                address: of.field(buffer, &own.address)?,
            };
            self.put(DATAFLOW_BUFFERS, of, element);
        }
        Ok(())
    }

    /// Whether a list's elements are told.
    pub fn tell(&self, list: usize) -> bool {
        self.elements[list].is_some()
    }

    fn put(&mut self, index: usize, of: ElementPlanner, element: ElementPlan) {
        self.lists.lists[index] = of.list;
        self.elements[index] = Some(element);
    }
}
