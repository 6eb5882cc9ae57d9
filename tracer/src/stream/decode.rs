//! Records in, events out.

use std::collections::HashMap;

use thiserror::Error;
use tracer_common::{
    Capture, Header, Lists, MAX_LISTS, MAX_READS, POINT_ELEMENT, POINT_EXEC, POINT_EXIT,
    POINT_FORK, POINT_LINKED, SENT_AT, Short,
};

use super::{
    elements::Elements,
    lists::ListsPlan,
    plan::{BufferPlan, DevicePlan, Location, Plan, PlanError, plan},
    programs::ProgramPlan,
};
use crate::{
    abi::{Abi, PointKind, Programs},
    ledger::{
        AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Exit, Layout,
        Nanoseconds, ObjectPointer, Ownership, ProgramEvent,
    },
};

/// The bits of [`Header::faults`] that stand for reads.
const READS: u32 = (1 << MAX_READS) - 1;

/// A record that says nothing that can be accounted for. Whoever meets one counts it as lost.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a record of {0} bytes, which no probe point sends")]
    Length(usize),
    #[error("a record of probe point {0}, which isn't known")]
    Point(u32),
    #[error("the target's memory couldn't be read (faults {faults:#x}, needed {needed:#x})")]
    Fault { faults: u32, needed: u32 },
    #[error("buffer type {0}, which no release has")]
    BufferType(u64),
    #[error("a device whose vtable, {0:#x} from the probe, is neither a chip's nor a mesh's")]
    Device(u64),
    #[error("`owns_data` is {0}, which is no bool")]
    Ownership(u64),
    #[error("a program's region of L1 from {0:#x} to {1:#x}, which can't be")]
    Region(u64, u64),
    #[error("a program's core range {0:?}, which can't be")]
    CoreRange([u64; 4]),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Something about memory.
    Memory(Event),
    /// Something about a program.
    Program(ProgramEvent),
    /// Part of what a later record says.
    Part,
    /// A process forked ([`EventKind::Fork`]) or its last thread ended ([`EventKind::Exit`]).
    Life(Event),
    /// A process executed a program ([`EventKind::Exec`]).
    Executed {
        event: Event,
        /// It is stopped, until somebody lets it go on.
        stopped: bool,
    },
    /// A process's dynamic linker is about to load libraries, or has done so.
    Linked {
        pid: u32,
        /// As with [`Self::Executed`].
        stopped: bool,
    },
}

/// Knows every probe point that is on.
#[derive(Debug)]
pub struct Stream {
    points: Vec<Known>,
    elements: Elements,
    /// How many libraries' programs are known.
    lists: u32,
    /// By process and address: the kernel's side sends of a device that it sent before only that.
    devices: HashMap<(u32, u64), Device>,
    /// By process and thread: the block that an allocator has taken for the buffer which comes next.
    blocks: HashMap<(u32, u32), u64>,
    started_at: u64,
}

/// What is captured of a library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Each probe's offset in the library's file, and what to capture there.
    pub captures: Vec<(u64, Capture)>,
    /// What those that send lists refer to, and its number.
    pub lists: Option<(u32, Lists)>,
}

#[derive(Debug)]
enum Known {
    Buffers(Box<KnownPoint>),
    Programs(Box<ProgramPlan>),
}

#[derive(Debug)]
struct KnownPoint {
    kind: PointKind,
    plan: Plan,
}

impl Stream {
    /// `started_at`: the trace's start by `CLOCK_MONOTONIC`, in nanoseconds.
    pub fn new(started_at: u64) -> Self {
        Self {
            points: Vec::new(),
            elements: Elements::default(),
            lists: 0,
            devices: HashMap::new(),
            blocks: HashMap::new(),
            started_at,
        }
    }

    /// Plans the captures for all probe points of a library; for those of `programs` where that is
    /// given.
    ///
    /// # Errors
    /// When a point can't be captured.
    pub fn add(&mut self, abi: &Abi, programs: Option<&Programs>) -> Result<Planned, PlanError> {
        let mut planned = Planned::default();
        let mut points = Vec::new();
        for point in &abi.points {
            let plan = plan(abi, point, (self.points.len() + points.len()) as u32)?;
            planned.captures.push((point.file_offset, plan.capture));
            let kind = point.kind;
            points.push(Known::Buffers(Box::new(KnownPoint { kind, plan })));
        }
        if let Some(programs) = programs.filter(|_| self.lists < MAX_LISTS) {
            for point in &programs.points {
                let number = (self.points.len() + points.len()) as u32;
                let plan = ProgramPlan::of(abi, programs, point, number, self.lists)?;
                planned.captures.push((point.file_offset, plan.capture));
                points.push(Known::Programs(Box::new(plan)));
            }
            planned.lists = Some((self.lists, ListsPlan::of(programs)?.lists));
            self.lists += 1;
        }
        self.points.append(&mut points);
        Ok(planned)
    }

