//! Programs: what is sent of their lists, and what that says.

use std::collections::HashMap;

use tracer_common::{
    ARRAY_LEN, BLOCK_AT, COUNTS_AT, Capture, Element, ElementRead, LISTS, List, Lists,
    MAX_ELEMENT_READS, NO_IDENTITY, SECOND_SENT_AT, SENT_AT, lists, stack,
};

use super::{
    decode::{self, DecodeError, Fields, number, read_header},
    plan::{DevicePlan, Guard, Location, PlanError, Planner},
};
use crate::{
    abi::{Abi, Buffers, FieldPath, Point, PointKind, Programs, Vector},
    ledger::{
        Device,
        programs::{
            Allocated, Backing, Core, CoreRange, Layout, ProgramBuffer, ProgramBufferKind,
            ProgramEventKind, ProgramPointer, ProgramSemaphore, Region, RegionKind,
        },
    },
};

/// The kernel's side sends those of each program in this order.
const CIRCULAR_REGIONS: usize = 0;
const DATAFLOW_REGIONS: usize = 1;
const CIRCULAR_BUFFERS: usize = 2;
const DATAFLOW_BUFFERS: usize = 3;
const SEMAPHORES: usize = 4;

/// Bytes of a `CoreRange`: four 64-bit coordinates (`abi` has made sure).
const CORE_RANGE: usize = 32;
/// Bytes of a region: two 64-bit addresses.
const REGION: usize = 16;

/// What no device has more of in a row or a column, by far: Wormhole and Blackhole have less than 20.
const MOST_IN_A_ROW: u64 = 64;
/// More L1 than any core has: Wormhole and Blackhole have 1.5 MiB.
const MOST_L1: u64 = 16 << 20;

/// Where in [`Element::fields`] something stands, and which reads brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: usize,
    width: u8,
    needs: u32,
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
enum ElementPlan {
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
    elements: [Option<ElementPlan>; LISTS],
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
    fn tell(&self, list: usize) -> bool {
        self.elements[list].is_some()
    }

    fn put(&mut self, index: usize, of: ElementPlanner, element: ElementPlan) {
        self.lists.lists[index] = of.list;
        self.elements[index] = Some(element);
    }
}

/// The capture at a probe point of programs.
#[derive(Clone, Debug)]
pub(super) struct ProgramPlan {
    pub kind: PointKind,
    pub capture: Capture,
    lists: ListsPlan,
    ids: Location,
    device: Option<DevicePlan>,
}

impl ProgramPlan {
    /// `number` comes back in each record, `set` is that of the library's lists.
    pub fn of(
        abi: &Abi,
        programs: &Programs,
        point: &Point,
        number: u32,
        set: u32,
    ) -> Result<Self, PlanError> {
        let mut planner = Planner::new(point, number);
        let program = planner.object()?;
        let mut device = None;
        if let Some(register) = point.device {
            planner.capture.second = register + 1;
            let pointer = Location {
                at: SECOND_SENT_AT,
                ..program
            };
            device = Some(planner.device(abi, pointer, Guard::default())?);
        }
        let mut ids = program;
        planner.capture.lists_when = match point.kind {
            PointKind::LaidOut => lists::CHANGED,
            PointKind::Dispatched => lists::ONCE,
            _ => lists::END,
        };
        if point.kind != PointKind::ProgramEnd {
            let (id, runtime_id) = (&programs.id.path, &programs.runtime_id.path);
            if runtime_id.offset != id.offset + 8 {
                return Err(planner.refuse(runtime_id, "it isn't behind the program's id"));
            }
            let read = planner.read(tracer_common::Read {
                base: program.at as u16,
                to: BLOCK_AT as u16,
                len: 16,
                offset: id.offset,
                ..tracer_common::Read::default()
            })?;
            ids = Location {
                at: BLOCK_AT,
                width: 8,
                needs: program.needs | 1 << read,
            };
            planner.capture.lists = set;
            planner.capture.sent = (COUNTS_AT + 8 * LISTS - SENT_AT) as u32;
            planner.capture.stack = stack::SENT;
        }
        Ok(Self {
            kind: point.kind,
            capture: planner.capture,
            lists: ListsPlan::of(programs)?,
            ids,
            device,
        })
    }

