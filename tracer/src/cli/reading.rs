//! A process's memory read by the rules of the library that it has loaded.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{libraries::Code, session::Clock};
use crate::{
    abi::{Accessors, Image},
    baseline::{Reading, Survey, Surveyor},
    target::{MappedFile, ProcessMemory},
};

/// So long allocators are asked that are being changed all the time.
const PATIENCE: Duration = Duration::from_secs(1);

/// A process with one of its libraries.
#[derive(Clone)]
pub struct Subject {
    pub file: MappedFile,
    pub code: Arc<Code>,
    pub clock: Clock,
}

/// Reads what the devices of one process hold, as often as it is asked.
pub struct Reader<'a> {
    surveyor: &'a Surveyor<'a>,
    places: &'a [u64],
    clock: Clock,
}

impl Reader<'_> {
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
    /// Looks for the devices and lets `read` read them. A search that fails is told to a person.
    pub fn read_by<T>(&self, read: impl FnOnce(&Reader<'_>) -> T) -> Result<T, String> {
        let Self { file, code, clock } = self;
        let image = Image::parse(&code.data).map_err(|error| error.to_string())?;
        let accessors = Accessors::find(&image).map_err(|error| error.to_string())?;
        let memory = ProcessMemory::of(file.pid);
        let bias = file.start.wrapping_sub(code.abi.first_address);
        let surveyor = Surveyor::new(&code.abi, &image, accessors, bias, &memory);
        let words = memory
            .find(&surveyor.marks())
            .map_err(|error| error.to_string())?;
        let places: Vec<u64> = words.into_iter().map(|word| word.address).collect();
        Ok(read(&Reader {
            surveyor: &surveyor,
            places: &places,
            clock: *clock,
        }))
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
