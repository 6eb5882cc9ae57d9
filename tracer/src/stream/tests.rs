//! Capture programs run over a model of a target's memory, as the kernel's side runs them, and what
//! their records say.

mod programs;

use std::collections::BTreeMap;

use tracer_common::{
    BLOCK_AT, Capture, Condition, Header, KNOWN_AT, MAX_READ_LEN, POINT_EXEC, POINT_EXIT,
    POINT_FORK, POINT_LINKED, SENT_AT, WORKSPACE_LEN, register, wake,
};

use super::{DecodeError, Decoded, PlanError, Stream, plan::plan};
use crate::{
    abi::{Abi, FieldPath, Holder, PointKind, fixture},
    ledger::{
        AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Exit, Layout,
        Nanoseconds, ObjectPointer, Ownership,
    },
};

const BIAS: u64 = 0x7f00_0000_0000;
const BUFFER: u64 = 0x5000;
const DEVICE: u64 = 0x9000;
const PID: u32 = 41;
const TID: u32 = 43;

/// A target's memory, by the byte.
#[derive(Clone, Default)]
struct Memory(BTreeMap<u64, u8>);

impl Memory {
    fn put(&mut self, address: u64, value: u64, width: u8) {
        for i in 0..width {
            self.0
                .insert(address + u64::from(i), (value >> (8 * i)) as u8);
        }
    }

    /// Makes an object's memory readable: zero where nothing was put.
    fn map(&mut self, address: u64, len: u64) {
        for at in address..address + len {
            self.0.entry(at).or_insert(0);
        }
    }

    fn read(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        (address..address + len as u64)
            .map(|at| self.0.get(&at).copied())
            .collect()
    }

    /// Puts a value where `path` leads from `root`, making objects on the way.
    fn put_field(&mut self, root: u64, path: &FieldPath, value: u64) {
        let mut address = root;
        for deref in &path.derefs {
            let at = address.wrapping_add_signed(*deref);
            let next = self
                .read(at, 8)
                .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
                .filter(|p| *p != 0);
            address = next.unwrap_or_else(|| {
                let object = 0x10_0000 + at;
                self.put(at, object, 8);
                self.map(object, 0x300);
                object
            });
        }
        self.put(address.wrapping_add_signed(path.offset), value, path.width);
    }
}

/// What the kernel's side does (`tracer-ebpf`, `capture`).
fn execute(
    capture: &Capture,
    registers: [u64; 16],
    ip: u64,
    memory: &Memory,
    known: bool,
) -> Option<Vec<u8>> {
    let value = registers[capture.register as usize].to_le_bytes();
    let short = || Some(record(capture.point, 0, &value));
    if capture.read_count == 0 {
        return short();
    }
    let mut workspace = vec![0; WORKSPACE_LEN];
    workspace[..8].copy_from_slice(&value);
    workspace[SENT_AT..SENT_AT + 8].copy_from_slice(&value);
    let word =
        |bytes: &[u8], at: u16| u64::from_le_bytes(bytes[at.into()..][..8].try_into().unwrap());
    if capture.known_by != 0 && known {
        workspace[KNOWN_AT] = 1;
    }
    let mut faults = 0_u32;
    for i in 0..=capture.read_count {
        if i == capture.condition_after && capture.condition_count > 0 {
            let holds = |c: &Condition| u16::from(workspace[usize::from(c.at)]) == c.value;
            if holds(&capture.conditions[0]) && capture.short_on_first != 0 {
                return short();
            }
            if !capture.conditions.iter().any(holds) {
                return None;
            }
        }
        let read = capture.reads.get(i as usize);
        let Some(read) = read.filter(|_| i < capture.read_count) else {
            break;
        };
        let (to, len) = (usize::from(read.to), usize::from(read.len));
        assert!(
            read.base % 8 == 0 && read.guard_at % 8 == 0 && to % 8 == 0,
            "{read:?}"
        );
        assert!(to <= BLOCK_AT && len <= MAX_READ_LEN, "{read:?}");
        if word(&workspace, read.guard_at) & read.guard_mask != read.guard {
            continue;
        }
        let from = word(&workspace, read.base).wrapping_add_signed(read.offset);
        let bytes = memory.read(from, len).unwrap_or_else(|| {
            faults |= 1 << i;
            vec![0; len]
        });
        workspace[to..to + len].copy_from_slice(&bytes);
        let word = word(&workspace, read.to).wrapping_sub(ip & read.relative);
        workspace[to..to + 8].copy_from_slice(&word.to_le_bytes());
    }
    let sent = &workspace[SENT_AT..SENT_AT + capture.sent as usize];
    Some(record(capture.point, faults, sent))
}

