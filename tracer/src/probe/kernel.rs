use std::path::Path;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{RawTracePoint, UProbe},
};
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracer_common::{
    Capture, Lists, MAX_CAPTURES, MAX_LISTS, Plain, PythonWalk, counter, known_key, recording,
    reporting, setting, stacks,
};

use super::{ProbeError, btf};

/// The object that `cargo xtask ebpf` makes from `tracer-ebpf`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/tracer.bpf.o"));

#[derive(Clone, Copy)]
#[repr(transparent)]
struct MapValue<T>(T);

// SAFETY: `Plain` promises what `Pod` asks: any bit pattern is valid, no padding.
unsafe impl<T: Plain> Pod for MapValue<T> {}

/// Which hits are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    Off,
    On,
    /// Those in watched processes.
    Watched,
}

/// Whose lives are reported: forks, executed programs, loaded libraries, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// Those of watched processes; what they fork isn't followed.
    Watched,
    /// Those of watched processes and of all that they fork. Each process is stopped (SIGSTOP) when it
    /// executes a program, and then whenever its dynamic linker loads libraries, until it is
    /// [let go](Kernel::let_go). Only for processes that we started.
    Descendants,
    /// Everybody's.
    All,
}

/// What is captured of the stack of whoever makes a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stacks {
    #[default]
    None,
    /// The frames of its Python interpreter.
    Python,
    /// These, and the stack itself.
    Full,
}

impl Stacks {
    /// Room for those on their way to user space, in bytes: at 20,000 a second, some tenths of a second
    /// even of deep ones.
    fn ring_bytes(self) -> u32 {
        match self {
            // The least that there can be.
            Self::None => 4096,
            Self::Python => 16 << 20,
            Self::Full => 32 << 20,
        }
    }
}

/// The loaded programs and maps.
pub struct Kernel {
    ebpf: Ebpf,
    events: AsyncFd<RingBuf<MapData>>,
    stacks: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// The program that probes run: with stacks and lists, or, on a kernel that is too old for it, without.
    pub(super) capture: &'static str,
}

/// With stacks and lists.
const WHOLE: &str = "capture_whole";
/// Without either.
const PLAIN: &str = "capture";

impl Kernel {
    /// Loads the programs, with a ring buffer of `ring_bytes` (a power of two and a multiple of
    /// the page size), and attaches those that report processes' ends. `whole`: with what sends
    /// stacks and lists, which needs Linux 5.17.
    ///
    /// # Errors
    /// When the kernel refuses the object or a program.
    pub fn load(ring_bytes: u32, stacks: Stacks, whole: bool) -> Result<Self, ProbeError> {
        let mut ebpf = EbpfLoader::new()
            // Nothing in the object is relocated by the kernel's types, which take a while to parse.
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
        let wanted = match stacks {
            Stacks::None => stacks::NONE,
            Stacks::Python => stacks::PYTHON,
            Stacks::Full => stacks::FULL,
        };
        kernel.set(setting::STACKS, wanted)?;
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

    /// Says which hits are recorded.
    pub fn record(&mut self, what: Recording) -> Result<(), ProbeError> {
        let value = match what {
            Recording::Off => recording::OFF,
            Recording::On => recording::ON,
            Recording::Watched => recording::WATCHED,
        };
        self.set(setting::RECORDING, value)
    }

    /// Says whose lives are reported.
    pub fn report(&mut self, whose: Reporting) -> Result<(), ProbeError> {
        let value = match whose {
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

    /// Reports the life of `pid`. It is watched until it ends.
    pub fn watch(&mut self, pid: u32) -> Result<(), ProbeError> {
        self.put("WATCHED", pid, 1u8)
    }

    /// Stops `pid` no longer when it loads libraries, until it executes another program.
    pub fn let_go(&mut self, pid: u32) -> Result<(), ProbeError> {
        let mut held = self.table::<u32, u8>("HELD")?;
        match held.remove(&pid) {
            // It wasn't held, or has ended.
            Err(_) if held.get(&pid, 0).is_err() => Ok(()),
            removed => removed.map_err(|source| ProbeError::Map {
                map: "HELD",
                source,
            }),
        }
    }

    /// Stops and follows nobody any longer, and tells whom it might have stopped: whoever calls this
    /// lets them go on.
    pub fn let_all_go(&mut self) -> Result<Vec<u32>, ProbeError> {
        self.report(Reporting::Watched)?;
        let mut all = Vec::new();
        // What one of them forks meanwhile is held, too, until its parent isn't.
        loop {
            let held: Vec<u32> = self
                .table::<u32, u8>("HELD")?
                .keys()
                .filter_map(Result::ok)
                .collect();
            if held.is_empty() {
                return Ok(all);
            }
            for pid in held {
                self.let_go(pid)?;
                all.push(pid);
            }
        }
    }

    /// Makes capture programs known. Each has its own [`Capture::point`], by which probes refer to it.
    ///
    /// # Errors
    /// When there are too many.
    pub fn install<'a>(
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
    pub fn sends_lists(&self) -> bool {
        self.capture == WHOLE
    }

    /// Makes the lists of a library's programs known, by the number that captures have.
    ///
    /// # Errors
    /// When there are too many.
    pub fn install_lists(&mut self, number: u32, lists: &Lists) -> Result<(), ProbeError> {
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

    /// Records lost so far because the ring buffer was full.
    pub fn lost(&mut self) -> Result<u64, ProbeError> {
        self.counter(counter::LOST)
    }

    /// Children of watched processes that aren't watched because there are too many.
    pub fn unfollowed(&mut self) -> Result<u64, ProbeError> {
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

    /// Gives the records that wait in the ring buffer to `each`, until it says false, and the kernel
    /// side's diagnostics to the log. Others may come as fast as they are taken.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8]) -> bool) {
        while let Some(item) = self.events.get_mut().next() {
            if !each(&item) {
                break;
            }
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Likewise the stack records that wait. Those of a record that [`Self::drain`] gave have been sent
    /// before it.
    pub fn drain_stacks(&mut self, mut each: impl FnMut(&[u8]) -> bool) {
        while let Some(item) = self.stacks.next() {
            if !each(&item) {
                break;
            }
        }
    }

    /// Stacks that were wanted and skipped so far, because too many waited.
    pub fn stacks_skipped(&mut self) -> Result<u64, ProbeError> {
        self.counter(counter::STACKS_SKIPPED)
    }

    /// Says how many followers each leader of an object of a process has (see `tracer_common::stack`).
    pub fn lead(&mut self, pid: u32, object: u64, followers: u32) -> Result<(), ProbeError> {
        self.put("FOLLOWERS", known_key(pid, object), followers)
    }

    /// Says how to walk the frames of a process's Python interpreter, until the process ends.
    pub fn walk_python(&mut self, pid: u32, walk: PythonWalk) -> Result<(), ProbeError> {
        self.put("PYTHONS", pid, MapValue(walk))
    }

    /// Waits until the kernel side asks for attention: a control record was written, or one of a capture
    /// program that says so (`tracer_common::wake`). Plain records
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

/// Whether this kernel describes its types, so that processes can be followed.
pub fn describes_types() -> bool {
    btf::describes_types()
}

/// Whether this kernel has uprobes as a perf event source.
pub fn supports_uprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/uprobe/type").exists()
}
