//! The lines of `--events`: one JSON object for each thing that happened.

use std::io;

use serde::Serialize;

use crate::{
    ledger::{
        Buffer, BufferType, Device, DeviceKind, Effect, Event, EventKind, Exit, Layout, LiveBuffer,
        Mark, Nanoseconds, Outcome, Ownership, ProgramEffect, ProgramEvent,
        programs::{Program, ProgramKey},
    },
    stack::StackId,
};

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventName {
    /// A buffer was there before the tracer came.
    Found,
    Allocate,
    Deallocate,
    Create,
    Destroy,
    BulkFree,
    Failed,
    Hooked,
    Fork,
    Exec,
    Exit,
    Lost,
    /// A program has places in L1, for the first time or others than before.
    ProgramLaidOut,
    ProgramDispatched,
    ProgramEnded,
    Mark,
}

/// What is unusual about a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// No such event was seen; the one on the next lines proves that it happened before.
    Implied,
    /// The buffer's birth was not seen.
    Unmatched,
    /// The buffer object held no memory any more, or never did.
    HadNoMemory,
    /// It came after its process's end and changed nothing.
    AfterExit,
}

/// One line. Fields that the kind of line does not have are left out. Sizes in bytes, times in
/// nanoseconds since the trace's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventLine {
    pub event: EventName,
    pub time_ns: Nanoseconds,
    /// Of the process that it happened in; for `lost`, of nobody in particular; 0 for `mark`.
    pub pid: u32,
    pub tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    #[serde(flatten)]
    pub detail: Detail,
}

/// What only some lines have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Detail {
    /// Of a line about one buffer.
    Buffer(BufferDetail),
    /// Of `allocate`, `create`, `failed` and `hooked`.
    Birth {
        #[serde(flatten)]
        buffer: BufferDetail,
        /// Where the thread was: the id of one of the stacks that the summary has of the process; `null` if that
        /// wasn't captured.
        stack: Option<StackId>,
    },
    /// Of an end whose buffer nobody saw born.
    Unknown {},
    /// Of `bulk_free`.
    BulkFree {
        /// How many live owning buffers it freed.
        freed_buffers: u64,
        /// Their bytes; on a mesh, on each member.
        freed_bytes: u64,
        /// The device that they lay on; `null` if there were none.
        device_id: Option<u32>,
        device_kind: Option<DeviceKind>,
    },
    /// Of `fork`.
    Fork {
        /// The new process's pid.
        child: u32,
    },
    /// Of `exec`: what went with the old program.
    Exec {
        /// How many live owning buffers.
        freed_buffers: u64,
        /// Their bytes; of those on a mesh, on each member.
        freed_bytes: u64,
    },
    /// Of `exit`: how, or `null` if nobody knows.
    Exit { exit: Option<Exit> },
    /// Of `program_laid_out`.
    Layout {
        /// The program's `number` in the summary.
        program: u64,
        /// TT-Metal's own number.
        id: u64,
        /// The device; `null` if that isn't known.
        device_id: Option<u32>,
        device_kind: Option<DeviceKind>,
        /// What it takes of L1 when it is dispatched, on all cores.
        bytes: u64,
        /// On how many.
        cores: u64,
        /// Where the thread was, as of a birth.
        stack: Option<StackId>,
    },
    /// Of `program_dispatched` and `program_ended`.
    Program {
        /// Its `number`; `null` if nobody saw it laid out.
        program: Option<u64>,
    },
    /// Of `lost`: how many events were not recorded since the last such line.
    Lost { count: u64 },
    /// Of `mark`.
    Mark {
        /// From 1 on.
        number: u32,
        name: Option<String>,
    },
}

