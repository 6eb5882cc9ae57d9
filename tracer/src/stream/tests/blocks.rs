//! The blocks that allocators take for buffers, with and without lost records.

use tracer_common::{LOSSES, LOSSES_SHIFT, POINT_EXEC, wake};

use super::*;
use crate::stream::{StackState, stack_state};

/// A stream of a library's records.
struct Hits<'a> {
    abi: &'a Abi,
    stream: Stream,
    captures: Vec<Capture>,
    /// The records that the kernel side has lost so far.
    lost: u32,
}

impl<'a> Hits<'a> {
    fn new(abi: &'a Abi) -> Self {
        let mut stream = Stream::new(500);
        let captures = stream.add(abi, None).unwrap().captures;
        let captures = captures.into_iter().map(|(_, capture)| capture).collect();
        Self {
            abi,
            stream,
            captures,
            lost: 0,
        }
    }

    /// The decoded record of a hit of a function's entry in a thread. `argument`: the value of the register
    /// that the probe point starts from.
    fn hit(&mut self, kind: PointKind, tid: u32, argument: u64, memory: &Memory) -> Decoded {
        let record = self.record(kind, tid, argument, memory);
        self.stream.decode(&record).unwrap()
    }

    /// The record of a hit that finds no room in the ring buffer.
    fn lose(&mut self) {
        self.lost += 1;
    }

    fn record(&self, kind: PointKind, tid: u32, argument: u64, memory: &Memory) -> Vec<u8> {
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
        let faults = u32::from_le_bytes(record[20..24].try_into().unwrap());
        let losses = (self.lost % LOSSES) << LOSSES_SHIFT;
        record[20..24].copy_from_slice(&(faults | losses).to_le_bytes());
        record
    }

    fn block(&mut self, tid: u32, bytes: u64) {
        let part = self.hit(PointKind::Block, tid, bytes, &Memory::default());
        assert_eq!(part, Decoded::Part);
    }

    /// The bytes that an allocated buffer takes of each bank.
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
        let mut hits = Hits::new(&abi);
        let buffer = memory(&abi);
        assert_eq!(hits.allocate(1, &buffer), None);
        hits.block(1, 0x800);
        hits.block(2, 0x40);
        // The allocation that took the block before this one failed.
        hits.block(1, 0x2c00);
        assert_eq!(hits.allocate(1, &buffer), Some(0x2c00));
        assert_eq!(hits.allocate(1, &buffer), None);
        assert_eq!(hits.allocate(2, &buffer), Some(0x40));
    }
}

#[test]
fn for_an_empty_buffer_no_block_is_taken() {
    for abi in abis() {
        let mut hits = Hits::new(&abi);
        let mut empty = memory(&abi);
        empty.put_field(BUFFER, &abi.fields.size.path, 0);
        hits.block(1, 0x800);
        assert_eq!(hits.allocate(1, &empty), None);
        assert_eq!(hits.allocate(1, &memory(&abi)), None);
    }
}

/// The records of the first block's allocation and of the second allocation's block are lost.
#[test]
fn a_block_from_before_a_loss_is_not_taken() {
    for abi in abis() {
        let mut hits = Hits::new(&abi);
        hits.block(1, 0x800);
        hits.lose();
        hits.lose();
        assert_eq!(hits.allocate(1, &memory(&abi)), None);
    }
}

/// The loss may have been anywhere: the number doesn't say which thread's records were lost.
#[test]
fn a_loss_makes_only_the_blocks_unknown_that_are_waiting() {
    for abi in abis() {
        let mut hits = Hits::new(&abi);
        let buffer = memory(&abi);
        hits.block(1, 0x800);
        hits.block(2, 0x40);
        assert_eq!(hits.allocate(2, &buffer), Some(0x40));
        hits.lose();
        hits.block(2, 0x80);
        assert_eq!(hits.allocate(1, &buffer), None);
        assert_eq!(hits.allocate(2, &buffer), Some(0x80));
        hits.block(1, 0x2c00);
        assert_eq!(hits.allocate(1, &buffer), Some(0x2c00));
    }
}

/// The losses share a word with the reads that failed, and with what is known of the stack.
#[test]
fn losses_are_not_taken_for_faults() {
    for abi in abis() {
        let mut hits = Hits::new(&abi);
        hits.lost = LOSSES - 1;
        hits.block(1, 0x800);
        assert_eq!(hits.allocate(1, &memory(&abi)), Some(0x800));
        let record = hits.record(PointKind::Allocate, 1, BUFFER, &memory(&abi));
        assert_eq!(stack_state(&record), StackState::None);
    }
}

/// The block isn't left to the thread's next allocation.
#[test]
fn an_allocation_that_cannot_be_decoded_takes_its_block() {
    for abi in abis() {
        let mut hits = Hits::new(&abi);
        hits.block(1, 0x800);
        let mut undecodable = memory(&abi);
        undecodable.put_field(BUFFER, &abi.fields.owns_data.path, 7);
        let record = hits.record(PointKind::Allocate, 1, BUFFER, &undecodable);
        assert_eq!(hits.stream.decode(&record), Err(DecodeError::Ownership(7)));
        assert_eq!(hits.allocate(1, &memory(&abi)), None);
    }
}

/// The threads of the new program may have the numbers of the old one's.
#[test]
fn an_executed_program_does_not_take_the_blocks_of_the_one_before() {
    for abi in abis() {
        let mut hits = Hits::new(&abi);
        hits.block(1, 0x800);
        let executed = record(POINT_EXEC, 0, &[0; 8]);
        assert!(matches!(
            hits.stream.decode(&executed),
            Ok(Decoded::Executed { .. })
        ));
        assert_eq!(hits.allocate(1, &memory(&abi)), None);
    }
}

/// Most records don't wake the reader: that would cost the target more than everything else of a hit.
#[test]
fn the_reader_is_woken_for_what_it_must_look_at_in_time() {
    for abi in abis() {
        let hits = Hits::new(&abi);
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
