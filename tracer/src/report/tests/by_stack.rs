//! Groups of buffers by stack.

use super::*;
use crate::{
    frame::{Frame, FrameKind, Stack, StackId},
    origin::Origin,
    report::leaks::process_leaked_bytes,
};

fn native(function: &str, module: &str) -> Frame {
    Frame {
        kind: FrameKind::Native,
        function: Some(function.into()),
        file: None,
        line: None,
        module: Some(module.into()),
        offset: Some(0x1234),
    }
}

fn python_frame(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        kind: FrameKind::Python,
        function: Some(function.into()),
        file: Some(file.into()),
        line: Some(line),
        module: None,
        offset: None,
    }
}

const METAL: &str = "/venv/ttnn/build/lib/libtt_metal.so";

/// The stack of Python code that calls ttnn, which calls the function `innermost` of TT-Metal.
pub(super) fn called(line: u32, within: &str, innermost: &str) -> Stack {
    Stack {
        frames: vec![
            native(
                "tt::tt_metal::distributed::MeshBuffer::create(tt::tt_metal::MeshDevice*)",
                METAL,
            ),
            native(innermost, METAL),
            python_frame("__call__", "/venv/site-packages/ttnn/decorators.py", 531),
            python_frame(within, "/home/me/model.py", line),
            python_frame("<module>", "/home/me/train.py", 90),
        ],
        broken: None,
    }
}

pub(super) const TENSOR: &str =
    "tt::tt_metal::tensor_impl::allocate_device_buffer(tt::tt_metal::TensorSpec)";
const BINARIES: &str =
    "tt::tt_metal::distributed::MeshWorkloadImpl::load_binaries(MeshCommandQueue&)";

pub(super) fn stacks() -> BTreeMap<StackId, Stack> {
    let torn = Stack {
        broken: Some("the stack's memory could not be read".into()),
        ..called(25, "Attention.forward", TENSOR)
    };
    [
        (1, called(12, "load_weights", TENSOR)),
        (2, called(25, "Attention.forward", TENSOR)),
        (3, called(25, "Attention.forward", BINARIES)),
        (4, torn),
        (5, called(31, "Cache.grow", TENSOR)),
        (99, called(1, "unreferenced", TENSOR)),
    ]
    .map(|(id, stack)| (StackId(id), stack))
    .into()
}

const SECOND: u64 = 1_000_000_000;

/// A mesh of two chips with weights, activations that come and go, a program's binaries, a cache that
/// grows until an allocation fails, and a buffer from before attach.
pub(super) fn model() -> Story {
    let mut story = Story::default();
    let mut object = 0x1000;
    let mut buffer = |buffer_type, size| {
        object += 0x10;
        Buffer {
            buffer_type,
            ..owning(object, MESH, 0x1000 * object, size)
        }
    };
    story.apply(EventKind::Found(buffer(BufferType::Dram, 3 * MIB)));
    story.ledger.add_members(PID, MESH, [0, 1]);
    let binaries = Buffer {
        object: ObjectPointer(0x9000),
        ..buffer(BufferType::Dram, 72 * KIB)
    };
    story.now = SECOND;
    for _ in 0..4 {
        story.allocate_at(1, buffer(BufferType::Dram, 8 * MIB));
    }
    story.now = 2 * SECOND;
    story.stack = Some(StackId(3));
    story.allocate_on_mesh(binaries, &[0, 1]);
    for _ in 0..50 {
        let activation = buffer(BufferType::L1, 512 * KIB);
        story.allocate_at(2, activation);
        story.deallocate(activation);
        let activation = buffer(BufferType::Dram, 2 * MIB);
        story.allocate_at(4, activation);
        story.deallocate(activation);
    }
    for _ in 0..3 {
        story.now += SECOND;
        story.allocate_at(5, buffer(BufferType::Dram, 4 * MIB));
    }
    story.stack = Some(StackId(5));
    story.apply(EventKind::Failed(buffer(BufferType::Dram, 64 * 1024 * MIB)));
    // A buffer whose stack was not captured, and one whose stack was captured but not read.
    story.stack = None;
    story.allocate(buffer(BufferType::Trace, 64 * KIB));
    story.allocate_at(6, buffer(BufferType::L1, KIB));
    story.now = 10 * SECOND;
    story.apply(EventKind::Exit(Some(Exit::Code(0))));
    story
}

pub(super) fn model_summary() -> Summary {
    let facts = facts(vec![ProcessFacts {
        stacks: stacks(),
        ..python_facts(PID, Attached::Running)
    }]);
    Summary::new(&model().ledger, &facts)
}

fn only(summary: &Summary) -> &ProcessSummary {
    let [process] = summary.processes.as_slice() else {
        panic!("one process")
    };
    process
}

#[test]
fn the_json_of_groups_by_stack() {
    let summary = model_summary();
    let process = only(&summary);
    insta::assert_json_snapshot!(serde_json::json!({
        "leaks": process.leaks,
        "peaks": process.peaks,
        "temporary": process.temporary,
        "origins": process.origins,
        "failures": process.failures,
    }));
    insta::assert_json_snapshot!(process.stacks[0]);
}

#[test]
fn exactly_the_stacks_that_are_referred_to_are_listed() {
    let summary = model_summary();
    let stacks = &only(&summary).stacks;
    let ids: Vec<u32> = stacks.iter().map(|stack| stack.id.0).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    let unread = &stacks[5].stack;
    assert!(unread.frames.is_empty());
    assert_eq!(unread.broken.as_deref(), Some("it was not read"));
}

