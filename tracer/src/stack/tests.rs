//! Stacks of a recording: no process is read.

use super::*;
use crate::{
    frame::{Frame, FrameKind, Stack, StackId},
    ledger::{
        AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Layout,
        Nanoseconds, ObjectPointer, Ownership,
    },
    python::tests::model::{Function, interpreter},
    stream::{StackKey, StackPart, StackRecord, StackState},
    unwind::StackCopy,
};

pub(super) const PID: u32 = 100;
pub(super) const TID: u32 = 101;

pub(super) fn event(kind: EventKind) -> Event {
    Event {
        pid: PID,
        tid: TID,
        time: Nanoseconds(0),
        kind,
        stack: None,
    }
}

pub(super) fn device(kind: DeviceKind, id: u32) -> Device {
    Device { kind, id }
}

/// A buffer of 1 KiB.
pub(super) fn buffer(device: Device, address: u64, ownership: Ownership) -> Buffer {
    Buffer {
        object: ObjectPointer(address + u64::from(device.id)),
        allocator: AllocatorPointer(0xa),
        device,
        address,
        size: 1024,
        page_size: 1024,
        buffer_type: BufferType::Dram,
        layout: Layout::Interleaved,
        bytes_per_bank: None,
        unique_id: None,
        ownership,
    }
}

pub(super) fn allocation(device: Device, address: u64) -> Event {
    event(EventKind::Allocate(buffer(
        device,
        address,
        Ownership::Owning,
    )))
}

pub(super) fn creation(device: Device, address: u64) -> Event {
    event(EventKind::Create(buffer(
        device,
        address,
        Ownership::NonOwning,
    )))
}

const CHIP: Device = Device {
    kind: DeviceKind::Chip,
    id: 0,
};

/// An assembler, and the time of its last event.
struct Recording {
    assembler: StackAssembler,
    now: u64,
}

impl Recording {
    fn new() -> Self {
        let mut assembler = StackAssembler::new(false);
        assembler.set_interpreter(PID, interpreter());
        Self { assembler, now: 0 }
    }

    /// Takes a stack of these functions, the innermost first, and returns what the record of its event has of it.
    fn send(&mut self, functions: &[&Function]) -> StackState {
        self.now += 1;
        let key = StackKey {
            time_ns: self.now,
            tid: TID,
        };
        let frames: Vec<u8> = functions.iter().flat_map(|of| of.sent_frame()).collect();
        let frames = StackPart::Python {
            frames: &frames,
            more: false,
        };
        let codes = functions.iter().map(|of| StackPart::Code(of.sent()));
        for part in [frames].into_iter().chain(codes) {
            let pid = PID;
            self.assembler.take(&StackRecord { key, pid, part });
        }
        StackState::Sent(key)
    }

    fn allocate(&mut self, functions: &[&Function]) -> Option<StackId> {
        let state = self.send(functions);
        self.assembler.stack_of(&allocation(CHIP, 0x1000), state)
    }
}

fn named(id: u32, functions: &[&Function]) -> NamedStack {
    NamedStack {
        id: StackId(id),
        pid: PID,
        stack: Stack {
            frames: functions.iter().map(|of| of.frame()).collect(),
            broken: None,
        },
    }
}

#[test]
fn each_stack_is_named_once_in_the_order_of_the_ids() {
    let [a, b, c] = [(0x7000, "a"), (0x8000, "b"), (0x9000, "c")]
        .map(|(address, name)| Function::new(address, name));
    let mut recording = Recording::new();
    assert_eq!(recording.allocate(&[&a, &b]), Some(StackId(0)));
    assert_eq!(recording.allocate(&[&b]), Some(StackId(1)));
    assert_eq!(recording.allocate(&[&a, &b]), Some(StackId(0)));
    assert_eq!(
        recording.assembler.resolve_new(),
        [named(0, &[&a, &b]), named(1, &[&b])]
    );
    assert_eq!(recording.assembler.resolve_new(), []);

    assert_eq!(recording.allocate(&[&b]), Some(StackId(1)));
    assert_eq!(recording.allocate(&[&c]), Some(StackId(2)));
    assert_eq!(recording.assembler.resolve_new(), [named(2, &[&c])]);
}

