//! Programs and their lists.

use tracer_common::{
    ARRAY_LEN, COUNTS_AT, ELEMENT_WORDS, Element, List, Lists, MAX_ELEMENT_READS, POINT_ELEMENT,
    SECOND_SENT_AT, lists, register,
};

use super::*;
use crate::{
    abi::Programs,
    ledger::programs::{
        Allocated, Backing, Core, CoreRange, Layout, ProgramBuffer, ProgramBufferKind,
        ProgramEvent, ProgramEventKind, ProgramPointer, ProgramSemaphore, Region, RegionKind,
    },
};

const PROGRAM: u64 = 0x20_0000;
const ALLOCATORS: u64 = 0x21_0000;
const REGIONS: u64 = 0x22_0000;
const POINTERS: u64 = 0x23_0000;
const BUFFERS: u64 = 0x24_0000;
const RANGES: u64 = 0x25_0000;
const SEMAPHORES: u64 = 0x26_0000;

fn programs(abi: &Abi) -> &Programs {
    abi.programs.as_ref().unwrap().as_ref().unwrap()
}

/// Does what the kernel side does (`tracer-ebpf`, `list`). Returns the elements' records, and the lists'
/// lengths.
fn elements(lists: &Lists, memory: &Memory) -> (Vec<Vec<u8>>, Vec<u64>) {
    let word = |at: u64| {
        let bytes = memory.read(at, 8).unwrap_or_else(|| vec![0; 8]);
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    let mut records = Vec::new();
    let mut counts = Vec::new();
    for (number, list) in lists.lists.iter().enumerate() {
        if list.stride == 0 {
            counts.push(0);
            continue;
        }
        let begin = word(PROGRAM.wrapping_add_signed(list.begin));
        let end = word(PROGRAM.wrapping_add_signed(list.begin) + 8);
        let count = (end - begin) / list.stride;
        counts.push(count);
        for index in 0..count {
            let at = begin + index * list.stride;
            records.push(element(number as u32, index as u32, list, at, memory));
        }
    }
    (records, counts)
}

fn element(number: u32, index: u32, list: &List, at: u64, memory: &Memory) -> Vec<u8> {
    let mut fields = vec![0_u8; 8 * ELEMENT_WORDS];
    fields[..8].copy_from_slice(&at.to_le_bytes());
    let mut faults = 0_u32;
    let word =
        |fields: &[u8], at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().unwrap());
    for (i, read) in list.reads.iter().enumerate().take(list.read_count as usize) {
        let from = word(&fields, read.base.into()).wrapping_add_signed(read.offset);
        let (to, len) = (usize::from(read.to), usize::from(read.len));
        assert!(to <= 0x78 && len <= 0x3f && to % 8 == 0, "{read:?}");
        match memory.read(from, len) {
            Some(bytes) => fields[to..to + len].copy_from_slice(&bytes),
            None => faults |= 1 << i,
        }
    }
    let array_at = list.array_at as usize;
    let (begin, end) = (word(&fields, array_at), word(&fields, array_at + 8));
    let len = end.wrapping_sub(begin);
    let mut array = vec![0xee; ARRAY_LEN];
    if len != 0 {
        let sent = ARRAY_LEN.min(len as usize);
        match memory.read(begin, sent) {
            Some(bytes) => array[..sent].copy_from_slice(&bytes),
            None => faults |= 1 << MAX_ELEMENT_READS,
        }
    }
    let mut sent = PROGRAM.to_le_bytes().to_vec();
    sent.extend(number.to_le_bytes());
    sent.extend(index.to_le_bytes());
    sent.extend(len.to_le_bytes());
    sent.extend(fields);
    sent.extend(array);
    let record = record(POINT_ELEMENT, faults, &sent);
    assert_eq!(record.len(), size_of::<Element>());
    record
}

fn put_vector(memory: &mut Memory, at: u64, begin: u64, len: u64) {
    memory.put(at, begin, 8);
    memory.put(at + 8, begin + len, 8);
}

fn put_range(memory: &mut Memory, at: u64, from: (u64, u64), to: (u64, u64)) {
    for (i, word) in [from.0, from.1, to.0, to.1].into_iter().enumerate() {
        memory.put(at + 8 * i as u64, word, 8);
    }
}