#[test]
fn the_age_of_a_leak_is_that_at_the_end_of_its_process() {
    let summary = model_summary();
    let cache = &only(&summary).leaks[1];
    assert_eq!(cache.held.group.stack, Some(StackId(5)));
    let (oldest, youngest) = (cache.oldest_age_ns, cache.youngest_age_ns);
    assert!(oldest > youngest, "{cache:?}");
    assert!(oldest < Some(8 * SECOND), "{cache:?}");

    // While the process runs, the age is that at the end of the trace.
    let mut story = Story {
        now: 499_999_999,
        ..Story::default()
    };
    story.allocate_at(1, owning(0x10, chip(0), 0x1000, KIB));
    let summary = Summary::new(&story.ledger, &facts(vec![]));
    assert_eq!(only(&summary).leaks[0].oldest_age_ns, Some(SECOND));
}

#[test]
fn buffers_from_before_attach_are_a_group_without_stack_or_age() {
    let summary = model_summary();
    let leaks = only(&summary).leaks.iter();
    let before: Vec<_> = leaks.filter(|leak| leak.held.group.before_attach).collect();
    let [before] = before.as_slice() else {
        panic!("one group: {before:?}")
    };
    assert_eq!(before.held.group.stack, None);
    assert_eq!(before.held.group.bytes, 3 * MIB);
    assert_eq!((before.oldest_age_ns, before.youngest_age_ns), (None, None));
}

#[test]
fn the_leaks_are_the_live_buffers() {
    for summary in [model_summary(), two_chips_summary(), troubled_summary()] {
        for process in &summary.processes {
            let groups = process.leaks.iter().map(|leak| &leak.held.group);
            let buffers: u64 = groups.clone().map(|group| group.buffers).sum();
            let bytes: u64 = groups.map(|group| group.bytes).sum();
            let live: u64 = process.live_buffers.iter().map(|buffer| buffer.size).sum();
            assert_eq!((buffers, bytes), (process.live_buffers.len() as u64, live));
            let origins: u64 = process.origins.iter().map(|total| total.live_bytes).sum();
            assert_eq!(origins, live);
        }
    }
}

#[test]
fn the_groups_of_a_peak_add_up_to_it() {
    for summary in [model_summary(), two_chips_summary(), troubled_summary()] {
        for process in &summary.processes {
            let mut peaks = process.peaks.iter();
            for device in &process.devices {
                for (buffer_type, usage) in device.memory.iter() {
                    if usage.peak_bytes == 0 {
                        continue;
                    }
                    let peak = peaks.next().expect("one for each");
                    let memory = DeviceMemory {
                        device_kind: device.kind,
                        device_id: device.id,
                        buffer_type,
                    };
                    assert_eq!(peak.memory, memory);
                    let groups: u64 = peak.groups.iter().map(|group| group.bytes).sum();
                    assert_eq!(groups, usage.peak_bytes);
                    assert_eq!(
                        (peak.peak_bytes, peak.peak_at_ns),
                        (usage.peak_bytes, usage.peak_at_ns)
                    );
                }
            }
            assert_eq!(peaks.next(), None);
        }
    }
}

#[test]
fn a_buffer_has_the_origin_of_its_stack() {
    let summary = model_summary();
    let process = only(&summary);
    let of = |stack| {
        let mut buffers = process.live_buffers.iter();
        buffers.find(|buffer| buffer.stack == stack).expect("one")
    };
    assert_eq!(of(Some(StackId(1))).origin, Origin::Tensor);
    assert_eq!(of(Some(StackId(3))).origin, Origin::Program);
    assert_eq!(of(Some(StackId(6))).origin, Origin::Unknown);
}

#[test]
fn without_a_stack_a_members_share_is_known_by_its_address() {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x100, MESH, 0x1000, KIB), &[0, 1]);
    // At another address, in another type of memory, and on a chip that is no member.
    story.create(view(0x200, chip(0), 0x1200, KIB / 2));
    story.create(Buffer {
        buffer_type: BufferType::L1,
        ..view(0x300, chip(0), 0x1000, KIB)
    });
    story.create(view(0x400, chip(2), 0x1000, KIB));
    let summary = Summary::new(&story.ledger, &facts(vec![]));
    let origins: Vec<_> = only(&summary)
        .non_owning
        .buffers
        .iter()
        .map(|buffer| (buffer.device_id, buffer.buffer_type, buffer.origin))
        .collect();
    let (dram, l1) = (BufferType::Dram, BufferType::L1);
    assert_eq!(
        origins,
        [
            (0, dram, Origin::MeshMember),
            (0, dram, Origin::Unknown),
            (0, l1, Origin::Unknown),
            (1, dram, Origin::MeshMember),
            (2, dram, Origin::Unknown),
        ]
    );
}

#[test]
fn leaked_bytes_leave_out_the_runtimes_own_buffers() {
    let summary = model_summary();
    let runtimes = 72 * KIB + 64 * KIB;
    let all: u64 = only(&summary).live_buffers.iter().map(|b| b.size).sum();
    assert_eq!(process_leaked_bytes(only(&summary)), all - runtimes);

    let mut story = Story::default();
    story.allocate_at(1, owning(0x10, chip(0), 0x1000, KIB));
    let running = Summary::new(&story.ledger, &facts(vec![]));
    assert_eq!(process_leaked_bytes(only(&running)), 0, "while it runs");
}