/// A record of 1,500 ns by the kernel's clock.
fn record(point: u32, faults: u32, sent: &[u8]) -> Vec<u8> {
    let mut bytes = 1_500_u64.to_le_bytes().to_vec();
    for word in [PID, TID, point, faults] {
        bytes.extend(word.to_le_bytes());
    }
    assert_eq!(bytes.len(), size_of::<Header>());
    bytes.extend(sent);
    bytes
}

fn abis() -> [Abi; 2] {
    [fixture::ttnn_0_81_1(), fixture::ttnn_0_77_0()]
}

/// An owning DRAM buffer of a mesh, with an address.
fn memory(abi: &Abi) -> Memory {
    let mut memory = Memory::default();
    memory.map(BUFFER, 0x300);
    memory.map(DEVICE, 0x100);
    let fields = &abi.fields;
    for (field, value) in [
        (&fields.device, DEVICE),
        (&fields.size, 524_288),
        (&fields.page_size, 2048),
        (&fields.buffer_type, 0),
        (&fields.layout, 2),
        (&fields.owns_data, 1),
        (&fields.allocator, 0xa110c),
        (&fields.status, 1),
        (&fields.hooked, 0),
        (&fields.address, 0x10_0040),
    ] {
        memory.put_field(BUFFER, &field.path, value);
    }
    if let Some(field) = &fields.unique_id {
        memory.put_field(BUFFER, &field.path, 77);
    }
    set_mesh(&mut memory, abi, 5);
    memory
}

fn set_mesh(memory: &mut Memory, abi: &Abi, id: u64) {
    memory.put(DEVICE, BIAS + abi.mesh_vtable, 8);
    memory.put_field(DEVICE, &abi.fields.mesh_id.path, id);
}

fn set_chip(memory: &mut Memory, abi: &Abi, id: u64) {
    memory.put(DEVICE, BIAS + abi.chip_vtable, 8);
    // What would be a pointer in a mesh is the id in a chip: it must not be followed.
    memory.put_field(DEVICE, &abi.fields.chip_id.path, id);
}

fn expected() -> Buffer {
    Buffer {
        object: ObjectPointer(BUFFER),
        allocator: AllocatorPointer(0xa110c),
        device: Device {
            kind: DeviceKind::Mesh,
            id: 5,
        },
        address: 0x10_0040,
        size: 524_288,
        page_size: 2048,
        buffer_type: BufferType::Dram,
        layout: Layout::HeightSharded,
        bytes_per_bank: None,
        unique_id: Some(77),
        ownership: Ownership::Owning,
    }
}

/// The record of a hit of one of a library's probe points, if it is kept, decoded.
fn hit(abi: &Abi, kind: PointKind, memory: &Memory) -> Option<Result<Decoded, DecodeError>> {
    let mut stream = Stream::new(500);
    let captures = stream.add(abi, None).unwrap().captures;
    let index = abi
        .points
        .iter()
        .position(|point| point.kind == kind)
        .unwrap();
    let mut memory = memory.clone();
    let mut registers = [0xdead_dead_dead; 16];
    let point = &abi.points[index];
    // `create` has a `shared_ptr<Buffer>` at hand, the others the `Buffer` itself.
    let pointer = if point.derefs.is_empty() {
        BUFFER
    } else {
        0x3000
    };
    memory.put(0x3000, BUFFER, 8);
    match point.holder {
        Holder::Register(register) => registers[register as usize] = pointer,
        Holder::Stack(offset) => {
            registers[register::RSP as usize] = 0x2000;
            memory.put(0x2000_u64.wrapping_add_signed(offset), pointer, 8);
        }
    }
    let (_, capture) = captures[index];
    Some(stream.decode(&execute(
        &capture,
        registers,
        BIAS + point.address,
        &memory,
        false,
    )?))
}

