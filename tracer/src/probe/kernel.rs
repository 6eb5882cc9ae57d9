use std::path::Path;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{RawTracePoint, UProbe},
};
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracer_common::{
    Capture, Lists, MAX_CAPTURES, MAX_LISTS, Plain, PythonWalk, counter, object_key, recording,
    reporting, setting, stacks,
};

use super::{attached::AttachedProbes, btf, error::ProbeError};

/// The object that `cargo xtask ebpf` builds from `tracer-ebpf`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/tracer.bpf.o"));

#[derive(Clone, Copy)]
#[repr(transparent)]
struct MapValue<T>(T);

// SAFETY: `Plain` promises what `Pod` requires: any bit pattern is valid, and there is no padding. The type
// is transparent.
unsafe impl<T: Plain> Pod for MapValue<T> {}

/// The hits that are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recording {
    /// None.
    Off,
    /// All.
    On,
    /// Those of watched processes.
    Watched,
}

/// The processes whose forks, executed programs, loaded libraries and ends are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reporting {
    /// Watched processes. Their children aren't followed.
    Watched,
    /// Watched processes and all their descendants. Each process is stopped (SIGSTOP) when it executes a
    /// program, and then whenever its dynamic linker loads libraries, until it is
    /// [let go](Kernel::let_go). This is only for processes that we started.
    Descendants,
    /// Every process.
    All,
}

/// The detail in which the stacks of buffers' and programs' events are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StackDetail {
    #[default]
    None,
    /// The frames of the Python interpreter.
    Python,
    /// The frames of the Python interpreter, and the stack's bytes.
    Full,
}

impl StackDetail {
    /// The size of the stacks' ring buffer, in bytes. At 20,000 stacks a second it holds those of some tenths
    /// of a second, even if they are deep.
    fn ring_bytes(self) -> u32 {
        match self {
            // A ring buffer has at least one page.
            Self::None => 4096,
            Self::Python => 16 << 20,
            Self::Full => 32 << 20,
        }
    }
}

/// The loaded programs and maps, and the probes that are on. Dropping it takes the probes off.
pub(crate) struct Kernel {
    /// First, because fields are dropped in order: no probe runs any more when the maps go.
    pub(super) probes: AttachedProbes,
    ebpf: Ebpf,
    events: AsyncFd<RingBuf<MapData>>,
    stacks: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// The program that probes run: [`WHOLE`], or [`PLAIN`] on a kernel that is too old for it.
    pub(super) capture: &'static str,
}

/// The program that sends stacks and lists.
const WHOLE: &str = "capture_whole";
/// The program that sends neither.
const PLAIN: &str = "capture";

