//! A process's memory read by the rules of the library that it has loaded.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{clock::Clock, libraries::Code};
use crate::{
    abi::Accessors,
    baseline::{BankMap, Reading, Survey, Surveyor},
    ledger::{AllocatorPointer, BufferType},
    target::{MappedFile, ProcessMemory, TargetError},
};

/// So long allocators are asked that are being changed all the time.
const PATIENCE: Duration = Duration::from_secs(1);

/// The niceness of what needn't be done soon (`nice(1)`).
const POLITE: i32 = 10;

/// A process with one of its libraries.
#[derive(Clone)]
pub struct Subject {
    pub file: MappedFile,
    pub code: Arc<Code>,
    pub clock: Clock,
}

/// Where devices are looked for.
pub enum Places {
    /// Wherever the library's own data leads to.
    Reachable,
    At(Vec<u64>),
}

/// Reads what the devices of one process hold, as often as it is asked.
pub struct Reader<'a> {
    surveyor: &'a Surveyor<'a>,
    places: &'a [u64],
    clock: Clock,
}

impl Reader<'_> {
    /// Where devices are, or were.
    pub fn places(&self) -> &[u64] {
        self.places
    }

    /// Reads once more. What was found as it was at one moment only needs to be looked at again:
    /// whatever came since then is told by events.
    pub fn read_after(&self, early: &Reading) -> Reading {
        let again = self.surveyor.look_again(&early.survey);
        let survey = if early.survey.at_one_moment {
            again
        } else {
            let mut late = self.read().survey;
            late.buffers.extend(again.buffers);
            late
        };
        Reading {
            survey,
            until: self.clock.now(),
        }
    }

    pub fn read(&self) -> Reading {
        let begun = Instant::now();
        let survey = self
            .surveyor
            .survey(self.places, &|| begun.elapsed() < PATIENCE);
        Reading {
            survey,
            until: self.clock.now(),
        }
    }
}

impl Subject {
    /// Lets `read` read the devices that are at these places. What fails is told to a person.
    pub fn read_by<T>(
        &self,
        places: &Places,
        read: impl FnOnce(&Reader<'_>) -> T,
    ) -> Result<T, String> {
        self.survey(|surveyor, memory| {
            let places = match places {
                Places::Reachable => &memory.reach(&self.variables(), &surveyor.marks())?,
                Places::At(places) => places,
            };
            Ok(read(&Reader {
                surveyor,
                places,
                clock: self.clock,
            }))
        })
    }

    /// Searches the whole heap for devices that aren't at the `known` places, as long as `go_on` says
    /// so; `None` if that wasn't long enough. It gives way to whoever else wants to run.
    pub fn search(
        &self,
        known: &[u64],
        go_on: impl Fn() -> bool,
    ) -> Result<Option<Vec<u64>>, String> {
        // Linux has priorities of threads; without it, the search is only less polite.
        let _ = rustix::process::setpriority_process(None, POLITE);
        self.survey(|surveyor, memory| {
            let found = memory.find(&surveyor.marks(), go_on)?;
            Ok(found.map(|mut places| {
                places.retain(|place| !known.contains(place) && surveyor.is_device(*place));
                places
            }))
        })
    }

    /// Which addresses an allocator can give, by type. `None` if it isn't one of this library's, or can't
    /// be asked now.
    pub fn bank_maps(&self, allocator: AllocatorPointer) -> Option<BTreeMap<BufferType, BankMap>> {
        let maps = self.survey(|surveyor, _| Ok(surveyor.bank_maps(allocator)));
        maps.ok().filter(|maps| !maps.is_empty())
    }

    /// Whether what is recorded of blocks is what an allocator takes; `None` if that can't be said now.
    pub fn blocks_are_as_told(
        &self,
        allocator: AllocatorPointer,
        buffer_type: BufferType,
    ) -> Option<bool> {
        let told =
            self.survey(|surveyor, _| Ok(surveyor.blocks_are_as_told(allocator, buffer_type)));
        told.ok()?.ok()?
    }

    fn survey<T>(
        &self,
        by: impl FnOnce(&Surveyor<'_>, &ProcessMemory) -> Result<T, TargetError>,
    ) -> Result<T, String> {
        let Code { abi, file } = &*self.code;
        let image = file.image();
        let accessors = Accessors::find(image).map_err(|error| error.to_string())?;
        let memory = ProcessMemory::of(self.file.pid);
        let surveyor = Surveyor::new(abi, image, accessors, self.bias(), &memory);
        by(&surveyor, &memory).map_err(|error| error.to_string())
    }

    /// What the dynamic linker added to the library's virtual addresses.
    fn bias(&self) -> u64 {
        self.file.start.wrapping_sub(self.code.abi.first_address)
    }

    /// Where the process has the library's variables.
    fn variables(&self) -> Vec<Range<u64>> {
        let moved = |address: u64| address.wrapping_add(self.bias());
        let writable = self.code.file.image().writable().iter();
        writable
            .map(|range| moved(range.start)..moved(range.end))
            .filter(|range| !range.is_empty())
            .collect()
    }

    /// A reading that found nothing because of a problem.
    pub fn nothing(&self, problem: String) -> Reading {
        Reading {
            survey: Survey {
                problems: vec![problem],
                ..Survey::default()
            },
            until: self.clock.now(),
        }
    }
}
