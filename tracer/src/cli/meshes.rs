//! Meshes whose members are known: the kernel's side needn't send a member's stack, which is that of the
//! mesh's own buffer right before it.

use std::collections::HashMap;

use crate::{
    ledger::{Device, DeviceKind, Event, EventKind, Ledger},
    probe::{Kernel, ProbeError},
    stream::Stream,
};

/// The meshes that the kernel's side knows of, with their addresses.
#[derive(Default)]
pub struct Meshes(HashMap<(u32, Device), Vec<u64>>);

impl Meshes {
    /// Takes note of an event: once a mesh's members are known, the kernel's side is told how many there
    /// are; a device that closes may be followed by another at the same address.
    ///
    /// # Errors
    /// When the kernel's side can't be told.
    pub fn look(
        &mut self,
        event: &Event,
        stream: &Stream,
        kernel: &mut Kernel,
        ledger: &Ledger,
    ) -> Result<(), ProbeError> {
        let pid = event.pid;
        match event.kind {
            EventKind::Allocate(buffer) if buffer.device.kind == DeviceKind::Mesh => {
                let mesh = buffer.device;
                if self.0.contains_key(&(pid, mesh)) {
                    return Ok(());
                }
                let account = ledger.process(pid).and_then(|of| of.devices().get(&mesh));
                let members = account.map_or(0, |account| account.members.len() as u32);
                if members > 0 {
                    let pointers: Vec<u64> = stream.pointers_to(pid, mesh).collect();
                    for pointer in &pointers {
                        kernel.lead(pid, *pointer, members)?;
                    }
                    self.0.insert((pid, mesh), pointers);
                }
                Ok(())
            }
            EventKind::BulkFree(_) => self.forget(kernel, pid),
            _ => Ok(()),
        }
    }

    /// A process's devices are gone.
    ///
    /// # Errors
    /// Like [`Self::look`].
    pub fn forget(&mut self, kernel: &mut Kernel, pid: u32) -> Result<(), ProbeError> {
        for ((_, _), pointers) in self.0.extract_if(|(of, _), _| *of == pid) {
            for pointer in pointers {
                kernel.lead(pid, pointer, 0)?;
            }
        }
        Ok(())
    }
}