/// A program on 16 cores: a circular buffer of its own and one in a buffer, and a semaphore; with
/// dataflow buffers one of its own, an alias of it and one in a buffer.
fn program_memory(abi: &Abi) -> Memory {
    let own = programs(abi);
    let mut memory = Memory::default();
    for at in [PROGRAM, ALLOCATORS, REGIONS, POINTERS, RANGES, SEMAPHORES] {
        memory.map(at, 0x800);
    }
    memory.map(DEVICE, 0x100);
    set_mesh(&mut memory, abi, 5);
    memory.put_field(PROGRAM, &own.id.path, 12);
    memory.put_field(PROGRAM, &own.runtime_id.path, 34);

    let field = |vector: crate::abi::Vector| PROGRAM.wrapping_add_signed(vector.offset);
    let mut regions = vec![(&own.circular_regions, 100_000, 104_096)];
    regions.extend(own.dataflow_regions.iter().map(|of| (of, 104_096, 112_288)));
    for (i, (of, begin, end)) in regions.into_iter().enumerate() {
        let (at, regions) = (ALLOCATORS + 0x100 * i as u64, REGIONS + 0x100 * i as u64);
        let stride = of.list.vector.stride.unsigned_abs();
        put_vector(&mut memory, field(of.list.vector), at, stride);
        put_range(
            &mut memory,
            at.wrapping_add_signed(of.range),
            (0, 0),
            (3, 3),
        );
        put_vector(&mut memory, at.wrapping_add_signed(of.regions), regions, 32);
        // The first region of an allocator has no length.
        for (i, address) in [100_000, 100_000, begin, end].into_iter().enumerate() {
            memory.put(regions + 8 * i as u64, address, 8);
        }
    }
    put_range(&mut memory, RANGES, (0, 0), (3, 3));

    let buffers = own.buffers.as_ref().unwrap();
    let circular = &buffers.circular;
    put_vector(&mut memory, field(circular.list.vector), POINTERS, 32);
    for i in 0..2 {
        let at = BUFFERS + 0x2000 * i;
        memory.map(at, 0x1800);
        memory.put(POINTERS + 16 * i, at, 8);
        put_vector(
            &mut memory,
            at.wrapping_add_signed(circular.ranges),
            RANGES,
            32,
        );
        for (path, value) in [
            (&circular.size, 4096),
            (&circular.is_global, i),
            (&circular.has_local, 1 - i),
            (&circular.local, 100_000),
            (&circular.global, 1_400_000),
        ] {
            memory.put_field(at, path, value);
        }
    }
    if let Some(dataflow) = &buffers.dataflow {
        put_vector(
            &mut memory,
            field(dataflow.list.vector),
            POINTERS + 0x100,
            48,
        );
        for i in 0..3 {
            let at = BUFFERS + 0x8000 + 0x1000 * i;
            memory.map(at, 0x400);
            memory.put(POINTERS + 0x100 + 16 * i, at, 8);
            put_vector(
                &mut memory,
                at.wrapping_add_signed(dataflow.ranges),
                RANGES,
                32,
            );
            memory.put_field(at, &dataflow.entry_size, 2048);
            memory.put_field(at, &dataflow.entries, 4);
            memory.put_field(at, dataflow.is_alias.as_ref().unwrap(), u64::from(i == 1));
            memory.put_field(
                at,
                dataflow.is_borrowed.as_ref().unwrap(),
                u64::from(i == 2),
            );
            if i < 2 {
                memory.put_field(at, &dataflow.address, 104_096);
            }
        }
    }
    let semaphores = own.semaphores.as_ref().unwrap();
    let vector = semaphores.list.vector;
    put_vector(
        &mut memory,
        field(vector),
        SEMAPHORES,
        vector.stride.unsigned_abs(),
    );
    let ranges = SEMAPHORES.wrapping_add_signed(semaphores.ranges);
    put_vector(&mut memory, ranges, RANGES, 32);
    memory.put_field(SEMAPHORES, &semaphores.id, 3);
    memory.put_field(SEMAPHORES, &semaphores.initial_value, 8);
    memory
}