/// A buffer at the event. At its end it says since when the buffer was live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BufferDetail {
    pub address: u64,
    pub size: u64,
    pub page_size: u64,
    pub buffer_type: BufferType,
    pub layout: Layout,
    /// How much of each bank the allocator took for it; `None` if that isn't known.
    pub bytes_per_bank: Option<u64>,
    pub device_id: u32,
    pub device_kind: DeviceKind,
    pub unique_id: Option<u64>,
    pub owns_data: bool,
    /// `None` if nobody knows.
    pub before_attach: Option<bool>,
    /// When it was allocated or created; `None` if nobody saw that or it never was.
    pub allocated_at_ns: Option<Nanoseconds>,
}

impl EventLine {
    /// The line for an event of a program and what the ledger said of it; none where nothing has
    /// changed. `program`: finds one that has not ended.
    pub fn of_program<'a>(
        event: &ProgramEvent,
        effect: ProgramEffect,
        program: impl FnOnce(ProgramKey) -> Option<&'a Program>,
    ) -> Option<Self> {
        let number = |ProgramKey(number)| number;
        let (name, detail) = match effect {
            ProgramEffect::LaidOut(key) => {
                let of = program(key)?;
                let device = of.layout.device;
                let detail = Detail::Layout {
                    program: number(key),
                    id: of.layout.id,
                    device_id: device.map(|device| device.id),
                    device_kind: device.map(|device| device.kind),
                    bytes: of.bytes(),
                    cores: of.cores(),
                    stack: of.stack,
                };
                (EventName::ProgramLaidOut, detail)
            }
            ProgramEffect::Dispatched(key) => {
                let program = key.map(number);
                (EventName::ProgramDispatched, Detail::Program { program })
            }
            ProgramEffect::Ended(Some(key)) => {
                let program = Some(number(key));
                (EventName::ProgramEnded, Detail::Program { program })
            }
            ProgramEffect::AsBefore(_) | ProgramEffect::Ended(None) | ProgramEffect::AfterExit => {
                return None;
            }
        };
        Some(Self {
            event: name,
            time_ns: event.time,
            pid: event.pid,
            tid: event.tid,
            note: None,
            detail,
        })
    }

    /// The lines for an event and what the ledger said of it: first the ends that it proves, then
    /// the event itself. Adding up the lines gives the ledger's totals.
    pub fn all(event: &Event, outcome: &Outcome) -> Vec<Self> {
        let &Event {
            pid,
            tid,
            time,
            kind,
            stack,
        } = event;
        let Outcome { implied, effect } = outcome;
        let line = |event, note, detail| Self {
            event,
            time_ns: time,
            pid,
            tid,
            note,
            detail,
        };
        let of_buffer = |event, note, buffer: &Buffer, before_attach, since| {
            line(
                event,
                note,
                Detail::Buffer(BufferDetail::new(buffer, before_attach, since)),
            )
        };
        let birth = |event, note, buffer: &Buffer, since| {
            let buffer = BufferDetail::new(buffer, Some(false), since);
            line(event, note, Detail::Birth { buffer, stack })
        };
        let end = |event, note, live: &LiveBuffer| {
            of_buffer(
                event,
                note,
                &live.buffer,
                Some(live.before_attach()),
                live.since(),
            )
        };

        let mut lines: Vec<Self> = implied
            .iter()
            .map(|live| match live.buffer.ownership {
                Ownership::Owning => end(EventName::Deallocate, Some(Note::Implied), live),
                Ownership::NonOwning => end(EventName::Destroy, Some(Note::Implied), live),
            })
            .collect();
        let note = match effect {
            Effect::Unmatched => Some(Note::Unmatched),
            Effect::HadNoMemory => Some(Note::HadNoMemory),
            Effect::AfterExit => Some(Note::AfterExit),
            // What was known has its line.
            Effect::Known => return Vec::new(),
            Effect::Allocated
            | Effect::Found
            | Effect::Created { joined: _ }
            | Effect::Deallocated(_)
            | Effect::Destroyed(_)
            | Effect::BulkFreed { .. }
            | Effect::Failed
            | Effect::Hooked
            | Effect::Forked { .. }
            | Effect::Executed { .. }
            | Effect::Exited
            | Effect::Lost(_) => None,
        };
        lines.push(match (kind, effect) {
            (EventKind::Deallocate(_), Effect::Deallocated(live)) => {
                end(EventName::Deallocate, note, live)
            }
            (EventKind::Destroy(_), Effect::Destroyed(live)) => end(EventName::Destroy, note, live),
            (EventKind::Deallocate(_), _) => line(EventName::Deallocate, note, Detail::Unknown {}),
            (EventKind::Destroy(_), _) => line(EventName::Destroy, note, Detail::Unknown {}),
            (EventKind::Found(buffer), _) => {
                of_buffer(EventName::Found, note, &buffer, Some(true), None)
            }
            (EventKind::Allocate(buffer), _) => {
                birth(EventName::Allocate, note, &buffer, Some(time))
            }
            (EventKind::Create(buffer), _) => birth(EventName::Create, note, &buffer, Some(time)),
            (EventKind::Hooked(buffer), _) => birth(EventName::Hooked, note, &buffer, None),
            (EventKind::Failed(buffer), _) => birth(EventName::Failed, note, &buffer, None),
            (EventKind::BulkFree(_), effect) => {
                let (freed_buffers, freed_bytes, device) = match *effect {
                    Effect::BulkFreed {
                        buffers,
                        bytes,
                        device,
                    } => (buffers, bytes, device),
                    _ => (0, 0, None),
                };
                let device_id = device.map(|device| device.id);
                let device_kind = device.map(|device| device.kind);
                let detail = Detail::BulkFree {
                    freed_buffers,
                    freed_bytes,
                    device_id,
                    device_kind,
                };
                line(EventName::BulkFree, note, detail)
            }
            (EventKind::Fork { child }, _) => line(EventName::Fork, note, Detail::Fork { child }),
            (EventKind::Exec, effect) => {
                let (freed_buffers, freed_bytes) = match *effect {
                    Effect::Executed { buffers, bytes } => (buffers, bytes),
                    _ => (0, 0),
                };
                let detail = Detail::Exec {
                    freed_buffers,
                    freed_bytes,
                };
                line(EventName::Exec, note, detail)
            }
            (EventKind::Exit(exit), _) => line(EventName::Exit, note, Detail::Exit { exit }),
            (EventKind::Lost(count), _) => line(EventName::Lost, note, Detail::Lost { count }),
        });
        lines
    }
}

