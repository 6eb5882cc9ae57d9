//! The stacks of buffers on member chips: those of the mesh's buffers.

use std::collections::{HashMap, HashSet};

use crate::{
    frame::StackId,
    ledger::{Device, DeviceKind, Event, EventKind},
};

/// By thread, its last allocation on a mesh.
#[derive(Default)]
pub(super) struct MemberStacks(HashMap<u32, MeshBuffer>);

struct MeshBuffer {
    pid: u32,
    address: u64,
    stack: Option<StackId>,
    /// The member chips that have their buffer already: each has one.
    members: HashSet<Device>,
}

impl MemberStacks {
    /// Remembers the stack of an event that is an allocation on a mesh.
    pub(super) fn note_allocation(&mut self, event: &Event, stack: Option<StackId>) {
        if let EventKind::Allocate(buffer) = event.kind
            && buffer.device.kind == DeviceKind::Mesh
        {
            let mesh_buffer = MeshBuffer {
                pid: event.pid,
                address: buffer.address,
                stack,
                members: HashSet::new(),
            };
            self.0.insert(event.tid, mesh_buffer);
        }
    }

    /// The stack of a buffer on a member chip, for which the kernel side sent none. `None` if the buffer
    /// can't belong to the thread's last allocation on a mesh.
    pub(super) fn stack_of_member(&mut self, event: &Event) -> Option<StackId> {
        let EventKind::Create(buffer) = event.kind else {
            return None;
        };
        let mesh_buffer = self.0.get_mut(&event.tid)?;
        let is_member = mesh_buffer.pid == event.pid
            && mesh_buffer.address == buffer.address
            && buffer.device.kind == DeviceKind::Chip
            && mesh_buffer.members.insert(buffer.device);
        mesh_buffer.stack.filter(|_| is_member)
    }

    /// A process has ended, or has executed another program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.0.retain(|_, mesh_buffer| mesh_buffer.pid != pid);
    }
}