fn expected_layout() -> Layout {
    let core = |x, y| Core { x, y };
    let cores = CoreRange {
        start: core(0, 0),
        end: core(3, 3),
    };
    let allocated = |kind, begin, end| Allocated {
        kind,
        cores,
        regions: vec![Region { begin, end }],
    };
    let buffer = |kind, address, size, backing| ProgramBuffer {
        kind,
        address,
        size,
        cores: vec![cores],
        backing,
    };
    let (circular, dataflow) = (
        ProgramBufferKind::CircularBuffer,
        ProgramBufferKind::DataflowBuffer,
    );
    Layout {
        program: ProgramPointer(PROGRAM),
        id: 12,
        runtime_id: 34,
        device: Some(Device {
            kind: DeviceKind::Mesh,
            id: 5,
        }),
        allocated: vec![
            allocated(RegionKind::CircularBuffers, 100_000, 104_096),
            allocated(RegionKind::DataflowBuffers, 104_096, 112_288),
        ],
        buffers: Some(vec![
            buffer(circular, Some(100_000), 4096, Backing::Program),
            buffer(circular, Some(1_400_000), 4096, Backing::Buffer),
            buffer(dataflow, Some(104_096), 8192, Backing::Program),
            buffer(dataflow, Some(104_096), 8192, Backing::Alias),
            // It has no address yet.
            buffer(dataflow, None, 8192, Backing::Buffer),
        ]),
        semaphores: Some(vec![ProgramSemaphore {
            id: 3,
            initial_value: 8,
            cores: vec![cores],
        }]),
        complete: true,
    }
}

/// The records that the kernel side sends of a hit of one of the programs' probe points. `sent`: the lists
/// were sent before.
fn hit(
    stream: &mut Stream,
    abi: &Abi,
    kind: PointKind,
    memory: &Memory,
    sent: bool,
) -> Vec<Vec<u8>> {
    let own = programs(abi);
    let planned = stream.add(abi, Some(own)).unwrap();
    let of_programs = planned.captures.len() - own.points.len();
    let index = own
        .points
        .iter()
        .position(|point| point.kind == kind)
        .unwrap();
    let (point, (offset, capture)) = (&own.points[index], &planned.captures[of_programs + index]);
    assert_eq!(*offset, point.file_offset);
    let mut registers = [0; 16];
    registers[register::RDI as usize] = PROGRAM;
    registers[register::RSI as usize] = DEVICE;
    let short = match capture.lists_when {
        lists::END => true,
        lists::ONCE => sent,
        when => {
            assert_eq!(when, lists::CHANGED);
            false
        }
    };
    if short {
        return vec![record(capture.point, 0, &PROGRAM.to_le_bytes())];
    }
    let (set, lists) = planned.lists.unwrap();
    assert_eq!(capture.lists, set);
    let (mut records, counts) = elements(&lists, memory);
    let second = capture
        .second
        .checked_sub(1)
        .map(|register| registers[register as usize]);
    let ip = BIAS + point.address;
    let mut head = execute_with(capture, second, registers, ip, memory);
    for (i, count) in counts.into_iter().enumerate() {
        let at = size_of::<Header>() + COUNTS_AT - SENT_AT + 8 * i;
        head[at..at + 8].copy_from_slice(&count.to_le_bytes());
    }
    records.push(head);
    records
}

/// Runs a capture program with a second register. `execute` has none, so a read in front of the others brings
/// it.
fn execute_with(
    capture: &Capture,
    second: Option<u64>,
    registers: [u64; 16],
    ip: u64,
    memory: &Memory,
) -> Vec<u8> {
    // The register's value is put into the target's memory.
    let mut memory = memory.clone();
    let mut capture = *capture;
    if let Some(second) = second {
        const SECOND: u64 = 0x7777_0000;
        memory.put(SECOND, second, 8);
        let count = capture.read_count as usize;
        capture.reads.copy_within(0..count, 1);
        capture.reads[0] = tracer_common::Read {
            base: 0,
            to: SECOND_SENT_AT as u16,
            len: 8,
            offset: (SECOND - PROGRAM) as i64,
            ..tracer_common::Read::default()
        };
        capture.read_count += 1;
    }
    execute(&capture, registers, ip, &memory, false).unwrap()
}

fn decoded(stream: &mut Stream, records: &[Vec<u8>]) -> Vec<Result<Decoded, DecodeError>> {
    records.iter().map(|record| stream.decode(record)).collect()
}

fn event(kind: ProgramEventKind) -> Decoded {
    Decoded::Program(ProgramEvent {
        pid: PID,
        tid: TID,
        time: Nanoseconds(1_000),
        kind,
        stack: None,
    })
}

