//! A process together with a library that it has loaded: reads the process's memory by that library's
//! rules.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{banks::BankMap, heap_reading::TimedReading, reader::SnapshotReader};
use crate::{
    abi::{Accessors, DerivedLibrary},
    clock::Clock,
    ledger::{AllocatorPointer, BufferType},
    target::{MappedFile, ProcessMemory, TargetError},
};

/// How long one reading keeps asking allocators that the target changes all the time.
const MAX_READING_TIME: Duration = Duration::from_secs(1);

/// The niceness of work that isn't urgent (`nice(1)`).
const LOW_PRIORITY: i32 = 10;

/// A process with one of its libraries.
#[derive(Clone)]
pub(crate) struct TargetLibrary {
    pub file: MappedFile,
    pub derived: Arc<DerivedLibrary>,
    /// The trace's clock: readings are timed by it.
    pub clock: Clock,
}

/// Which devices are read.
pub(super) enum DevicesToRead {
    /// All that the library's own variables lead to.
    Reachable,
    /// Those at these addresses.
    At(Vec<u64>),
}

/// Reads what the devices of one process hold, any number of times.
pub(super) struct DeviceReader<'a> {
    reader: &'a SnapshotReader<'a>,
    addresses: &'a [u64],
    clock: Clock,
}

impl DeviceReader<'_> {
    /// The addresses that are read: of devices, or of what is left of closed ones.
    pub(super) fn addresses(&self) -> &[u64] {
        self.addresses
    }

    pub(super) fn read(&self) -> TimedReading {
        let begun = Instant::now();
        let has_time = || begun.elapsed() < MAX_READING_TIME;
        TimedReading {
            heap: self.reader.read(self.addresses, &has_time),
            read_until: self.clock.now(),
        }
    }

    /// Reads for the second time. Where the first reading is of one moment, its objects are enough:
    /// events report whatever was allocated since.
    pub(super) fn read_after(&self, first: &TimedReading) -> TimedReading {
        let rechecked = self.reader.recheck(&first.heap);
        let heap = if first.heap.at_one_moment {
            rechecked
        } else {
            let mut heap = self.read().heap;
            heap.buffers.extend(rechecked.buffers);
            heap
        };
        TimedReading {
            heap,
            read_until: self.clock.now(),
        }
    }
}

impl TargetLibrary {
    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.file.pid
    }

    /// Finds the devices and lets `read` read them.
    ///
    /// # Errors
    /// Says for a person why they can't be found.
    pub(super) fn read_devices<T>(
        &self,
        devices: &DevicesToRead,
        read: impl FnOnce(&DeviceReader<'_>) -> T,
    ) -> Result<T, String> {
        self.with_reader(|reader, memory| {
            let addresses = match devices {
                DevicesToRead::Reachable => {
                    &memory.find_reachable(&self.variables(), &reader.vtable_pointers())?
                }
                DevicesToRead::At(addresses) => addresses,
            };
            Ok(read(&DeviceReader {
                reader,
                addresses,
                clock: self.clock,
            }))
        })
    }

    /// Searches the whole heap, at low priority, for devices that aren't at the `known` addresses. `None`
    /// if `goes_on` returned false before the search was over.
    ///
    /// # Errors
    /// Says for a person why the heap can't be searched.
    pub(super) fn search(
        &self,
        known: &[u64],
        goes_on: impl Fn() -> bool,
    ) -> Result<Option<Vec<u64>>, String> {
        // Linux has a priority for each thread. Should it refuse, the search only takes more of the
        // processor.
        rustix::process::setpriority_process(None, LOW_PRIORITY).ok();
        self.with_reader(|reader, memory| {
            let found = memory.find_in_heap(&reader.vtable_pointers(), goes_on)?;
            Ok(found.map(|mut addresses| {
                addresses.retain(|address| !known.contains(address) && reader.is_device(*address));
                addresses
            }))
        })
    }

    /// Which addresses an allocator can give, by type. `None` if the allocator isn't one of this library's,
    /// or can't be read now.
    pub(super) fn bank_maps(
        &self,
        allocator: AllocatorPointer,
    ) -> Option<BTreeMap<BufferType, BankMap>> {
        let maps = self.with_reader(|reader, _| Ok(reader.bank_maps(allocator)));
        maps.ok().filter(|maps| !maps.is_empty())
    }

    /// Whether the block lengths that the probes record are those that an allocator uses. `None` if that
    /// can't be found out now.
    pub(super) fn recorded_lengths_are_right(
        &self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
    ) -> Option<bool> {
        let are_right = self
            .with_reader(|reader, _| Ok(reader.recorded_lengths_are_right(allocator, buffer_type)));
        are_right.ok()?.ok()?
    }

    /// A reading that failed just now.
    pub(super) fn failed_reading(&self, problem: String) -> TimedReading {
        TimedReading::failed(problem, self.clock.now())
    }

    fn with_reader<T>(
        &self,
        read: impl FnOnce(&SnapshotReader<'_>, &ProcessMemory) -> Result<T, TargetError>,
    ) -> Result<T, String> {
        let DerivedLibrary { abi, file } = &*self.derived;
        let image = file.image();
        let accessors = Accessors::find(image).map_err(|error| error.to_string())?;
        let memory = ProcessMemory::new(self.pid());
        let reader = SnapshotReader::new(abi, image, accessors, self.bias(), &memory);
        read(&reader, &memory).map_err(|error| error.to_string())
    }

    /// What the dynamic linker added to the library's virtual addresses.
    fn bias(&self) -> u64 {
        self.file.start.wrapping_sub(self.derived.abi.first_address)
    }

    /// Where the library's variables are in the process.
    fn variables(&self) -> Vec<Range<u64>> {
        let moved = |address: u64| address.wrapping_add(self.bias());
        let writable = self.derived.file.image().writable().iter();
        writable
            .map(|range| moved(range.start)..moved(range.end))
            .filter(|range| !range.is_empty())
            .collect()
    }
}
