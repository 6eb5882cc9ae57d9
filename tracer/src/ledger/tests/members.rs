//! Meshes: which chips are members, and what that means for the chips' memory.

use super::*;

fn members(story: &Story, mesh: Device) -> Vec<u32> {
    story.process().devices()[&mesh]
        .members
        .iter()
        .copied()
        .collect()
}

#[test]
fn a_mesh_buffer_counts_once_on_each_member() {
    let mut story = Story::default();
    let buffer = owning(0x10, MESH, 0x1000, 4 * KIB);
    story.allocate_on_mesh(buffer, &[1, 0]);

    assert_eq!(members(&story, MESH), [0, 1]);
    for device in [MESH, chip(0), chip(1)] {
        let account = story.dram(device);
        assert_eq!(
            (account.live_bytes, account.live_buffers),
            (4 * KIB, 1),
            "{device:?}"
        );
        assert_eq!(
            (account.peak_bytes, account.peak_at),
            (4 * KIB, Nanoseconds(1)),
            "{device:?}"
        );
        assert_eq!(
            (account.allocated_bytes, account.allocations),
            (4 * KIB, 1),
            "{device:?}"
        );
    }
    assert_eq!(story.process().non_owning().len(), 2);

    story.deallocate(buffer);
    for device in [MESH, chip(0), chip(1)] {
        let account = story.dram(device);
        assert_eq!(
            (account.live_bytes, account.freed_bytes),
            (0, 4 * KIB),
            "{device:?}"
        );
        assert_eq!(account.deallocations, 1, "{device:?}");
    }
}

#[test]
fn membership_is_told_once() {
    let mut story = Story::default();
    story.allocate(owning(0x10, MESH, 0x1000, KIB));
    let first = story.create(view(0x11, chip(0), 0x1000, KIB));
    assert_eq!(first.effect, Effect::Created { joined: Some(MESH) });
    story.allocate(owning(0x20, MESH, 0x2000, KIB));
    let second = story.create(view(0x21, chip(0), 0x2000, KIB));
    assert_eq!(second.effect, Effect::Created { joined: None });
    assert_eq!(story.dram(chip(0)).live_bytes, 2 * KIB);
}

#[test]
fn a_late_member_takes_over_the_meshs_past() {
    let mut story = Story::default();
    let (a, b) = (
        owning(0x10, MESH, 0x1000, 8 * KIB),
        owning(0x20, MESH, 0x2000, 2 * KIB),
    );
    story.allocate(a);
    story.deallocate(a);
    story.allocate_on_mesh(b, &[0]);
    assert_eq!(story.dram(chip(0)), story.dram(MESH));
    assert_eq!(story.dram(chip(0)).peak_bytes, 8 * KIB);
    assert_eq!(story.dram(chip(0)).allocations, 2);
}

#[test]
fn a_chip_in_two_meshes_carries_both_and_its_own() {
    let mut story = Story::default();
    let (all, part) = (mesh(1), mesh(2));
    let of = |allocator, buffer| Buffer {
        allocator: AllocatorPointer(allocator),
        ..buffer
    };
    story.allocate_on_mesh(of(0xa1, owning(0x10, all, 0x1000, 4 * KIB)), &[0, 1]);
    story.allocate_on_mesh(of(0xa2, owning(0x20, part, 0x1000, 2 * KIB)), &[1]);
    story.allocate(of(0xa3, owning(0x30, chip(1), 0x5000, KIB)));

    assert_eq!(members(&story, all), [0, 1]);
    assert_eq!(members(&story, part), [1]);
    assert_eq!(story.dram(chip(0)).live_bytes, 4 * KIB);
    assert_eq!(story.dram(chip(1)).live_bytes, 7 * KIB);
    assert_eq!(story.dram(chip(1)).live_buffers, 3);
}