impl Kernel {
    /// Loads the programs, with a ring buffer of `ring_bytes` (a power of two and a multiple of the page
    /// size), and attaches those that report forks, executed programs and ends. `whole`: with stacks and
    /// lists, which needs Linux 5.17.
    ///
    /// # Errors
    /// When the kernel refuses the object or a program.
    pub(crate) fn load(
        ring_bytes: u32,
        stacks: StackDetail,
        whole: bool,
    ) -> Result<Self, ProbeError> {
        let mut ebpf = EbpfLoader::new()
            // Parsing the kernel's types takes a while, and nothing in the object is relocated by them.
            .btf(None)
            .map_max_entries("EVENTS", ring_bytes)
            .map_max_entries("STACKS", stacks.ring_bytes())
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
        let events = ring(&mut ebpf, "EVENTS")?;
        let stack_ring = ring(&mut ebpf, "STACKS")?;
        // SAFETY: the map owns its descriptor, keeps it open and returns the same one until it is
        // dropped, which the `AsyncFd` that owns it does after it deregistered.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
            .map_err(|error| ProbeError::Wait(error.into_parts().1))?;
        let mut kernel = Self {
            probes: AttachedProbes::default(),
            ebpf,
            events,
            stacks: stack_ring,
            logger,
            capture: if whole { WHOLE } else { PLAIN },
        };
        let btf::Offsets {
            task_pid,
            task_tgid,
            task_exit_code,
            task_signal,
            signal_live,
            task_fsbase,
            task_mm,
            mm_start_stack,
        } = btf::offsets().ok_or(ProbeError::NoTypes)?;
        for (index, offset) in [
            (setting::TASK_PID, task_pid),
            (setting::TASK_TGID, task_tgid),
            (setting::TASK_EXIT_CODE, task_exit_code),
            (setting::TASK_SIGNAL, task_signal),
            (setting::SIGNAL_LIVE, signal_live),
            (setting::TASK_FSBASE, task_fsbase),
            (setting::TASK_MM, task_mm),
            (setting::MM_START_STACK, mm_start_stack),
        ] {
            kernel.set(index, offset)?;
        }
        let detail = match stacks {
            StackDetail::None => stacks::NONE,
            StackDetail::Python => stacks::PYTHON,
            StackDetail::Full => stacks::FULL,
        };
        kernel.set(setting::STACKS, detail)?;
        kernel.set(setting::STACKS_FILLED, u64::from(stacks.ring_bytes() / 2))?;
        for program in [kernel.capture, "linked"] {
            let program_data: &mut UProbe = kernel.program(program)?;
            program_data
                .load()
                .map_err(|source| program_error(program, source))?;
        }
        for (program, tracepoint) in [
            ("exited", "sched_process_exit"),
            ("executed", "sched_process_exec"),
            ("forked", "sched_process_fork"),
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

    pub(super) fn program<'a, T>(&'a mut self, name: &'static str) -> Result<&'a mut T, ProbeError>
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

    /// Sets which hits are recorded.
    pub(crate) fn record(&mut self, hits: Recording) -> Result<(), ProbeError> {
        let value = match hits {
            Recording::Off => recording::OFF,
            Recording::On => recording::ON,
            Recording::Watched => recording::WATCHED,
        };
        self.set(setting::RECORDING, value)
    }

    /// Sets which processes are reported.
    pub(crate) fn report(&mut self, processes: Reporting) -> Result<(), ProbeError> {
        let value = match processes {
            Reporting::Watched => reporting::WATCHED,
            Reporting::Descendants => reporting::DESCENDANTS,
            Reporting::All => reporting::ALL,
        };
        self.set(setting::REPORTING, value)
    }

    fn table<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut MapData, K, V>, ProbeError> {
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or(ProbeError::Missing { kind: "map", name })?;
        HashMap::try_from(map).map_err(|source| ProbeError::Map { map: name, source })
    }

    fn put<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        key: K,
        value: V,
    ) -> Result<(), ProbeError> {
        self.table(name)?
            .insert(key, value, 0)
            .map_err(|source| ProbeError::Map { map: name, source })
    }

    /// Watches a process until it ends.
    pub(crate) fn watch(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.put("WATCHED", pid, 1u8)
    }

    /// From now on `pid` isn't stopped any more when it loads libraries, until it executes another program.
    pub(crate) fn let_go(&mut self, pid: u32) -> Result<(), ProbeError> {
        let mut held = self.table::<u32, u8>("HELD")?;
        match held.remove(&pid) {
            // It wasn't held, or it has ended.
            Err(_) if held.get(&pid, 0).is_err() => Ok(()),
            removed => removed.map_err(|source| ProbeError::Map {
                map: "HELD",
                source,
            }),
        }
    }

    /// From now on no process is stopped or followed any more. Adds to `stopped` the processes that may be
    /// stopped already, which the caller must let go on; on an error, too.
    pub(crate) fn let_all_go(&mut self, stopped: &mut Vec<u32>) -> Result<(), ProbeError> {
        let reported = self.report(Reporting::Watched);
        // A child that a held process forks meanwhile is held, too.
        loop {
            let held: Vec<u32> = self
                .table::<u32, u8>("HELD")?
                .keys()
                .filter_map(Result::ok)
                .collect();
            if held.is_empty() {
                return reported;
            }
            stopped.extend(&held);
            for pid in held {
                self.let_go(pid)?;
            }
        }
    }

    /// Installs capture programs. Each has its own [`Capture::point`], by which probes refer to it.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn install<'a>(
        &mut self,
        captures: impl IntoIterator<Item = &'a Capture>,
    ) -> Result<(), ProbeError> {
        let mut map = self.array("CAPTURES")?;
        for capture in captures {
            if capture.point >= MAX_CAPTURES {
                return Err(ProbeError::Full);
            }
            map.set(capture.point, MapValue(*capture), 0)
                .map_err(|source| ProbeError::Map {
                    map: "CAPTURES",
                    source,
                })?;
        }
        Ok(())
    }