    /// What a record says.
    pub fn event(
        &self,
        fields: &Fields<'_>,
        pid: u32,
        elements: &[SentElement],
        devices: &mut HashMap<(u32, u64), Device>,
    ) -> Result<ProgramEventKind, DecodeError> {
        let program = ProgramPointer(fields.get(&word(SENT_AT))?);
        if fields.sent.len() == 8 {
            return Ok(match self.kind {
                PointKind::Dispatched => ProgramEventKind::Dispatched {
                    program,
                    layout: None,
                },
                _ => ProgramEventKind::Ended(program),
            });
        }
        let device = self
            .device
            .as_ref()
            .map(|plan| decode::device(fields, plan, pid, devices))
            .transpose()?;
        let mut layout = Layout {
            program,
            id: fields.get(&self.ids)?,
            runtime_id: fields.get(&Location {
                at: self.ids.at + 8,
                ..self.ids
            })?,
            device,
            allocated: Vec::new(),
            buffers: self.lists.tell(CIRCULAR_BUFFERS).then(Vec::new),
            semaphores: self.lists.tell(SEMAPHORES).then(Vec::new),
            complete: true,
        };
        let mut missing = 0;
        for list in 0..LISTS {
            missing += fields.get(&word(COUNTS_AT + 8 * list))?;
        }
        for element in elements.iter().filter(|of| of.object == program.0) {
            missing = missing.saturating_sub(1);
            let plan = self.lists.elements.get(element.list as usize);
            if let Some(Some(plan)) = plan {
                layout.complete &= plan.add_to(&mut layout, element)?;
            }
        }
        layout.complete &= missing == 0;
        Ok(match self.kind {
            PointKind::Dispatched => ProgramEventKind::Dispatched {
                program,
                layout: Some(Box::new(layout)),
            },
            _ => ProgramEventKind::LaidOut(Box::new(layout)),
        })
    }
}

/// Eight bytes that are sent whatever is read.
fn word(at: usize) -> Location {
    Location {
        at,
        width: 8,
        needs: 0,
    }
}

impl ElementPlan {
    /// Adds an element to a layout, and says whether all of it came.
    fn add_to(&self, layout: &mut Layout, element: &SentElement) -> Result<bool, DecodeError> {
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
                    if region.begin < last || region.end < region.begin || region.end > MOST_L1 {
                        return Err(DecodeError::Region(region.begin, region.end));
                    }
                    regions.push(region);
                }
                // An allocator begins with one of no length.
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
                    is_alias.map_or(Some(0), |place| element.get(place)),
                    is_borrowed.map_or(Some(0), |place| element.get(place)),
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
                    // One that isn't on any core has none.
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

/// An element as it came.
#[derive(Debug)]
pub(super) struct SentElement {
    object: u64,
    list: u32,
    faults: u32,
    array_len: u64,
    /// The fields, and what was sent of the array.
    bytes: [u8; size_of::<Element>() - HEAD],
}

/// What stands before an element's fields.
const HEAD: usize = std::mem::offset_of!(Element, fields);

impl SentElement {
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    fn get(&self, place: Place) -> Option<u64> {
        let read = self.faults & place.needs == 0;
        read.then(|| number(self.bytes(place.at, usize::from(place.width))))
    }

    /// What was sent of its array.
    fn array(&self) -> &[u8] {
        let len = usize::try_from(self.array_len).map_or(ARRAY_LEN, |len| len.min(ARRAY_LEN));
        self.bytes(self.bytes.len() - ARRAY_LEN, len)
    }

    /// Whether all of its array was sent.
    fn is_whole(&self) -> bool {
        self.array_len <= ARRAY_LEN as u64
    }

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
    if start_x > end_x || start_y > end_y || end_x.max(end_y) >= MOST_IN_A_ROW {
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

/// The elements that came and whose object's own record hasn't yet, by thread.
#[derive(Debug, Default)]
pub(super) struct Elements(HashMap<u32, (u64, Vec<SentElement>)>);

impl Elements {
    /// Keeps an element until the record comes that it belongs to.
    pub fn keep(&mut self, record: &[u8]) -> Result<(), DecodeError> {
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
        let (time, kept) = self.0.entry(header.tid).or_default();
        if *time != header.time_ns {
            *time = header.time_ns;
            // Their own record was lost.
            kept.clear();
        }
        kept.push(element);
        Ok(())
    }

    /// Those of a hit.
    pub fn take(&mut self, tid: u32, time_ns: u64) -> Vec<SentElement> {
        let taken = self.0.remove(&tid).filter(|(time, _)| *time == time_ns);
        taken.map(|(_, kept)| kept).unwrap_or_default()
    }
}
