//! The events of buffers.

use tracer_common::{POINT_EXEC, POINT_EXIT};

use super::*;
use crate::{
    abi::Point,
    stream::{PlanError, buffers::BufferPoint},
};

#[test]
fn an_allocation_has_every_field_of_the_buffer() {
    for abi in abis() {
        assert_eq!(
            hit(&abi, PointKind::Allocate, &memory(&abi)),
            event(EventKind::Allocate(expected()))
        );
    }
}

/// The probe point of allocations in a library that the stream comes to know, and its capture program.
fn allocation<'a>(abi: &'a Abi, stream: &mut Stream) -> (&'a Point, Capture) {
    let mut points = abi.points.iter();
    let index = points.position(|point| point.kind == PointKind::Allocate);
    let index = index.unwrap();
    let (_, capture) = stream.add(abi, None).unwrap().captures[index];
    (&abi.points[index], capture)
}

/// The registers at that point.
fn buffer_in_rsi() -> [u64; 16] {
    let mut registers = [0; 16];
    registers[register::RSI as usize] = BUFFER;
    registers
}

/// The kernel side knows a device from when it has sent it until an allocator frees all its buffers.
#[test]
fn a_device_that_was_sent_is_not_read_again() {
    for abi in abis() {
        let mut stream = Stream::new(500);
        let (point, capture) = allocation(&abi, &mut stream);
        assert_eq!(capture.forget, 0);
        let registers = buffer_in_rsi();
        let ip = BIAS + point.address;
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
fn a_hooked_allocation_is_no_allocation() {
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
        // Its end needs no read of the device.
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
fn the_end_of_an_owning_buffer_is_an_event_only_if_it_never_got_an_address() {
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
fn a_buffer_that_cannot_be_read_is_no_event() {
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

/// There is one read of the pointer to the fields, if there is such a pointer, and one of all fields: most of
/// what a hit costs is reads.
#[test]
fn a_buffer_is_read_in_one_block() {
    for (abi, before) in abis().iter().zip([1, 0]) {
        let point = abi
            .points
            .iter()
            .find(|point| point.kind == PointKind::Destroy)
            .unwrap();
        let capture = BufferPoint::new(abi, point, 0).unwrap().capture;
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
fn fields_that_are_too_far_apart_are_refused() {
    let mut abi = fixture::ttnn_0_81_1();
    abi.fields.address.path.offset = 0x1000;
    let refused = Stream::new(0).add(&abi, None);
    assert!(
        matches!(refused, Err(PlanError::Field { .. })),
        "{refused:?}"
    );
}

/// The next process with that pid, or the next program, may have another object at the device's address.
#[test]
fn a_device_is_unknown_after_its_process() {
    for (abi, end) in abis().iter().zip([POINT_EXIT, POINT_EXEC]) {
        let mut stream = Stream::new(500);
        let (point, capture) = allocation(abi, &mut stream);
        let registers = buffer_in_rsi();
        let ip = BIAS + point.address;
        let sent = execute(&capture, registers, ip, &memory(abi), false).unwrap();
        let known = execute(&capture, registers, ip, &memory(abi), true).unwrap();
        stream.decode(&sent).unwrap();
        stream.decode(&known).unwrap();
        stream.decode(&record(end, 0, &[0; 8])).unwrap();
        assert_eq!(stream.decode(&known), Err(DecodeError::Device(0)));
    }
}

/// The dynamic linker maps a library at another address in each process. One capture program serves all.
#[test]
fn a_library_may_be_mapped_anywhere() {
    for abi in abis() {
        let mut stream = Stream::new(500);
        let (point, capture) = allocation(&abi, &mut stream);
        let registers = buffer_in_rsi();
        for bias in [0, 0x5555_0000_0000, BIAS] {
            let mut memory = memory(&abi);
            memory.put(DEVICE, bias + abi.mesh_vtable, 8);
            let ip = bias + point.address;
            let sent = execute(&capture, registers, ip, &memory, false).unwrap();
            let allocated = event(EventKind::Allocate(expected())).unwrap();
            assert_eq!(stream.decode(&sent), allocated);
        }
    }
}
