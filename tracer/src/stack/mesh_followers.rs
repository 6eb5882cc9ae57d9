//! Meshes whose member chips are known. Right after a mesh's buffer the same thread creates one buffer on
//! each member chip. The kernel side sends the stack of the first only, once it knows how many follow.

use std::collections::{BTreeSet, HashMap};

use crate::ledger::{Buffer, Device, DeviceKind, Event, EventKind};

/// What the kernel side is to know of an object of a process, a `MeshDevice`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follow {
    pub pid: u32,
    /// Its address in the process.
    pub object: u64,
    /// How many buffers follow each allocation on it without a stack of their own.
    pub followers: u32,
}

/// The member chips of each mesh, and the meshes that the kernel side knows.
#[derive(Debug, Default)]
pub(crate) struct MeshFollowers {
    members: HashMap<(u32, Device), BTreeSet<u32>>,
    /// By process and thread: the mesh's buffer that the thread has just allocated, as long as nothing but
    /// buffers on member chips followed.
    announced: HashMap<(u32, u32), Buffer>,
    /// The addresses of the objects that the kernel side knows, by mesh.
    followed: HashMap<(u32, Device), Vec<u64>>,
}

impl MeshFollowers {
    /// The member chips of a mesh of a process, as read from its memory. They are added to those that are known.
    pub(crate) fn know_members(
        &mut self,
        pid: u32,
        mesh: Device,
        chips: impl IntoIterator<Item = u32>,
    ) {
        let mut chips = chips.into_iter().peekable();
        if chips.peek().is_some() {
            self.members.entry((pid, mesh)).or_default().extend(chips);
        }
    }