    /// Reads one record.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(&mut self, record: &[u8]) -> Result<Decoded, DecodeError> {
        let length = DecodeError::Length(record.len());
        let Some(header) = read_header(record) else {
            return Err(length);
        };
        let time = Nanoseconds(header.time_ns.saturating_sub(self.started_at));
        let event = |kind| Event {
            pid: header.pid,
            tid: header.tid,
            time,
            kind,
            stack: None,
        };
        let value = || {
            let bytes = record.get(size_of::<Header>()..size_of::<Short>());
            bytes.map(number).ok_or(DecodeError::Length(record.len()))
        };
        match header.point {
            POINT_LINKED => Ok(Decoded::Linked {
                pid: header.pid,
                stopped: value()? != 0,
            }),
            POINT_FORK => {
                let child = value()? as u32;
                Ok(Decoded::Life(event(EventKind::Fork { child })))
            }
            POINT_EXEC => {
                let (event, stopped) = (event(EventKind::Exec), value()? != 0);
                self.forget(header.pid);
                Ok(Decoded::Executed { event, stopped })
            }
            POINT_EXIT => {
                let event = event(EventKind::Exit(exit(value()?)));
                self.forget(header.pid);
                Ok(Decoded::Life(event))
            }
            POINT_ELEMENT => self.elements.keep(record).map(|()| Decoded::Part),
            point => {
                let known = self
                    .points
                    .get(point as usize)
                    .ok_or(DecodeError::Point(point))?;
                let fields = Fields {
                    sent: &record[size_of::<Header>()..],
                    faults: header.faults & READS,
                };
                match known {
                    Known::Buffers(known) => {
                        let thread = (header.pid, header.tid);
                        if known.kind == PointKind::Block && fields.sent.len() == 8 {
                            self.blocks.insert(thread, number(fields.sent));
                            return Ok(Decoded::Part);
                        }
                        let mut kind = known.kind(&fields, header.pid, &mut self.devices)?;
                        if let EventKind::Allocate(buffer) = &mut kind {
                            // For an empty one the allocator isn't asked.
                            let block = self.blocks.remove(&thread);
                            buffer.bytes_per_bank = block.filter(|_| buffer.size > 0);
                        }
                        Ok(Decoded::Memory(event(kind)))
                    }
                    Known::Programs(plan) => {
                        let whole = plan.capture.sent as usize;
                        if ![8, whole].contains(&fields.sent.len()) {
                            return Err(length);
                        }
                        let elements = self.elements.take(header.pid, header.tid, header.time_ns);
                        let kind = plan.event(&fields, header.pid, &elements, &mut self.devices)?;
                        Ok(Decoded::Program(ProgramEvent {
                            pid: header.pid,
                            tid: header.tid,
                            time,
                            kind,
                            stack: None,
                        }))
                    }
                }
            }
        }
    }

    /// Where a process has a device, as far as it is known.
    pub fn pointers_to(&self, pid: u32, device: Device) -> impl Iterator<Item = u64> {
        let all = self.devices.iter();
        all.filter(move |((of, _), known)| *of == pid && **known == device)
            .map(|((_, pointer), _)| *pointer)
    }

    /// Records were lost: a block may not be that of the buffer which comes next.
    pub fn after_loss(&mut self) {
        self.blocks.clear();
    }

    /// A process's objects are gone.
    fn forget(&mut self, pid: u32) {
        self.devices.retain(|(of, _), _| *of != pid);
        self.blocks.retain(|(of, _), _| *of != pid);
        self.elements.forget(pid);
    }
}

impl KnownPoint {
    /// What a record says.
    fn kind(
        &self,
        fields: &Fields<'_>,
        pid: u32,
        devices: &mut HashMap<(u32, u64), Device>,
    ) -> Result<EventKind, DecodeError> {
        match (self.kind, fields.sent.len()) {
            (kind, 8) if !matches!(kind, PointKind::Allocate | PointKind::Create) => {
                Ok(short(kind, number(fields.sent)))
            }
            (_, len) if len == self.plan.capture.sent as usize => self.event(fields, pid, devices),
            (_, len) => Err(DecodeError::Length(size_of::<Header>() + len)),
        }
    }

