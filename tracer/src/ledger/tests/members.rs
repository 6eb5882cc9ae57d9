//! Meshes: which chips are recognised as members, and how that changes the chips' accounts.

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
fn a_membership_is_reported_once() {
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
fn the_account_of_a_late_member_includes_the_meshs_past() {
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
fn a_chip_in_two_meshes_holds_the_buffers_of_both_and_its_own() {
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
fn a_peak_that_shows_with_a_membership_was_at_the_meshs_allocation() {
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
fn what_another_thread_allocates_before_the_membership_shows_is_part_of_the_peak() {
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

/// The members of a mesh after the allocation of a buffer on it, the creation of its member on chip 0, and
/// these events.
fn members_after(events: &[(u32, EventKind)]) -> Vec<u32> {
    let mut story = Story::default();
    story.allocate_on_mesh(owning(0x10, MESH, 0x1000, 4 * KIB), &[0]);
    for (tid, kind) in events {
        story.event(PID, *tid, *kind);
    }
    members(&story, MESH)
}

/// A buffer as TT-Metal creates it on a member.
fn member() -> Buffer {
    view(0x90, chip(7), 0x1000, 4 * KIB)
}

#[test]
fn only_the_meshs_thread_shows_a_member_and_only_by_a_chips_buffer_like_the_meshs() {
    let like = member();
    let address = 0x1400;
    let buffer_type = BufferType::L1;
    for (case, tid, buffer, expected) in [
        ("a member", TID, like, &[0, 7][..]),
        ("another address", TID, Buffer { address, ..like }, &[0]),
        ("another size", TID, Buffer { size: KIB, ..like }, &[0]),
        (
            "another type",
            TID,
            Buffer {
                buffer_type,
                ..like
            },
            &[0],
        ),
        ("another thread", TID + 1, like, &[0]),
        (
            "on a mesh",
            TID,
            Buffer {
                device: mesh(7),
                ..like
            },
            &[0],
        ),
    ] {
        let members = members_after(&[(tid, EventKind::Create(buffer))]);
        assert_eq!(members, expected, "{case}");
    }
}

#[test]
fn after_anything_else_in_the_thread_a_buffer_shows_no_member() {
    let kernel_binary = EventKind::Create(view(0x50, chip(0), 0x1000, KIB));
    let other_mesh = EventKind::Allocate(owning(0x60, mesh(2), 0x8000, KIB));
    let destroyed = EventKind::Destroy(ObjectPointer(0x11));
    for (case, tid, kind, expected) in [
        ("a kernel binary", TID, kernel_binary, &[0][..]),
        ("one in another thread", TID + 1, kernel_binary, &[0, 7]),
        ("an allocation on another mesh", TID, other_mesh, &[0]),
        ("a destruction", TID, destroyed, &[0]),
        (
            "a loss, maybe of an allocation",
            TID,
            EventKind::Lost(1),
            &[0],
        ),
    ] {
        let members = members_after(&[(tid, kind), (TID, EventKind::Create(member()))]);
        assert_eq!(members, expected, "{case}");
    }
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
fn a_later_view_on_a_members_chip_changes_nothing() {
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