#[test]
fn a_stack_of_a_process_that_has_ended_is_named() {
    let function = Function::new(0x7000, "run");
    let mut recording = Recording::new();
    assert_eq!(recording.allocate(&[&function]), Some(StackId(0)));
    recording.assembler.close(PID);
    assert_eq!(recording.assembler.resolve_new(), [named(0, &[&function])]);

    // The next process with this pid.
    assert_eq!(recording.assembler.interpreter(PID), None);
    recording.assembler.set_interpreter(PID, interpreter());
    assert_eq!(recording.allocate(&[&function]), Some(StackId(1)));
    assert_eq!(recording.assembler.resolve_new(), [named(1, &[&function])]);
}

#[test]
fn a_stack_that_was_taken_before_its_process_ended_can_be_used_after() {
    let function = Function::new(0x7000, "run");
    let mut recording = Recording::new();
    let state = recording.send(&[&function]);
    recording.assembler.close(PID);
    assert_eq!(recording.assembler.resolve_new(), []);
    let event = allocation(CHIP, 0x1000);
    let id = recording.assembler.stack_of(&event, state);
    assert_eq!(id, Some(StackId(0)));
    assert_eq!(recording.assembler.resolve_new(), [named(0, &[&function])]);
}

#[test]
fn a_program_event_has_the_same_stack_as_an_allocation_from_there() {
    let function = Function::new(0x7000, "run");
    let mut recording = Recording::new();
    let id = recording.allocate(&[&function]);
    let state = recording.send(&[&function]);
    assert_eq!(recording.assembler.stack_of_program(state), id);
    let unsent = [StackState::None, StackState::Skipped, StackState::OfMesh];
    for state in unsent {
        assert_eq!(recording.assembler.stack_of_program(state), None);
    }
}

#[test]
fn no_code_is_looked_up_where_no_process_is_read() {
    let mut recording = Recording::new();
    let key = StackKey {
        time_ns: 1,
        tid: TID,
    };
    let copy = StackCopy {
        ip: 0x1234,
        sp: 0x7000,
        bp: 0,
        bytes: &[],
    };
    // A process that runs: this one.
    let pid = std::process::id();
    let part = StackPart::Native(copy);
    recording.assembler.take(&StackRecord { key, pid, part });
    let state = StackState::Sent(key);
    recording
        .assembler
        .stack_of(&allocation(CHIP, 0x1000), state);
    let stack = &recording.assembler.resolve_new()[0].stack;
    let frame = Frame {
        kind: FrameKind::Native,
        function: None,
        file: None,
        line: None,
        module: None,
        offset: Some(0x1234),
    };
    assert_eq!(stack.frames, [frame]);
    assert!(stack.broken.is_some());
    assert!(matches!(
        recording.assembler.find_interpreter(pid),
        Ok(None)
    ));
}

#[test]
fn buffers_on_member_chips_have_the_stack_of_the_meshs_buffer() {
    let function = Function::new(0x7000, "run");
    let mut recording = Recording::new();
    let mesh = device(DeviceKind::Mesh, 1);
    let [first, second] = [0, 1].map(|id| device(DeviceKind::Chip, id));
    let state = recording.send(&[&function]);
    let assembler = &mut recording.assembler;
    let id = assembler.stack_of(&allocation(mesh, 0x2000), state);
    assert!(id.is_some());
    let mut of_member = |device, address| {
        let event = creation(device, address);
        assembler.stack_of(&event, StackState::OfMesh)
    };
    assert_eq!(of_member(first, 0x2000), id);
    assert_eq!(of_member(second, 0x3000), None, "another address");
    assert_eq!(of_member(second, 0x2000), id);
    assert_eq!(of_member(second, 0x2000), None, "one buffer per member");
    assert_eq!(of_member(mesh, 0x2000), None, "no chip");
}