    fn event(
        &self,
        fields: &Fields<'_>,
        pid: u32,
        devices: &mut HashMap<(u32, u64), Device>,
    ) -> Result<EventKind, DecodeError> {
        let object = fields.get(&self.plan.object)?;
        let object_pointer = ObjectPointer(object);
        let Some(plan) = &self.plan.buffer else {
            return Ok(short(self.kind, object));
        };
        let ownership = match fields.get(&plan.owns_data)? {
            0 => Ownership::NonOwning,
            1 => Ownership::Owning,
            other => return Err(DecodeError::Ownership(other)),
        };
        if self.kind == PointKind::Destroy && ownership == Ownership::NonOwning {
            return Ok(short(self.kind, object));
        }
        let device = device(fields, &plan.device, pid, devices)?;
        let buffer = Self::buffer(fields, plan, object_pointer, device, ownership)?;
        Ok(match self.kind {
            // The kernel's side sends only owning buffers that never got an address.
            PointKind::Destroy => EventKind::Failed(buffer),
            PointKind::Create => EventKind::Create(buffer),
            _ if fields.get(&plan.hooked)? != 0 => EventKind::Hooked(buffer),
            _ => EventKind::Allocate(buffer),
        })
    }

    fn buffer(
        fields: &Fields<'_>,
        plan: &BufferPlan,
        object: ObjectPointer,
        device: Device,
        ownership: Ownership,
    ) -> Result<Buffer, DecodeError> {
        let buffer_type = fields.get(&plan.buffer_type)?;
        Ok(Buffer {
            object,
            allocator: AllocatorPointer(fields.get(&plan.allocator)?),
            device,
            address: fields.get(&plan.address)?,
            size: fields.get(&plan.size)?,
            page_size: fields.get(&plan.page_size)?,
            buffer_type: BufferType::from_number(buffer_type)
                .ok_or(DecodeError::BufferType(buffer_type))?,
            layout: Layout::from_number(fields.get(&plan.layout)?),
            bytes_per_bank: None,
            unique_id: plan
                .unique_id
                .as_ref()
                .map(|location| fields.get(location))
                .transpose()?,
            ownership,
        })
    }
}

/// Which device a record is about. Of one that was sent before only its address is.
pub(super) fn device(
    fields: &Fields<'_>,
    plan: &DevicePlan,
    pid: u32,
    devices: &mut HashMap<(u32, u64), Device>,
) -> Result<Device, DecodeError> {
    let key = (pid, fields.get(&plan.pointer)?);
    let vtable = fields.get(&plan.vtable)?;
    let (kind, id) = if vtable == plan.chip_vtable {
        (DeviceKind::Chip, &plan.chip_id)
    } else if vtable == plan.mesh_vtable {
        (DeviceKind::Mesh, &plan.mesh_id)
    } else {
        let known = devices.get(&key).filter(|_| vtable == 0);
        return known.copied().ok_or(DecodeError::Device(vtable));
    };
    let id = fields.get(id)? as u32;
    let device = Device { kind, id };
    devices.insert(key, device);
    Ok(device)
}

/// What an end says of which the object is all that is told.
fn short(kind: PointKind, object: u64) -> EventKind {
    match kind {
        PointKind::BulkFree => EventKind::BulkFree(AllocatorPointer(object)),
        PointKind::Destroy => EventKind::Destroy(ObjectPointer(object)),
        _ => EventKind::Deallocate(ObjectPointer(object)),
    }
}

/// What was sent of a capture program's workspace.
pub(super) struct Fields<'a> {
    pub sent: &'a [u8],
    pub faults: u32,
}

impl Fields<'_> {
    pub fn get(&self, location: &Location) -> Result<u64, DecodeError> {
        if self.faults & location.needs != 0 {
            return Err(DecodeError::Fault {
                faults: self.faults,
                needed: location.needs,
            });
        }
        let at = location.at.saturating_sub(SENT_AT);
        let bytes = self.sent.get(at..at + usize::from(location.width));
        Ok(bytes.map(number).unwrap_or_default())
    }
}

/// The [`Capture::point`] that a record comes from.
pub fn point(record: &[u8]) -> Option<u32> {
    read_header(record).map(|header| header.point)
}

/// When a record was made, by `CLOCK_MONOTONIC`, in nanoseconds.
pub fn time_ns(record: &[u8]) -> Option<u64> {
    read_header(record).map(|header| header.time_ns)
}

/// A little-endian number of up to 8 bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .take(8)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

pub(super) fn read_header(record: &[u8]) -> Option<Header> {
    let bytes = record.get(..size_of::<Header>())?;
    let u32_at = |at: usize| number(&bytes[at..at + 4]) as u32;
    Some(Header {
        time_ns: number(&bytes[..8]),
        pid: u32_at(8),
        tid: u32_at(12),
        point: u32_at(16),
        faults: u32_at(20),
    })
}

/// How a process ended, from `task_struct.exit_code` (the encoding of `wait(2)`). `None` where the
/// kernel side couldn't read it.
fn exit(status: u64) -> Option<Exit> {
    let status = i32::try_from(status).ok()?;
    Some(match status & 0x7f {
        0 => Exit::Code(status >> 8 & 0xff),
        signal => Exit::Signal(signal),
    })
}
