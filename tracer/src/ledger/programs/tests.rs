//! What programs take of L1.

use super::*;
use crate::{
    frame::StackId,
    ledger::{
        Event, EventKind, Ledger, Nanoseconds,
        programs::l1::LaidOut,
        tests::{MESH, PID, Story, TID, chip, owning, view},
    },
};

const BASE: u64 = 100_000;
const STACK: StackId = StackId(7);

fn range(from: (u32, u32), to: (u32, u32)) -> CoreRange {
    let core = |(x, y)| Core { x, y };
    CoreRange {
        start: core(from),
        end: core(to),
    }
}

/// A program that takes `bytes` from [`BASE`] on, on each core of a range.
fn layout(program: u64, cores: CoreRange, bytes: u64) -> Layout {
    Layout {
        program: ProgramPointer(program),
        id: program,
        runtime_id: 1,
        device: Some(MESH),
        allocated: vec![Allocated {
            kind: RegionKind::CircularBuffers,
            cores,
            regions: vec![Region {
                begin: BASE,
                end: BASE + bytes,
            }],
        }],
        buffers: Some(Vec::new()),
        semaphores: Some(Vec::new()),
        complete: true,
    }
}

/// A ledger that knows a mesh of the chips 0 and 1.
fn ledger() -> Ledger {
    let mut story = Story::default();
    for kind in [
        EventKind::Allocate(owning(1, MESH, 0, 1024)),
        EventKind::Create(view(2, chip(0), 0, 1024)),
        EventKind::Create(view(3, chip(1), 0, 1024)),
    ] {
        story.event(PID, TID, kind);
    }
    story.ledger
}

fn apply(ledger: &mut Ledger, at: u64, kind: ProgramEventKind) {
    ledger.apply_to_programs(&ProgramEvent {
        pid: PID,
        tid: TID,
        time: Nanoseconds(at),
        kind,
        stack: Some(STACK),
    });
}

fn lay_out(ledger: &mut Ledger, at: u64, layout: &Layout) {
    apply(
        ledger,
        at,
        ProgramEventKind::LaidOut(Box::new(layout.clone())),
    );
}

fn dispatch(ledger: &mut Ledger, at: u64, program: u64) {
    let program = ProgramPointer(program);
    let layout = None;
    apply(ledger, at, ProgramEventKind::Dispatched { program, layout });
}

/// Program 5 is dispatched. It was laid out before the trace, and its device is unknown.
fn dispatch_from_before(ledger: &mut Ledger, at: u64) {
    let layout = Layout {
        device: None,
        ..layout(5, range((0, 0), (1, 0)), 100)
    };
    let kind = ProgramEventKind::Dispatched {
        program: ProgramPointer(5),
        layout: Some(Box::new(layout)),
    };
    apply(ledger, at, kind);
}

fn end(ledger: &mut Ledger, at: u64, program: u64) {
    apply(ledger, at, ProgramEventKind::Ended(ProgramPointer(program)));
}

/// Applies an event about memory or the process.
fn memory_event(ledger: &mut Ledger, kind: EventKind) {
    ledger.apply(&Event {
        pid: PID,
        tid: TID,
        time: Nanoseconds(12),
        kind,
        stack: None,
    });
}

fn programs(ledger: &Ledger) -> &ProcessPrograms {
    ledger.process(PID).expect("it had events").programs()
}

/// The live bytes and the peak on the mesh.
fn live(ledger: &Ledger) -> (u64, u64) {
    let account = programs(ledger).accounts().get(&MESH);
    account.map_or((0, 0), |account| (account.live_bytes, account.peak_bytes))
}

#[test]
fn a_layout_holds_nothing_until_it_is_dispatched() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (3, 3)), 100));
    assert_eq!(live(&ledger), (0, 0));
    let laid_out = LaidOut {
        programs: 1,
        bytes: 1600,
        circular_buffer_bytes: 1600,
    };
    assert_eq!(programs(&ledger).laid_out(MESH), laid_out);

    dispatch(&mut ledger, 20, 1);
    assert_eq!(live(&ledger), (1600, 1600));
    let only = programs(&ledger).programs()[0].clone();
    assert_eq!((only.bytes(), only.cores()), (1600, 16));
    assert_eq!((only.stack, only.dispatches), (Some(STACK), 1));
    assert_eq!(only.first_laid_out_at, Nanoseconds(10));
    assert_eq!(only.dispatched_at, Some(Nanoseconds(20)));
}