#[test]
fn a_chips_peak_is_the_peak_of_the_sum_not_the_sum_of_the_peaks() {
    let mut story = Story::default();
    let (all, part) = (mesh(1), mesh(2));
    let a = Buffer {
        allocator: AllocatorPointer(0xa1),
        ..owning(0x10, all, 0x1000, 4 * KIB)
    };
    let b = Buffer {
        allocator: AllocatorPointer(0xa2),
        ..owning(0x20, part, 0x1000, 2 * KIB)
    };
    story.allocate_on_mesh(a, &[0]);
    story.deallocate(a);
    story.allocate_on_mesh(b, &[0]);
    assert_eq!(story.dram(chip(0)).peak_bytes, 4 * KIB);
    assert_eq!(
        story.dram(all).peak_bytes + story.dram(part).peak_bytes,
        6 * KIB
    );

    story.allocate(a);
    let account = story.dram(chip(0));
    assert_eq!(
        (account.peak_bytes, account.peak_at),
        (6 * KIB, Nanoseconds(story.now))
    );
}

#[test]
fn the_peak_that_a_membership_brings_to_light_was_at_the_allocation() {
    let mut story = Story::default();
    story.allocate(Buffer {
        allocator: AllocatorPointer(0xb0),
        ..owning(0x10, chip(0), 0x1000, KIB)
    });
    story.allocate_on_mesh(owning(0x20, MESH, 0x1000, 4 * KIB), &[0]);
    let account = story.dram(chip(0));
    assert_eq!(
        (account.peak_bytes, account.peak_at),
        (5 * KIB, Nanoseconds(2))
    );
}

#[test]
fn what_another_thread_allocates_in_between_is_part_of_the_peak_and_its_time() {
    let mut story = Story::default();
    story.allocate(owning(0x20, MESH, 0x1000, 4 * KIB));
    let own = Buffer {
        allocator: AllocatorPointer(0xb0),
        ..owning(0x10, chip(0), 0x1000, KIB)
    };
    story.event(PID, TID + 1, EventKind::Allocate(own));
    story.create(view(0x21, chip(0), 0x1000, 4 * KIB));
    let account = story.dram(chip(0));
    assert_eq!(
        (account.peak_bytes, account.peak_at),
        (5 * KIB, Nanoseconds(2))
    );
}

#[test]
fn a_bulk_free_of_a_mesh_frees_on_each_member() {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x10, MESH, 0x1000, 4 * KIB), &[0, 1]);
    story.allocate_on_mesh(owning(0x20, MESH, 0x2000, 2 * KIB), &[0, 1]);
    let outcome = story.apply(EventKind::BulkFree(ALLOCATOR));
    let freed = Effect::BulkFreed {
        buffers: 2,
        bytes: 6 * KIB,
        device: Some(MESH),
    };
    assert_eq!(outcome.effect, freed);
    for device in [MESH, chip(0), chip(1)] {
        assert_eq!(story.dram(device).live_bytes, 0);
        assert_eq!(story.dram(device).freed_bytes, 6 * KIB);
    }
}

/// A mesh of chip 0 and a buffer that just came on it; then `other` is created by `tid`.
fn members_after(other: Buffer, tid: u32) -> Vec<u32> {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x10, MESH, 0x1000, 4 * KIB), &[0]);
    story.event(PID, tid, EventKind::Create(other));
    members(&story, MESH)
}

#[test]
fn a_view_at_another_address_or_of_another_size_or_type_shows_no_member() {
    let member = view(0x90, chip(7), 0x1000, 4 * KIB);
    assert_eq!(members_after(member, TID), [0, 7], "as it is, it would");
    assert_eq!(
        members_after(
            Buffer {
                address: 0x1400,
                ..member
            },
            TID
        ),
        [0]
    );
    assert_eq!(
        members_after(
            Buffer {
                size: KIB,
                ..member
            },
            TID
        ),
        [0]
    );
    assert_eq!(
        members_after(
            Buffer {
                buffer_type: BufferType::L1,
                ..member
            },
            TID
        ),
        [0]
    );
}