impl From<&Mark> for EventLine {
    fn from(mark: &Mark) -> Self {
        let Mark { number, name, at } = mark;
        Self {
            event: EventName::Mark,
            time_ns: *at,
            pid: 0,
            tid: 0,
            note: None,
            detail: Detail::Mark {
                number: *number,
                name: name.clone(),
            },
        }
    }
}

impl BufferDetail {
    fn new(buffer: &Buffer, before_attach: Option<bool>, since: Option<Nanoseconds>) -> Self {
        let &Buffer {
            object: _,
            allocator: _,
            device:
                Device {
                    kind: device_kind,
                    id: device_id,
                },
            address,
            size,
            page_size,
            buffer_type,
            layout,
            bytes_per_bank,
            unique_id,
            ownership,
        } = buffer;
        Self {
            address,
            size,
            page_size,
            buffer_type,
            layout,
            bytes_per_bank,
            device_id,
            device_kind,
            unique_id,
            owns_data: ownership == Ownership::Owning,
            before_attach,
            allocated_at_ns: since,
        }
    }
}

/// Writes the lines for an event, each ended by a newline.
///
/// # Errors
/// Whatever `writer` returns.
pub fn write_lines(
    writer: &mut impl io::Write,
    event: &Event,
    outcome: &Outcome,
) -> io::Result<()> {
    EventLine::all(event, outcome)
        .iter()
        .try_for_each(|line| write_line(writer, line))
}

/// Writes one line, ended by a newline.
///
/// # Errors
/// Whatever `writer` returns.
pub fn write_line(writer: &mut impl io::Write, line: &EventLine) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, line)?;
    writer.write_all(b"\n")
}