#[test]
fn the_program_dispatched_last_lies_on_its_own_cores_and_the_one_before_it_on_the_others() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (3, 0)), 100));
    lay_out(&mut ledger, 11, &layout(2, range((2, 0), (5, 0)), 30));
    dispatch(&mut ledger, 20, 1);
    dispatch(&mut ledger, 21, 2);
    // The first program lies on two cores, the second on four.
    assert_eq!(live(&ledger), (200 + 120, 400));
    dispatch(&mut ledger, 22, 1);
    assert_eq!(live(&ledger), (400 + 60, 460));

    let account = &programs(&ledger).accounts()[&MESH];
    assert_eq!(account.peak_at, Nanoseconds(22));
    let cores: Vec<(u32, u64, u64, Option<u64>)> = account
        .cores
        .iter()
        .map(|(core, of)| {
            let program = of.program.map(|ProgramKey(number)| number);
            (core.x, of.live_bytes, of.peak_bytes, program)
        })
        .collect();
    let (first, second) = (Some(1), Some(2));
    assert_eq!(
        cores,
        [
            (0, 100, 100, first),
            (1, 100, 100, first),
            (2, 100, 100, first),
            (3, 100, 100, first),
            (4, 30, 30, second),
            (5, 30, 30, second),
        ]
    );
}

#[test]
fn laid_out_bytes_are_the_union_on_each_core() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (1, 0)), 100));
    lay_out(&mut ledger, 11, &layout(2, range((1, 0), (2, 0)), 60));
    let mut third = layout(3, range((1, 0), (1, 0)), 0);
    third.allocated[0] = Allocated {
        kind: RegionKind::DataflowBuffers,
        cores: range((1, 0), (1, 0)),
        regions: vec![Region {
            begin: BASE + 80,
            end: BASE + 130,
        }],
    };
    lay_out(&mut ledger, 12, &third);
    let laid_out = programs(&ledger).laid_out(MESH);
    // 100 on the first core, 130 on the second, 60 on the third.
    assert_eq!((laid_out.programs, laid_out.bytes), (3, 290));
    assert_eq!(laid_out.circular_buffer_bytes, 260);
}

#[test]
fn regions_of_a_core_that_overlap_count_once() {
    let mut two = layout(1, range((0, 0), (1, 0)), 100);
    two.allocated.push(Allocated {
        kind: RegionKind::DataflowBuffers,
        cores: range((1, 0), (1, 0)),
        regions: vec![Region {
            begin: BASE + 50,
            end: BASE + 150,
        }],
    });
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &two);
    dispatch(&mut ledger, 11, 1);
    assert_eq!(live(&ledger), (100 + 150, 250));
}

#[test]
fn each_member_of_a_mesh_has_the_same_programs() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (1, 1)), 100));
    dispatch(&mut ledger, 11, 1);
    let accounts = programs(&ledger).accounts();
    let devices: Vec<_> = accounts.keys().copied().collect();
    assert_eq!(devices, [MESH, chip(0), chip(1)]);
    for account in accounts.values() {
        assert_eq!(account, &accounts[&MESH]);
    }
}

#[test]
fn a_program_that_ends_takes_nothing_any_more() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (1, 0)), 100));
    dispatch(&mut ledger, 11, 1);
    end(&mut ledger, 12, 1);
    assert_eq!(live(&ledger), (0, 200));
    assert!(programs(&ledger).programs().is_empty());
    assert_eq!(programs(&ledger).laid_out(MESH), LaidOut::default());
    // Many programs end without ever having been laid out.
    end(&mut ledger, 13, 2);
    assert_eq!(programs(&ledger).counters().ended, 1);
}

