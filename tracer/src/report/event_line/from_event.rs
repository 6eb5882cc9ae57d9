//! The lines for an event, from the event and its effect on the ledger.

use super::line::{BufferDetail, Detail, EventLine, EventName, Note};
use crate::ledger::{
    Buffer, Device, Effect, Event, EventKind, LiveBuffer, Mark, Nanoseconds, Outcome, Ownership,
    ProgramEffect, ProgramEvent,
    programs::{Program, ProgramKey},
};

impl EventLine {
    /// The line for an event of a program and its effect on the ledger; `None` if it changed nothing.
    /// `program`: finds a program that still exists.
    pub(crate) fn from_program_event<'a>(
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

    /// The lines for an event and its outcome: first the frees and destructions that it proves, then the
    /// event itself. The sizes on all lines add up to the ledger's totals.
    pub(crate) fn from_event(event: &Event, outcome: &Outcome) -> Vec<Self> {
        let &Event {
            pid,
            tid,
            time,
            kind,
            stack,
        } = event;
        let Outcome {
            implied_ends: implied,
            effect,
        } = outcome;
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
        let with_stack = |event, note, buffer: &Buffer, since| {
            let buffer = BufferDetail::new(buffer, Some(false), since);
            line(event, note, Detail::BufferWithStack { buffer, stack })
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
            // The buffer already has its line.
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
                with_stack(EventName::Allocate, note, &buffer, Some(time))
            }
            (EventKind::Create(buffer), _) => {
                with_stack(EventName::Create, note, &buffer, Some(time))
            }
            (EventKind::Hooked(buffer), _) => with_stack(EventName::Hooked, note, &buffer, None),
            (EventKind::Failed(buffer), _) => with_stack(EventName::Failed, note, &buffer, None),
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