    /// Whether lists can be sent.
    pub(crate) fn sends_lists(&self) -> bool {
        self.capture == WHOLE
    }

    /// Installs the lists of a library's programs, under the number by which capture programs refer to them.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn install_lists(&mut self, number: u32, lists: &Lists) -> Result<(), ProbeError> {
        if number >= MAX_LISTS {
            return Err(ProbeError::Full);
        }
        self.array("LISTS")?
            .set(number, MapValue(*lists), 0)
            .map_err(|source| ProbeError::Map {
                map: "LISTS",
                source,
            })
    }

    /// The number of records lost so far because the ring buffer was full.
    pub(crate) fn lost(&mut self) -> Result<u64, ProbeError> {
        self.counter(counter::LOST)
    }

    /// The number of children of watched processes that aren't watched because there are too many.
    pub(crate) fn unfollowed(&mut self) -> Result<u64, ProbeError> {
        self.counter(counter::UNFOLLOWED)
    }

    fn counter(&mut self, index: u32) -> Result<u64, ProbeError> {
        self.array::<u64>("COUNTERS")?
            .get(&index, 0)
            .map_err(|source| ProbeError::Map {
                map: "COUNTERS",
                source,
            })
    }

    /// Passes the records in the ring buffer to `each` until it returns false, and the kernel side's
    /// diagnostics to the log. Records may come as fast as they are taken.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&[u8]) -> bool) {
        while let Some(item) = self.events.get_mut().next() {
            if !each(&item) {
                break;
            }
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Passes the stack records in their ring buffer to `each` until it returns false. The stack of a record
    /// that [`Self::drain`] has passed was sent before that record.
    pub(crate) fn drain_stacks(&mut self, mut each: impl FnMut(&[u8]) -> bool) {
        while let Some(item) = self.stacks.next() {
            if !each(&item) {
                break;
            }
        }
    }

    /// The number of stacks skipped so far because too many waited.
    pub(crate) fn stacks_skipped(&mut self) -> Result<u64, ProbeError> {
        self.counter(counter::STACKS_SKIPPED)
    }

    /// Sets the number of followers of each leader of an object of a process (see `tracer_common::stack`).
    pub(crate) fn set_followers(
        &mut self,
        pid: u32,
        object: u64,
        followers: u32,
    ) -> Result<(), ProbeError> {
        self.put("FOLLOWERS", object_key(pid, object), followers)
    }

    /// Sets how to walk the frames of a process's Python interpreter, until the process ends.
    pub(crate) fn walk_python(&mut self, pid: u32, walk: PythonWalk) -> Result<(), ProbeError> {
        self.put("PYTHONS", pid, MapValue(walk))
    }

    /// Waits until the kernel side wakes the reader, with a control record or with a record of a capture
    /// program that wakes it (`tracer_common::wake`). Most records don't, so drain on a timer, too.
    ///
    /// # Errors
    /// When the ring buffer can't be waited for.
    pub(crate) async fn attention(&mut self) -> Result<(), ProbeError> {
        let mut ready = self.events.readable_mut().await.map_err(ProbeError::Wait)?;
        ready.clear_ready();
        Ok(())
    }
}

fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, ProbeError> {
    let map = ebpf
        .take_map(name)
        .ok_or(ProbeError::Missing { kind: "map", name })?;
    RingBuf::try_from(map).map_err(|source| ProbeError::Map { map: name, source })
}

fn program_error(program: &'static str, source: aya::programs::ProgramError) -> ProbeError {
    ProbeError::Program {
        program,
        source: Box::new(source),
    }
}

/// Whether this kernel describes its types (BTF), which following processes needs.
pub(super) fn describes_types() -> bool {
    btf::describes_types()
}

/// Whether this kernel has uprobes as a perf event source, which probes need.
pub(super) fn supports_uprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/uprobe/type").exists()
}
