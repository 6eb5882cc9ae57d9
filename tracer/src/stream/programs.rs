//! Programs: what is captured at their probe points, and the events that the records are decoded to.

use tracer_common::{BLOCK_AT, COUNTS_AT, Capture, LISTS, SECOND_SENT_AT, SENT_AT, lists, stack};

use super::{
    devices::Devices,
    elements::SentElement,
    fields::Fields,
    lists::{CIRCULAR_BUFFERS, ListsPlan, SEMAPHORES},
    plan::{DevicePlan, Guard, Location, PlanError, Planner},
    record::DecodeError,
};
use crate::{
    abi::{Abi, Point, PointKind, Programs},
    ledger::programs::{Layout, ProgramEventKind, ProgramPointer},
};

/// A probe point of programs: its capture program, and the locations of the fields in the records.
#[derive(Clone, Debug)]
pub(super) struct ProgramPoint {
    kind: PointKind,
    pub(super) capture: Capture,
    lists: ListsPlan,
    /// The program's id; the runtime id is behind it.
    ids: Location,
    device: Option<DevicePlan>,
}

impl ProgramPoint {
    /// Plans the capture at one probe point. `number` comes back in each record; `set` is the number of the
    /// library's lists.
    pub(super) fn new(
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
            lists: ListsPlan::new(programs)?,
            ids,
            device,
        })
    }

    /// The event that a record stands for. `elements`: those of the same hit.
    pub(super) fn event(
        &self,
        fields: &Fields<'_>,
        pid: u32,
        elements: &[SentElement],
        devices: &mut Devices,
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
            .map(|plan| devices.read(fields, plan, pid))
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
            buffers: self.lists.sends(CIRCULAR_BUFFERS).then(Vec::new),
            semaphores: self.lists.sends(SEMAPHORES).then(Vec::new),
            complete: true,
        };
        let mut missing = 0;
        for list in 0..LISTS {
            missing += fields.get(&word(COUNTS_AT + 8 * list))?;
        }
        for element in elements.iter().filter(|sent| sent.object == program.0) {
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

/// A word that is valid whether reads succeeded or not.
fn word(at: usize) -> Location {
    Location {
        at,
        width: 8,
        needs: 0,
    }
}