/// Of a probe point's instruction, in the library.
fn address(abi: &Abi, kind: PointKind) -> u64 {
    let point = abi.points.iter().find(|point| point.kind == kind);
    point.unwrap().address
}

fn event(kind: EventKind) -> Option<Result<Decoded, DecodeError>> {
    Some(Ok(Decoded::Memory(Event {
        pid: PID,
        tid: TID,
        time: Nanoseconds(1_000),
        kind,
        stack: None,
    })))
}

#[test]
fn an_allocation_brings_every_field_of_the_buffer() {
    for abi in abis() {
        assert_eq!(
            hit(&abi, PointKind::Allocate, &memory(&abi)),
            event(EventKind::Allocate(expected()))
        );
    }
}

/// The kernel's side knows a device once it has sent it, until an allocator frees all.
#[test]
fn a_device_that_was_sent_is_not_read_again() {
    for abi in abis() {
        let mut stream = Stream::new(500);
        let index = abi
            .points
            .iter()
            .position(|point| point.kind == PointKind::Allocate)
            .unwrap();
        let (_, capture) = stream.add(&abi, None).unwrap().captures[index];
        assert_eq!(capture.forget, 0);
        let mut registers = [0; 16];
        registers[register::RSI as usize] = BUFFER;
        let ip = BIAS + abi.points[index].address;
        let whole = memory(&abi);
        let mut without_device = whole.clone();
        without_device
            .0
            .retain(|at, _| !(DEVICE..DEVICE + 0x100).contains(at));
        let known = execute(&capture, registers, ip, &without_device, true).unwrap();

        assert_eq!(stream.decode(&known), Err(DecodeError::Device(0)));
        let sent = execute(&capture, registers, ip, &whole, false).unwrap();
        let allocated = event(EventKind::Allocate(expected())).unwrap();
        assert_eq!(stream.decode(&sent), allocated);
        assert_eq!(stream.decode(&known), allocated);
    }
}

/// One stream of a library's records.
struct Hits<'a> {
    abi: &'a Abi,
    stream: Stream,
    captures: Vec<Capture>,
}

impl<'a> Hits<'a> {
    fn on(abi: &'a Abi) -> Self {
        let mut stream = Stream::new(500);
        let captures = stream.add(abi, None).unwrap().captures;
        let captures = captures.into_iter().map(|(_, capture)| capture).collect();
        Self {
            abi,
            stream,
            captures,
        }
    }

    /// A hit of a function's entry, in a thread, with what is looked for there as `argument`.
    fn hit(&mut self, kind: PointKind, tid: u32, argument: u64, memory: &Memory) -> Decoded {
        let mut points = self.abi.points.iter();
        let index = points.position(|point| point.kind == kind).unwrap();
        let point = &self.abi.points[index];
        let Holder::Register(register) = point.holder else {
            panic!("not at an entry")
        };
        let mut registers = [0xdead; 16];
        registers[register as usize] = argument;
        let ip = BIAS + point.address;
        let capture = &self.captures[index];
        let mut record = execute(capture, registers, ip, memory, false).unwrap();
        record[12..16].copy_from_slice(&tid.to_le_bytes());
        self.stream.decode(&record).unwrap()
    }

    fn block(&mut self, tid: u32, bytes: u64) {
        let part = self.hit(PointKind::Block, tid, bytes, &Memory::default());
        assert_eq!(part, Decoded::Part);
    }

    /// How much of each bank an allocated buffer takes.
    fn allocate(&mut self, tid: u32, memory: &Memory) -> Option<u64> {
        match self.hit(PointKind::Allocate, tid, BUFFER, memory) {
            Decoded::Memory(Event {
                kind: EventKind::Allocate(buffer),
                ..
            }) => buffer.bytes_per_bank,
            other => panic!("no allocation: {other:?}"),
        }
    }
}