#[test]
fn a_laid_out_program_has_its_regions_buffers_and_semaphores() {
    for abi in abis() {
        let mut stream = Stream::new(500);
        let memory = program_memory(&abi);
        let records = hit(&mut stream, &abi, PointKind::LaidOut, &memory, false);
        let mut all = decoded(&mut stream, &records);
        let last = all.pop();
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|part| *part == Ok(Decoded::Part)), "{all:?}");
        let kind = ProgramEventKind::LaidOut(Box::new(expected_layout()));
        assert_eq!(last, Some(Ok(event(kind))));
    }
}

#[test]
fn a_dispatched_program_has_its_layout_unless_that_was_sent_before() {
    for abi in abis() {
        let memory = program_memory(&abi);
        let program = ProgramPointer(PROGRAM);
        let mut stream = Stream::new(500);
        let records = hit(&mut stream, &abi, PointKind::Dispatched, &memory, true);
        let layout = None;
        let kind = ProgramEventKind::Dispatched { program, layout };
        assert_eq!(decoded(&mut stream, &records), [Ok(event(kind))]);

        let mut stream = Stream::new(500);
        let records = hit(&mut stream, &abi, PointKind::Dispatched, &memory, false);
        // A dispatch doesn't have the device.
        let layout = Layout {
            device: None,
            ..expected_layout()
        };
        let layout = Some(Box::new(layout));
        let kind = ProgramEventKind::Dispatched { program, layout };
        assert_eq!(decoded(&mut stream, &records).pop(), Some(Ok(event(kind))));
    }
}

#[test]
fn an_ended_program_has_its_address_alone() {
    for abi in abis() {
        let mut stream = Stream::new(500);
        let records = hit(
            &mut stream,
            &abi,
            PointKind::ProgramEnd,
            &Memory::default(),
            false,
        );
        let kind = ProgramEventKind::Ended(ProgramPointer(PROGRAM));
        assert_eq!(decoded(&mut stream, &records), [Ok(event(kind))]);
    }
}

/// The layout that is decoded if one of the records is missing.
fn without(abi: &Abi, memory: &Memory, index: usize) -> Layout {
    let mut stream = Stream::new(500);
    let mut records = hit(&mut stream, abi, PointKind::LaidOut, memory, false);
    records.remove(index);
    match decoded(&mut stream, &records).pop() {
        Some(Ok(Decoded::Program(ProgramEvent {
            kind: ProgramEventKind::LaidOut(layout),
            ..
        }))) => *layout,
        other => panic!("no layout: {other:?}"),
    }
}

#[test]
fn a_layout_of_which_a_record_was_lost_is_not_complete() {
    for abi in abis() {
        for index in 0..8 {
            assert!(!without(&abi, &program_memory(&abi), index).complete);
        }
    }
}

#[test]
fn elements_of_a_lost_record_are_in_no_other_layout() {
    for abi in abis() {
        let memory = program_memory(&abi);
        let mut stream = Stream::new(500);
        let records = hit(&mut stream, &abi, PointKind::LaidOut, &memory, false);
        let (head, elements) = records.split_last().unwrap();
        // The thread has another hit later.
        for element in elements {
            assert_eq!(stream.decode(element), Ok(Decoded::Part));
        }
        let later = |record: &[u8]| {
            let mut record = record.to_vec();
            record[..8].copy_from_slice(&2_500_u64.to_le_bytes());
            record
        };
        for element in elements {
            assert_eq!(stream.decode(&later(element)), Ok(Decoded::Part));
        }
        match stream.decode(&later(head)) {
            Ok(Decoded::Program(event)) => {
                let layout = Box::new(expected_layout());
                assert_eq!(event.kind, ProgramEventKind::LaidOut(layout));
            }
            other => panic!("no layout: {other:?}"),
        }
    }
}

#[test]
fn an_impossible_region_or_core_is_refused() {
    for abi in abis() {
        let mut memory = program_memory(&abi);
        memory.put(REGIONS + 24, 1 << 40, 8);
        let mut stream = Stream::new(500);
        let records = hit(&mut stream, &abi, PointKind::LaidOut, &memory, false);
        let refused = decoded(&mut stream, &records).pop();
        assert_eq!(refused, Some(Err(DecodeError::Region(100_000, 1 << 40))));

        let mut memory = program_memory(&abi);
        put_range(&mut memory, RANGES, (4, 0), (3, 3));
        let mut stream = Stream::new(500);
        let records = hit(&mut stream, &abi, PointKind::LaidOut, &memory, false);
        let refused = decoded(&mut stream, &records).pop();
        assert_eq!(refused, Some(Err(DecodeError::CoreRange([4, 0, 3, 3]))));
    }
}
