use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    thread,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{
        RawTracePoint, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracer_common::{Capture, MAX_CAPTURES, Plain, counter, setting};

use super::{ProbeError, btf};

/// The object that `cargo xtask ebpf` makes from `tracer-ebpf`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/tracer.bpf.o"));

#[derive(Clone, Copy)]
#[repr(transparent)]
struct MapValue<T>(T);

// SAFETY: `Plain` promises what `Pod` asks: any bit pattern is valid, no padding.
unsafe impl<T: Plain> Pod for MapValue<T> {}

/// Where a probe goes and what it captures there.
#[derive(Clone, Copy, Debug)]
pub struct ProbePoint {
    /// Offset of the instruction in the library's file, in bytes.
    pub file_offset: u64,
    pub capture: Capture,
}

/// Probes that are on; dropping them takes them off.
#[must_use = "probes come off when this is dropped"]
pub struct AttachedProbes {
    links: Vec<UProbeLink>,
}

impl AttachedProbes {
    pub fn count(&self) -> usize {
        self.links.len()
    }
}

impl Drop for AttachedProbes {
    /// The kernel waits for a grace period for each probe (about 0.1 s); the waits overlap when
    /// each has a thread of its own.
    fn drop(&mut self) {
        thread::scope(|scope| {
            for link in self.links.drain(..) {
                scope.spawn(move || drop(link));
            }
        });
    }
}

/// The loaded programs and maps.
pub struct Kernel {
    ebpf: Ebpf,
    events: AsyncFd<RingBuf<MapData>>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    captures: usize,
}

impl Kernel {
    /// Loads the programs, with a ring buffer of `ring_bytes` (a power of two and a multiple of
    /// the page size), and attaches those that report processes' ends.
    ///
    /// # Errors
    /// When the kernel refuses the object or a program.
    pub fn load(ring_bytes: u32) -> Result<Self, ProbeError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("EVENTS", ring_bytes)
            .load(OBJECT)
            .map_err(|source| ProbeError::Load {
                source: Box::new(source),
            })?;
        let logger = match EbpfLogger::init(&mut ebpf) {
            Ok(logger) => Some(logger),
            Err(error) => {
                tracing::debug!("no log from the kernel side: {error}");
                None
            }
        };
        let events = ebpf
            .take_map("EVENTS")
            .ok_or(ProbeError::Missing {
                kind: "map",
                name: "EVENTS",
            })
            .and_then(|map| {
                RingBuf::try_from(map).map_err(|source| ProbeError::Map {
                    map: "EVENTS",
                    source,
                })
            })?;
        // SAFETY: the map owns its descriptor, keeps it open and returns the same one until it is
        // dropped, which the `AsyncFd` that owns it does after it deregistered.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
            .map_err(|error| ProbeError::Wait(error.into_parts().1))?;
        let mut kernel = Self {
            ebpf,
            events,
            logger,
            captures: 0,
        };
        match btf::exit_code_offset() {
            Some(offset) => kernel.set(setting::EXIT_CODE_OFFSET, offset)?,
            None => {
                tracing::warn!("this kernel doesn't describe its types: exit codes stay unknown")
            }
        }
        for program in ["capture", "linked"] {
            let program_data: &mut UProbe = kernel.program(program)?;
            program_data
                .load()
                .map_err(|source| program_error(program, source))?;
        }
        for (program, tracepoint) in [
            ("exited", "sched_process_exit"),
            ("executed", "sched_process_exec"),
        ] {
            let program_data: &mut RawTracePoint = kernel.program(program)?;
            program_data
                .load()
                .map_err(|source| program_error(program, source))?;
            program_data
                .attach(tracepoint)
                .map_err(|source| program_error(program, source))?;
        }
        Ok(kernel)
    }

    fn program<'a, T>(&'a mut self, name: &'static str) -> Result<&'a mut T, ProbeError>
    where
        &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
    {
        self.ebpf
            .program_mut(name)
            .ok_or(ProbeError::Missing {
                kind: "program",
                name,
            })?
            .try_into()
            .map_err(|source| program_error(name, source))
    }

    fn array<T: Pod>(&mut self, name: &'static str) -> Result<Array<&mut MapData, T>, ProbeError> {
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or(ProbeError::Missing { kind: "map", name })?;
        Array::try_from(map).map_err(|source| ProbeError::Map { map: name, source })
    }

    fn set(&mut self, index: u32, value: u64) -> Result<(), ProbeError> {
        self.array::<u64>("SETTINGS")?
            .set(index, value, 0)
            .map_err(|source| ProbeError::Map {
                map: "SETTINGS",
                source,
            })
    }

    /// Lets the probes record, or makes them pass at once.
    pub fn record(&mut self, on: bool) -> Result<(), ProbeError> {
        self.set(setting::RECORDING, u64::from(on))
    }

    fn set_of_processes(
        &mut self,
        name: &'static str,
        pid: u32,
        member: bool,
    ) -> Result<(), ProbeError> {
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or(ProbeError::Missing { kind: "map", name })?;
        let mut set: HashMap<_, u32, u8> =
            HashMap::try_from(map).map_err(|source| ProbeError::Map { map: name, source })?;
        let result = if member {
            set.insert(pid, 1, 0)
        } else {
            match set.remove(&pid) {
                Err(aya::maps::MapError::KeyNotFound) => Ok(()),
                // The kernel's ENOENT: it wasn't in the set.
                Err(aya::maps::MapError::SyscallError(_)) if set.get(&pid, 0).is_err() => Ok(()),
                other => other,
            }
        };
        result.map_err(|source| ProbeError::Map { map: name, source })
    }

    /// Reports the end of `pid`'s threads, or no longer.
    pub fn watch(&mut self, pid: u32, on: bool) -> Result<(), ProbeError> {
        self.set_of_processes("WATCHED", pid, on)
    }

    /// Stops `pid` (SIGSTOP) whenever it executes a program or its dynamic linker changed its list
    /// of libraries, and reports it; or no longer. Only for a process that we started.
    pub fn hold(&mut self, pid: u32, on: bool) -> Result<(), ProbeError> {
        self.set_of_processes("HELD", pid, on)
    }

    /// Puts probes on all `points` of the file `library`, for all threads of `pid`, in the order
    /// given.
    ///
    /// # Errors
    /// When there are too many, or the kernel refuses one; those that were already on come off.
    pub fn attach(
        &mut self,
        library: &Path,
        pid: u32,
        points: &[ProbePoint],
    ) -> Result<AttachedProbes, ProbeError> {
        if self.captures + points.len() > MAX_CAPTURES as usize {
            return Err(ProbeError::Full {
                wanted: points.len(),
                used: self.captures,
            });
        }
        let mut attached = AttachedProbes { links: Vec::new() };
        for point in points {
            let cookie = self.captures as u32;
            self.array("CAPTURES")?
                .set(cookie, MapValue(point.capture), 0)
                .map_err(|source| ProbeError::Map {
                    map: "CAPTURES",
                    source,
                })?;
            self.captures += 1;
            attached.links.push(self.uprobe(
                "capture",
                library,
                point.file_offset,
                pid,
                u64::from(cookie),
            )?);
        }
        Ok(attached)
    }

    /// Puts the probe that reports loaded libraries on a dynamic linker's `_dl_debug_state`.
    pub fn attach_linker(
        &mut self,
        linker: &Path,
        file_offset: u64,
        pid: u32,
    ) -> Result<AttachedProbes, ProbeError> {
        Ok(AttachedProbes {
            links: vec![self.uprobe("linked", linker, file_offset, pid, 0)?],
        })
    }

    fn uprobe(
        &mut self,
        program: &'static str,
        path: &Path,
        file_offset: u64,
        pid: u32,
        cookie: u64,
    ) -> Result<UProbeLink, ProbeError> {
        let scope = NonZeroU32::new(pid).map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
        let point = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(file_offset),
            cookie: Some(cookie),
        };
        let program_data: &mut UProbe = self.program(program)?;
        program_data
            .attach(point, path, scope)
            .and_then(|link| program_data.take_link(link))
            .map_err(|source| ProbeError::Attach {
                path: PathBuf::from(path),
                offset: file_offset,
                source: Box::new(source),
            })
    }

    /// Records lost so far because the ring buffer was full.
    pub fn lost(&mut self) -> Result<u64, ProbeError> {
        self.array::<u64>("COUNTERS")?
            .get(&counter::LOST, 0)
            .map_err(|source| ProbeError::Map {
                map: "COUNTERS",
                source,
            })
    }

    /// Gives every record that waits in the ring buffer to `each`, and the kernel side's
    /// diagnostics to the log.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(item) = self.events.get_mut().next() {
            each(&item);
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Waits until the kernel side asks for attention: a control record was written. Plain records
    /// never do; they are for whoever drains on a timer.
    ///
    /// # Errors
    /// When the ring buffer can't be waited for.
    pub async fn attention(&mut self) -> Result<(), ProbeError> {
        let mut ready = self.events.readable_mut().await.map_err(ProbeError::Wait)?;
        ready.clear_ready();
        Ok(())
    }
}

fn program_error(program: &'static str, source: aya::programs::ProgramError) -> ProbeError {
    ProbeError::Program {
        program,
        source: Box::new(source),
    }
}

/// Whether this kernel has uprobes as a perf event source.
pub fn supports_uprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/uprobe/type").exists()
}