#[test]
fn a_buffer_takes_the_block_that_its_thread_took_last() {
    for abi in abis() {
        let mut hits = Hits::on(&abi);
        let buffer = memory(&abi);
        assert_eq!(hits.allocate(1, &buffer), None);
        hits.block(1, 0x800);
        hits.block(2, 0x40);
        // One that was taken for nobody: an allocation that failed after.
        hits.block(1, 0x2c00);
        assert_eq!(hits.allocate(1, &buffer), Some(0x2c00));
        assert_eq!(hits.allocate(1, &buffer), None);
        assert_eq!(hits.allocate(2, &buffer), Some(0x40));
    }
}

#[test]
fn for_an_empty_buffer_no_block_is_taken() {
    for abi in abis() {
        let mut hits = Hits::on(&abi);
        let mut empty = memory(&abi);
        empty.put_field(BUFFER, &abi.fields.size.path, 0);
        hits.block(1, 0x800);
        assert_eq!(hits.allocate(1, &empty), None);
        assert_eq!(hits.allocate(1, &memory(&abi)), None);
    }
}

#[test]
fn a_block_may_be_anybodys_where_records_were_lost() {
    for abi in abis() {
        let mut hits = Hits::on(&abi);
        hits.block(1, 0x800);
        hits.stream.after_loss();
        assert_eq!(hits.allocate(1, &memory(&abi)), None);
    }
}

/// A new program's threads may have the numbers of the old one's.
#[test]
fn a_program_that_is_executed_takes_the_blocks_of_none() {
    for abi in abis() {
        let mut hits = Hits::on(&abi);
        hits.block(1, 0x800);
        let executed = record(POINT_EXEC, 0, &[0; 8]);
        assert!(matches!(
            hits.stream.decode(&executed),
            Ok(Decoded::Executed { .. })
        ));
        assert_eq!(hits.allocate(1, &memory(&abi)), None);
    }
}

/// For most records nobody is woken: that would cost the target more than all the rest.
#[test]
fn the_reader_is_woken_for_what_it_must_look_at_in_time() {
    for abi in abis() {
        let hits = Hits::on(&abi);
        let wakes = abi.points.iter().zip(&hits.captures);
        let wakes: Vec<_> = wakes
            .filter(|(_, capture)| capture.wake != wake::NEVER)
            .map(|(point, capture)| (point.kind, capture.wake))
            .collect();
        let expected = [
            (PointKind::Destroy, wake::ALWAYS),
            (PointKind::Allocate, wake::FIRST),
        ];
        assert_eq!(wakes, expected);
    }
}

#[test]
fn a_bulk_free_makes_devices_unknown() {
    for abi in abis() {
        let captures = Stream::new(0).add(&abi, None).unwrap().captures;
        for (point, (_, capture)) in abi.points.iter().zip(captures) {
            assert_eq!(capture.forget == 1, point.kind == PointKind::BulkFree);
        }
    }
}

#[test]
fn a_hooked_allocation_is_none() {
    for abi in abis() {
        let mut memory = memory(&abi);
        memory.put_field(BUFFER, &abi.fields.hooked.path, 1);
        memory.put_field(BUFFER, &abi.fields.address.path, 0);
        let hooked = EventKind::Hooked(Buffer {
            address: 0,
            ..expected()
        });
        assert_eq!(hit(&abi, PointKind::Allocate, &memory), event(hooked));
    }
}

#[test]
fn a_mesh_member_is_created_on_its_chip() {
    for abi in abis() {
        let mut memory = memory(&abi);
        memory.put_field(BUFFER, &abi.fields.owns_data.path, 0);
        set_chip(&mut memory, &abi, 3);
        let device = Device {
            kind: DeviceKind::Chip,
            id: 3,
        };
        let member = Buffer {
            device,
            ownership: Ownership::NonOwning,
            ..expected()
        };
        assert_eq!(
            hit(&abi, PointKind::Create, &memory),
            event(EventKind::Create(member))
        );
        // Its end is told without looking at the device.
        memory
            .0
            .retain(|at, _| !(DEVICE..DEVICE + 0x100).contains(at));
        let ended = EventKind::Destroy(ObjectPointer(BUFFER));
        assert_eq!(hit(&abi, PointKind::Destroy, &memory), event(ended));
    }
}

