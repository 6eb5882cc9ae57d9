//! How the ledger learns which chips are members of a mesh.
//!
//! Right after a mesh's allocation, TT-Metal creates in the same thread one non-owning buffer on each member
//! chip, with the address, type and size of the mesh's buffer. Views and kernel binaries are non-owning, too;
//! they differ in one of these, or come after something else.

use std::collections::HashMap;

use super::super::{
    event::{Buffer, DeviceKind, ObjectPointer},
    live_buffer::LiveBuffer,
};

/// For each thread the mesh buffer that it has just allocated, as long as nothing but buffers of the mesh's
/// members followed.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberDetection(HashMap<u32, ObjectPointer>);

impl MemberDetection {
    /// A thread has allocated an owning buffer. If it is a mesh's, buffers of the members follow.
    pub(super) fn allocated(&mut self, tid: u32, buffer: &Buffer) {
        if buffer.device.kind == DeviceKind::Mesh {
            self.0.insert(tid, buffer.object);
        } else {
            self.0.remove(&tid);
        }
    }

    /// A thread did something else: what it creates from now on shows no member.
    pub(super) fn interrupted(&mut self, tid: u32) {
        self.0.remove(&tid);
    }

    /// Any thread may have done something else, for instance because events were lost.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// A thread has created a non-owning buffer. If that is the buffer of a mesh's member, returns the mesh's
    /// own buffer.
    pub(super) fn created(
        &mut self,
        tid: u32,
        buffer: &Buffer,
        owning: &HashMap<ObjectPointer, LiveBuffer>,
    ) -> Option<Buffer> {
        let of_mesh = self.0.get(&tid).and_then(|object| owning.get(object));
        let of_mesh = of_mesh.map(|live| live.buffer);
        let of_mesh = of_mesh.filter(|of_mesh| buffer.is_share_of(of_mesh));
        if of_mesh.is_none() {
            self.interrupted(tid);
        }
        of_mesh
    }
}
