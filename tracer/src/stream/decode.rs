//! Records in, events out.

use tracer_common::{
    Capture, Header, Lists, MAX_LISTS, MAX_READS, POINT_ELEMENT, POINT_EXEC, POINT_EXIT,
    POINT_FORK, POINT_LINKED, Short,
};

use super::{
    blocks::Blocks,
    buffers::BufferPoint,
    devices::Devices,
    elements::Elements,
    fields::Fields,
    lists::ListsPlan,
    plan::PlanError,
    programs::ProgramPoint,
    record::{DecodeError, number, read_header},
};
use crate::{
    abi::{Abi, PointKind, Programs},
    ledger::{Device, Event, EventKind, Exit, Nanoseconds, ProgramEvent},
};

/// The bits of [`Header::faults`] for reads that failed.
const READS: u32 = (1 << MAX_READS) - 1;

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// An event of device memory.
    Memory(Event),
    /// An event of a program.
    Program(ProgramEvent),
    /// A part of a later record's event.
    Part,
    /// A process forked ([`EventKind::Fork`]) or its last thread ended ([`EventKind::Exit`]).
    Life(Event),
    /// A process executed a program ([`EventKind::Exec`]).
    Executed {
        event: Event,
        /// It is stopped until the tracer lets it go on.
        stopped: bool,
    },
    /// A process's dynamic linker is about to load libraries, or has done so.
    Linked {
        pid: u32,
        /// It is stopped until the tracer lets it go on.
        stopped: bool,
    },
}

/// Decodes the records of every probe point that was added to it.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Indexed by `Capture::point`.
    points: Vec<Point>,
    elements: Elements,
    /// The number of libraries whose programs' lists were added.
    lists: u32,
    devices: Devices,
    blocks: Blocks,
    started_at: u64,
}

/// The captures of a library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    /// The offset of each probe in the library's file, and its capture program.
    pub captures: Vec<(u64, Capture)>,
    /// The lists that the capture programs of programs refer to, and their number.
    pub lists: Option<(u32, Lists)>,
}

#[derive(Debug)]
enum Point {
    Buffer(Box<BufferPoint>),
    Program(Box<ProgramPoint>),
}

impl Stream {
    /// `started_at`: the trace's start by `CLOCK_MONOTONIC`, in nanoseconds.
    pub(crate) fn new(started_at: u64) -> Self {
        Self {
            points: Vec::new(),
            elements: Elements::default(),
            lists: 0,
            devices: Devices::default(),
            blocks: Blocks::default(),
            started_at,
        }
    }

    /// Plans the captures for all probe points of a library, and for those of its programs if
    /// `programs` is given.
    ///
    /// # Errors
    /// When a point can't be captured.
    pub(crate) fn add(
        &mut self,
        abi: &Abi,
        programs: Option<&Programs>,
    ) -> Result<Planned, PlanError> {
        let mut planned = Planned::default();
        let mut points = Vec::new();
        for point in &abi.points {
            let number = (self.points.len() + points.len()) as u32;
            let planned_point = BufferPoint::new(abi, point, number)?;
            planned
                .captures
                .push((point.file_offset, planned_point.capture));
            points.push(Point::Buffer(Box::new(planned_point)));
        }
        if let Some(programs) = programs.filter(|_| self.lists < MAX_LISTS) {
            for point in &programs.points {
                let number = (self.points.len() + points.len()) as u32;
                let planned_point = ProgramPoint::new(abi, programs, point, number, self.lists)?;
                planned
                    .captures
                    .push((point.file_offset, planned_point.capture));
                points.push(Point::Program(Box::new(planned_point)));
            }
            planned.lists = Some((self.lists, ListsPlan::new(programs)?.lists));
            self.lists += 1;
        }
        self.points.append(&mut points);
        Ok(planned)
    }

    /// Decodes one record. Those of a thread must come in the order in which they were sent.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub(crate) fn decode(&mut self, record: &[u8]) -> Result<Decoded, DecodeError> {
        let length = || DecodeError::Length(record.len());
        let header = read_header(record).ok_or_else(length)?;
        let event = |kind| Event {
            pid: header.pid,
            tid: header.tid,
            time: self.time(&header),
            kind,
            stack: None,
        };
        let value = || {
            let bytes = record.get(size_of::<Header>()..size_of::<Short>());
            bytes.map(number).ok_or_else(length)
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
            _ => self.hit(&header, &record[size_of::<Header>()..]),
        }
    }

    /// Decodes the record of a probe point's hit.
    fn hit(&mut self, header: &Header, sent: &[u8]) -> Result<Decoded, DecodeError> {
        let time = self.time(header);
        let &Header { pid, tid, .. } = header;
        let faults = header.faults & READS;
        let fields = Fields { sent, faults };
        let point = self.points.get(header.point as usize);
        match point.ok_or(DecodeError::Point(header.point))? {
            Point::Buffer(point) if point.kind == PointKind::Block && sent.len() == 8 => {
                self.blocks.insert(header, number(sent));
                Ok(Decoded::Part)
            }
            Point::Buffer(point) => {
                // Even if the record can't be decoded, its allocation has taken the block.
                let block = match point.kind {
                    PointKind::Allocate => self.blocks.take(header),
                    _ => None,
                };
                let mut kind = point.event(&fields, pid, &mut self.devices)?;
                if let EventKind::Allocate(buffer) = &mut kind {
                    // For an empty buffer no block is taken.
                    buffer.bytes_per_bank = block.filter(|_| buffer.size > 0);
                }
                Ok(Decoded::Memory(Event {
                    pid,
                    tid,
                    time,
                    kind,
                    stack: None,
                }))
            }
            Point::Program(point) => {
                let whole = point.capture.sent as usize;
                if ![8, whole].contains(&sent.len()) {
                    return Err(DecodeError::Length(size_of::<Header>() + sent.len()));
                }
                let elements = self.elements.take(pid, tid, header.time_ns);
                let kind = point.event(&fields, pid, &elements, &mut self.devices)?;
                Ok(Decoded::Program(ProgramEvent {
                    pid,
                    tid,
                    time,
                    kind,
                    stack: None,
                }))
            }
        }
    }

    /// The addresses of the objects that stand for a device in a process, as far as records had them.
    pub(crate) fn pointers_to(&self, pid: u32, device: Device) -> impl Iterator<Item = u64> {
        self.devices.pointers_to(pid, device)
    }

    fn time(&self, header: &Header) -> Nanoseconds {
        Nanoseconds(header.time_ns.saturating_sub(self.started_at))
    }

    /// Removes what is kept of a process's objects and threads, which are gone.
    fn forget(&mut self, pid: u32) {
        self.devices.forget(pid);
        self.blocks.forget(pid);
        self.elements.forget(pid);
    }
}

/// How a process ended, from `task_struct.exit_code` (encoded as by `wait(2)`). `None` if the kernel's
/// side couldn't read it.
fn exit(status: u64) -> Option<Exit> {
    let status = i32::try_from(status).ok()?;
    Some(match status & 0x7f {
        0 => Exit::Code(status >> 8 & 0xff),
        signal => Exit::Signal(signal),
    })
}