#[test]
fn a_free_reads_nothing() {
    for abi in abis() {
        let freed = EventKind::Deallocate(ObjectPointer(BUFFER));
        assert_eq!(
            hit(&abi, PointKind::Deallocate, &Memory::default()),
            event(freed)
        );
    }
}

#[test]
fn the_end_of_an_owning_buffer_says_something_only_if_it_never_got_an_address() {
    for abi in abis() {
        let mut memory = memory(&abi);
        for status in [1, 2] {
            memory.put_field(BUFFER, &abi.fields.status.path, status);
            assert_eq!(
                hit(&abi, PointKind::Destroy, &memory),
                None,
                "status {status}"
            );
        }
        memory.put_field(BUFFER, &abi.fields.status.path, 0);
        memory.put_field(BUFFER, &abi.fields.address.path, 0);
        let failed = EventKind::Failed(Buffer {
            unique_id: None,
            address: 0,
            ..expected()
        });
        assert_eq!(hit(&abi, PointKind::Destroy, &memory), event(failed));
    }
}

#[test]
fn a_bulk_free_names_the_allocator() {
    for abi in abis() {
        let freed = EventKind::BulkFree(AllocatorPointer(BUFFER));
        assert_eq!(hit(&abi, PointKind::BulkFree, &memory(&abi)), event(freed));
    }
}

#[test]
fn what_can_not_be_read_is_no_event() {
    for abi in abis() {
        let mut memory = memory(&abi);
        memory.0.retain(|at, _| *at < DEVICE);
        let Some(Err(DecodeError::Fault { .. })) = hit(&abi, PointKind::Allocate, &memory) else {
            panic!("decoded without the device")
        };
    }
}

#[test]
fn nonsense_in_the_memory_is_no_event() {
    for abi in abis() {
        let nonsense = |path: &FieldPath, value| {
            let mut memory = memory(&abi);
            memory.put_field(BUFFER, path, value);
            hit(&abi, PointKind::Allocate, &memory)
        };
        assert_eq!(
            nonsense(&abi.fields.buffer_type.path, 9),
            Some(Err(DecodeError::BufferType(9)))
        );
        assert_eq!(
            nonsense(&abi.fields.owns_data.path, 7),
            Some(Err(DecodeError::Ownership(7)))
        );
        let mut memory = memory(&abi);
        memory.put(DEVICE, 0x1234, 8);
        assert_eq!(
            hit(&abi, PointKind::Allocate, &memory),
            Some(Err(DecodeError::Device(
                0x1234_u64.wrapping_sub(BIAS + address(&abi, PointKind::Allocate))
            )))
        );
    }
}

#[test]
fn a_pointer_on_the_stack_is_followed() {
    for mut abi in abis() {
        for point in &mut abi.points {
            point.holder = Holder::Stack(0x18);
        }
        assert_eq!(
            hit(&abi, PointKind::Allocate, &memory(&abi)),
            event(EventKind::Allocate(expected()))
        );
    }
}

/// One read of the pointer behind which the fields stand, if any, and one of all the fields: what a
/// hit costs is mostly reads.
#[test]
fn a_buffer_is_read_in_one_block() {
    for (abi, before) in abis().iter().zip([1, 0]) {
        let point = abi
            .points
            .iter()
            .find(|point| point.kind == PointKind::Destroy)
            .unwrap();
        let capture = plan(abi, point, 0).unwrap().capture;
        let block = capture
            .reads
            .iter()
            .position(|read| usize::from(read.to) == BLOCK_AT)
            .unwrap();
        assert_eq!(block, before);
        assert_eq!(capture.condition_after as usize, block + 1);
    }
}

#[test]
fn fields_that_lie_too_far_apart_are_refused() {
    let mut abi = fixture::ttnn_0_81_1();
    abi.fields.address.path.offset = 0x1000;
    let refused = Stream::new(0).add(&abi, None);
    assert!(
        matches!(refused, Err(PlanError::Field { .. })),
        "{refused:?}"
    );
}

