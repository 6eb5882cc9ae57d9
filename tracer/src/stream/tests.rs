//! Capture programs are run over a model of a target's memory, as the kernel side runs them, and their
//! records are decoded.

mod blocks;
mod buffers;
mod control;
mod programs;

use std::collections::BTreeMap;

use tracer_common::{
    BLOCK_AT, Capture, Condition, Header, KNOWN_AT, MAX_READ_LEN, SENT_AT, WORKSPACE_LEN, register,
};

use super::{DecodeError, Decoded, Stream};
use crate::{
    abi::{Abi, FieldPath, Holder, PointKind, fixture},
    ledger::{
        AllocatorPointer, Buffer, BufferType, Device, DeviceKind, Event, EventKind, Layout,
        Nanoseconds, ObjectPointer, Ownership,
    },
};

const BIAS: u64 = 0x7f00_0000_0000;
const BUFFER: u64 = 0x5000;
const DEVICE: u64 = 0x9000;
const PID: u32 = 41;
const TID: u32 = 43;

/// A target's memory: its bytes by address.
#[derive(Clone, Default)]
struct Memory(BTreeMap<u64, u8>);

impl Memory {
    fn put(&mut self, address: u64, value: u64, width: u8) {
        for i in 0..width {
            self.0
                .insert(address + u64::from(i), (value >> (8 * i)) as u8);
        }
    }

    /// Makes an object's memory readable. Bytes that weren't put are zero.
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

    /// Puts a value where `path` leads from `root`, and makes the objects on the way.
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

/// Does what the kernel side does (`tracer-ebpf`, `capture`). Returns the record, if it is kept.
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

/// A record made at 1,500 ns by the kernel's clock.
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
    // Where a mesh has a pointer, a chip has its id, which must not be followed.
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

/// The decoded record of a hit of one of a library's probe points, if the record is kept.
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
    // `create` has a pointer to a `shared_ptr<Buffer>`, the others have one to the `Buffer` itself.
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

/// The address in the library of a probe point's instruction.
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