    /// Derives members from an event, and returns what the kernel side is to know from then on. All events of
    /// all kinds must be passed, in their order. `pointers`: the addresses of a device's objects in the
    /// event's process.
    ///
    /// After a bulk free a mesh isn't followed until its next allocation: another device may come to the same
    /// address.
    pub(crate) fn after(
        &mut self,
        event: &Event,
        pointers: impl FnOnce(Device) -> Vec<u64>,
    ) -> Vec<Follow> {
        let pid = event.pid;
        let thread = (pid, event.tid);
        // Whatever a thread does, its last mesh buffer is announced no longer, unless this is the next member.
        let announced = self.announced.remove(&thread);
        match event.kind {
            EventKind::Allocate(buffer) if buffer.device.kind == DeviceKind::Mesh => {
                self.announced.insert(thread, buffer);
                self.follow(pid, buffer.device, pointers)
            }
            EventKind::Create(buffer) => {
                if let Some(mesh) = announced.filter(|mesh| buffer.is_share_of(mesh)) {
                    self.know_members(pid, mesh.device, [buffer.device.id]);
                    self.announced.insert(thread, mesh);
                }
                Vec::new()
            }
            EventKind::BulkFree(_) => self.unfollow(pid),
            EventKind::Fork { child } => {
                // The process that had the child's pid before has ended, seen or not.
                let follows = self.forget(child);
                self.inherit(pid, child);
                follows
            }
            EventKind::Exec | EventKind::Exit(_) => self.forget(pid),
            EventKind::Lost(_) => {
                // What follows an allocation now may have nothing to do with it.
                self.announced.clear();
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Forgets a process: its devices are gone. Returns what the kernel side is to know.
    pub(crate) fn forget(&mut self, pid: u32) -> Vec<Follow> {
        self.members.retain(|(of, _), _| *of != pid);
        self.announced.retain(|(of, _), _| *of != pid);
        self.unfollow(pid)
    }

    /// Follows a mesh from its next allocation on, if its members are known.
    fn follow(
        &mut self,
        pid: u32,
        mesh: Device,
        pointers: impl FnOnce(Device) -> Vec<u64>,
    ) -> Vec<Follow> {
        let Some(members) = self.members.get(&(pid, mesh)) else {
            return Vec::new();
        };
        if self.followed.contains_key(&(pid, mesh)) {
            return Vec::new();
        }
        let objects = pointers(mesh);
        let follows = follows(pid, &objects, members.len() as u32);
        self.followed.insert((pid, mesh), objects);
        follows
    }

    fn unfollow(&mut self, pid: u32) -> Vec<Follow> {
        let gone = self.followed.extract_if(|(of, _), _| *of == pid);
        gone.flat_map(|(_, objects)| follows(pid, &objects, 0))
            .collect()
    }

    /// A forked child has copies of its parent's devices.
    fn inherit(&mut self, parent: u32, child: u32) {
        let members: Vec<(Device, BTreeSet<u32>)> = self
            .members
            .iter()
            .filter(|((pid, _), _)| *pid == parent)
            .map(|((_, mesh), chips)| (*mesh, chips.clone()))
            .collect();
        for (mesh, chips) in members {
            self.know_members(child, mesh, chips);
        }
    }
}

fn follows(pid: u32, objects: &[u64], followers: u32) -> Vec<Follow> {
    let follow = |object: &u64| Follow {
        pid,
        object: *object,
        followers,
    };
    objects.iter().map(follow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::{AllocatorPointer, ObjectPointer},
        stack::tests::{PID, TID, allocation, creation, device, event},
    };

    const MESH: Device = Device {
        kind: DeviceKind::Mesh,
        id: 1,
    };
    /// Where the process has the mesh's `MeshDevice`.
    const OBJECT: u64 = 0xd000;

    fn chip(id: u32) -> Device {
        device(DeviceKind::Chip, id)
    }

    fn after(meshes: &mut MeshFollowers, event: &Event) -> Vec<Follow> {
        meshes.after(event, |device| {
            assert_eq!(device, MESH);
            vec![OBJECT]
        })
    }

    /// Nothing that the kernel side is to know comes of these events.
    fn apply(meshes: &mut MeshFollowers, events: &[Event]) {
        for event in events {
            assert_eq!(after(meshes, event), [], "{event:?}");
        }
    }

    fn follow(followers: u32) -> [Follow; 1] {
        [Follow {
            pid: PID,
            object: OBJECT,
            followers,
        }]
    }

    /// A mesh with two members, of which one allocation and their buffers came.
    fn with_members() -> MeshFollowers {
        let mut meshes = MeshFollowers::default();
        let members = [creation(chip(0), 0x1000), creation(chip(1), 0x1000)];
        apply(&mut meshes, &[allocation(MESH, 0x1000)]);
        apply(&mut meshes, &members);
        meshes
    }

    #[test]
    fn members_that_events_show_are_followed_from_the_next_allocation_on() {
        let mut meshes = with_members();
        assert_eq!(after(&mut meshes, &allocation(MESH, 0x2000)), follow(2));
        apply(&mut meshes, &[allocation(MESH, 0x3000)]);
    }

    #[test]
    fn members_that_memory_shows_are_followed_from_the_first_allocation_on() {
        let mut meshes = MeshFollowers::default();
        meshes.know_members(PID, MESH, [4, 5, 6]);
        // A chip is listed, too.
        meshes.know_members(PID, chip(4), []);
        assert_eq!(after(&mut meshes, &allocation(MESH, 0x1000)), follow(3));
    }

    #[test]
    fn other_buffers_after_a_mesh_allocation_are_no_members() {
        let other_thread = Event {
            tid: TID + 1,
            ..creation(chip(0), 0x1000)
        };
        let deallocation = event(EventKind::Deallocate(ObjectPointer(0x1)));
        for between in [
            vec![creation(chip(0), 0x1400)],
            vec![creation(MESH, 0x1000)],
            vec![other_thread],
            vec![deallocation, creation(chip(0), 0x1000)],
            vec![event(EventKind::Lost(1)), creation(chip(0), 0x1000)],
        ] {
            let mut meshes = MeshFollowers::default();
            apply(&mut meshes, &[allocation(MESH, 0x1000)]);
            apply(&mut meshes, &between);
            apply(&mut meshes, &[allocation(MESH, 0x2000)]);
        }
    }

    #[test]
    fn a_bulk_free_ends_following_until_the_next_allocation() {
        let mut meshes = with_members();
        after(&mut meshes, &allocation(MESH, 0x2000));
        let bulk_free = event(EventKind::BulkFree(AllocatorPointer(0xa)));
        assert_eq!(after(&mut meshes, &bulk_free), follow(0));
        assert_eq!(after(&mut meshes, &bulk_free), []);
        assert_eq!(after(&mut meshes, &allocation(MESH, 0x2000)), follow(2));
    }

    #[test]
    fn an_end_of_the_process_ends_following_and_forgets_the_members() {
        for kind in [EventKind::Exit(None), EventKind::Exec] {
            let mut meshes = with_members();
            after(&mut meshes, &allocation(MESH, 0x2000));
            assert_eq!(after(&mut meshes, &event(kind)), follow(0));
            apply(&mut meshes, &[allocation(MESH, 0x2000)]);
        }
    }

    #[test]
    fn a_forked_child_has_its_parents_meshes() {
        let mut meshes = with_members();
        let child = PID + 50;
        apply(&mut meshes, &[event(EventKind::Fork { child })]);
        let of_child = Event {
            pid: child,
            ..allocation(MESH, 0x2000)
        };
        let followed = follow(2).map(|follow| Follow {
            pid: child,
            ..follow
        });
        assert_eq!(after(&mut meshes, &of_child), followed);
    }
}