#[test]
fn another_threads_buffer_shows_no_member() {
    assert_eq!(
        members_after(view(0x90, chip(7), 0x1000, 4 * KIB), TID + 1),
        [0]
    );
}

#[test]
fn a_buffer_on_the_mesh_itself_shows_no_member() {
    assert_eq!(
        members_after(view(0x90, mesh(7), 0x1000, 4 * KIB), TID),
        [0]
    );
}

#[test]
fn after_anything_else_in_the_thread_a_buffer_shows_no_member() {
    let later = |kind: Option<EventKind>, tid| {
        let mut story = Story::default();
        story.allocate_on_mesh(owning(0x10, MESH, 0x1000, 4 * KIB), &[0]);
        if let Some(kind) = kind {
            story.event(PID, tid, kind);
        }
        story.create(view(0x90, chip(7), 0x1000, 4 * KIB));
        members(&story, MESH)
    };
    let kernel_binary = EventKind::Create(view(0x50, chip(0), 0x1000, KIB));
    assert_eq!(later(None, TID), [0, 7]);
    assert_eq!(later(Some(kernel_binary), TID), [0]);
    assert_eq!(
        later(Some(kernel_binary), TID + 1),
        [0, 7],
        "another thread's doing is no matter"
    );
    let other_mesh = owning(0x60, mesh(2), 0x8000, KIB);
    assert_eq!(later(Some(EventKind::Allocate(other_mesh)), TID), [0]);
    assert_eq!(
        later(
            Some(EventKind::Destroy(view(0x11, chip(0), 0x1000, KIB).object)),
            TID
        ),
        [0]
    );
    assert_eq!(
        later(Some(EventKind::Lost(1)), TID),
        [0],
        "the mesh's allocation may be the lost"
    );
}

#[test]
fn a_freed_mesh_buffer_shows_no_member() {
    let mut story = Story::default();
    let buffer = owning(0x10, MESH, 0x1000, 4 * KIB);
    story.allocate(buffer);
    story.event(PID, TID + 1, EventKind::Deallocate(buffer.object));
    story.create(view(0x90, chip(7), 0x1000, 4 * KIB));
    assert_eq!(members(&story, MESH), [] as [u32; 0]);
}

#[test]
fn two_meshes_with_the_same_address_do_not_take_each_others_chips() {
    let mut story = Story::default();
    let of = |allocator, buffer| Buffer {
        allocator: AllocatorPointer(allocator),
        ..buffer
    };
    story.allocate_on_mesh(of(0xa1, owning(0x10, mesh(1), 0x1000, KIB)), &[0]);
    story.allocate_on_mesh(of(0xa2, owning(0x20, mesh(2), 0x1000, KIB)), &[1]);
    assert_eq!(members(&story, mesh(1)), [0]);
    assert_eq!(members(&story, mesh(2)), [1]);
}

#[test]
fn a_later_view_on_a_members_chip_does_no_harm() {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x10, MESH, 0x1000, 4 * KIB), &[0]);
    story.now += 1_000_000_000;
    story.create(view(0x90, chip(0), 0x1000, 4 * KIB));
    assert_eq!(members(&story, MESH), [0]);
    assert_eq!(story.dram(chip(0)).live_bytes, 4 * KIB);
}

#[test]
fn a_device_with_buffers_of_its_own_on_each_chip_needs_no_mesh() {
    let mut story = Story::default();
    for id in 0..2 {
        story.allocate(Buffer {
            allocator: AllocatorPointer(0xb0 + u64::from(id)),
            ..owning(0x10 + u64::from(id), chip(id), 0x1000, KIB)
        });
    }
    assert_eq!(story.dram(chip(0)).live_bytes, KIB);
    assert_eq!(story.dram(chip(1)).live_bytes, KIB);
}