#[test]
fn a_closed_device_holds_nothing() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (1, 0)), 100));
    dispatch(&mut ledger, 11, 1);
    memory_event(
        &mut ledger,
        EventKind::BulkFree(crate::ledger::tests::ALLOCATOR),
    );
    for account in programs(&ledger).accounts().values() {
        assert_eq!((account.live_bytes, account.peak_bytes), (0, 200));
    }
    // The cached program ends later.
    assert_eq!(programs(&ledger).programs().len(), 1);
}

#[test]
fn a_new_layout_takes_effect_with_the_next_dispatch() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (1, 0)), 100));
    dispatch(&mut ledger, 11, 1);
    lay_out(&mut ledger, 12, &layout(1, range((0, 0), (1, 0)), 40));
    assert_eq!(live(&ledger), (200, 200));
    dispatch(&mut ledger, 13, 1);
    assert_eq!(live(&ledger), (80, 200));
    let program = programs(&ledger).programs()[0];
    assert_eq!(program.first_laid_out_at, Nanoseconds(10));
    assert_eq!(program.laid_out_at, Nanoseconds(12));
    assert_eq!(programs(&ledger).counters().laid_out, 1);
}

#[test]
fn another_program_at_the_same_address_implies_the_end_of_the_first() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (1, 0)), 100));
    dispatch(&mut ledger, 11, 1);
    let other = Layout {
        id: 9,
        ..layout(1, range((4, 0), (4, 0)), 10)
    };
    lay_out(&mut ledger, 12, &other);
    assert_eq!(live(&ledger), (0, 200));
    let counters = programs(&ledger).counters();
    assert_eq!((counters.laid_out, counters.ended), (2, 1));
}

#[test]
fn a_program_from_before_attach_is_known_from_the_first_dispatch_with_its_layout() {
    let mut ledger = ledger();
    dispatch(&mut ledger, 10, 5);
    assert_eq!(programs(&ledger).counters().unknown_dispatches, 1);
    // The process has only one mesh.
    dispatch_from_before(&mut ledger, 11);
    assert_eq!(live(&ledger), (200, 200));
    assert_eq!(programs(&ledger).counters().unknown_dispatches, 1);
}

#[test]
fn with_two_meshes_a_program_of_unknown_device_is_in_no_figure() {
    let mut ledger = ledger();
    ledger.add_members(PID, crate::ledger::tests::mesh(2), [2]);
    dispatch_from_before(&mut ledger, 11);
    assert!(programs(&ledger).accounts().is_empty());
    assert_eq!(programs(&ledger).counters().unknown_dispatches, 1);
    // Its next layout has the device.
    lay_out(&mut ledger, 12, &layout(5, range((0, 0), (1, 0)), 100));
    dispatch(&mut ledger, 13, 5);
    assert_eq!(live(&ledger), (200, 200));
}

#[test]
fn a_mesh_that_becomes_known_later_has_what_is_dispatched_from_then_on() {
    let mut ledger = Ledger::default();
    dispatch_from_before(&mut ledger, 10);
    assert_eq!(programs(&ledger).counters().unknown_dispatches, 1);
    ledger.add_members(PID, MESH, [0, 1]);
    dispatch(&mut ledger, 11, 5);
    assert_eq!(live(&ledger), (200, 200));
    assert_eq!(programs(&ledger).counters().unknown_dispatches, 1);
}

#[test]
fn an_incomplete_layout_is_counted() {
    let mut ledger = ledger();
    let layout = Layout {
        complete: false,
        ..layout(1, range((0, 0), (1, 0)), 100)
    };
    lay_out(&mut ledger, 10, &layout);
    assert_eq!(programs(&ledger).counters().incomplete, 1);
}

#[test]
fn executing_a_program_ends_all_programs() {
    let mut ledger = ledger();
    lay_out(&mut ledger, 10, &layout(1, range((0, 0), (1, 0)), 100));
    dispatch(&mut ledger, 11, 1);
    memory_event(&mut ledger, EventKind::Exec);
    assert_eq!(live(&ledger), (0, 200));
    assert!(programs(&ledger).programs().is_empty());
}