#[test]
fn control_records_are_told_apart() {
    let mut stream = Stream::new(0);
    let mut control = |point, value: u64| stream.decode(&record(point, 0, &value.to_le_bytes()));
    for (value, stopped) in [(0, false), (1, true)] {
        let pid = PID;
        assert_eq!(
            control(POINT_LINKED, value),
            Ok(Decoded::Linked { pid, stopped })
        );
        let Ok(Decoded::Executed {
            event,
            stopped: was,
        }) = control(POINT_EXEC, value)
        else {
            panic!("no execution")
        };
        assert_eq!(
            (event.pid, event.kind, was),
            (PID, EventKind::Exec, stopped)
        );
    }
    let mut life = |point, value| match control(point, value) {
        Ok(Decoded::Life(event)) => event.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(life(POINT_FORK, 77), EventKind::Fork { child: 77 });
    let code = EventKind::Exit(Some(Exit::Code(3)));
    assert_eq!(life(POINT_EXIT, 3 << 8), code);
    let killed = EventKind::Exit(Some(Exit::Signal(9)));
    assert_eq!(life(POINT_EXIT, 9), killed);
    // With a core dump (bit 7).
    let aborted = EventKind::Exit(Some(Exit::Signal(6)));
    assert_eq!(life(POINT_EXIT, 6 | 0x80), aborted);
    // What the kernel's side sends where it couldn't read it.
    assert_eq!(life(POINT_EXIT, u64::MAX), EventKind::Exit(None));
}

/// Neither is what the next process with that number, or the next program, has at that address.
#[test]
fn a_device_is_unknown_after_its_process() {
    for (abi, end) in abis().iter().zip([POINT_EXIT, POINT_EXEC]) {
        let mut stream = Stream::new(500);
        let index = abi
            .points
            .iter()
            .position(|point| point.kind == PointKind::Allocate)
            .unwrap();
        let (_, capture) = stream.add(abi, None).unwrap().captures[index];
        let mut registers = [0; 16];
        registers[register::RSI as usize] = BUFFER;
        let ip = BIAS + abi.points[index].address;
        let sent = execute(&capture, registers, ip, &memory(abi), false).unwrap();
        let known = execute(&capture, registers, ip, &memory(abi), true).unwrap();
        stream.decode(&sent).unwrap();
        stream.decode(&known).unwrap();
        stream.decode(&record(end, 0, &[0; 8])).unwrap();
        assert_eq!(stream.decode(&known), Err(DecodeError::Device(0)));
    }
}

/// The dynamic linker puts a library elsewhere in each process; one capture program serves all.
#[test]
fn a_library_may_be_mapped_anywhere() {
    for abi in abis() {
        let mut stream = Stream::new(500);
        let index = abi
            .points
            .iter()
            .position(|point| point.kind == PointKind::Allocate)
            .unwrap();
        let (_, capture) = stream.add(&abi, None).unwrap().captures[index];
        let mut registers = [0; 16];
        registers[register::RSI as usize] = BUFFER;
        for bias in [0, 0x5555_0000_0000, BIAS] {
            let mut memory = memory(&abi);
            memory.put(DEVICE, bias + abi.mesh_vtable, 8);
            let ip = bias + abi.points[index].address;
            let sent = execute(&capture, registers, ip, &memory, false).unwrap();
            let allocated = event(EventKind::Allocate(expected())).unwrap();
            assert_eq!(stream.decode(&sent), allocated);
        }
    }
}

#[test]
fn records_of_another_shape_are_refused() {
    let mut stream = Stream::new(0);
    assert_eq!(stream.decode(&[0; 7]), Err(DecodeError::Length(7)));
    assert_eq!(
        stream.decode(&record(POINT_EXIT, 0, &[0; 3])),
        Err(DecodeError::Length(27))
    );
    assert_eq!(
        stream.decode(&record(17, 0, &[0; 128])),
        Err(DecodeError::Point(17))
    );
}
