//! Of what the memory on a device consists, by where it was allocated: now, and at its peak.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::stack::StackId;

/// Where a buffer comes from, as far as that tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The tracer saw its birth, and its stack if that was captured.
    Traced(Option<StackId>),
    /// It was there before the tracer came.
    BeforeAttach,
}

impl Source {
    /// Where it was allocated, if that was captured.
    pub fn stack(self) -> Option<StackId> {
        match self {
            Self::Traced(stack) => stack,
            Self::BeforeAttach => None,
        }
    }
}

/// How many buffers, and their sizes' sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub buffers: u64,
    /// Of buffers on a mesh: on each member.
    pub bytes: u64,
}

impl Tally {
    /// Counts one more buffer of so many bytes.
    pub fn add(&mut self, bytes: u64) {
        *self += Self { buffers: 1, bytes };
    }

    fn remove(&mut self, bytes: u64) {
        self.buffers = self.buffers.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.buffers = self.buffers.saturating_add(other.buffers);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What one [`Account`](super::Account) consists of.
///
/// Nothing is copied when a maximum is reached or left: a part notes what it was at the last maximum
/// when it first changes after it, so each change costs the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composition {
    /// A part stays when nothing of it is live any more: the peak may need it.
    parts: HashMap<Source, Part>,
    /// How often the live bytes reached a new maximum.
    maxima: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    live: Tally,
    /// What was live at the maximum number `noted`; of no meaning once there is a later one.
    at_maximum: Tally,
    noted: u64,
}

/// Whose peak is the peak of two accounts that become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeakOf {
    Own,
    Other,
    /// What both hold together now.
    Sum,
}

impl Composition {
    /// A buffer is live. `maximum`: there was never so much before.
    pub(super) fn add(&mut self, source: Source, bytes: u64, maximum: bool) {
        if maximum {
            self.maxima += 1;
            self.parts.entry(source).or_default().live.add(bytes);
        } else {
            self.changing(source).live.add(bytes);
        }
    }

    /// A buffer is live no more.
    pub(super) fn remove(&mut self, source: Source, bytes: u64) {
        self.changing(source).live.remove(bytes);
    }

    /// The part, which is to change after a maximum.
    fn changing(&mut self, source: Source) -> &mut Part {
        let part = self.parts.entry(source).or_default();
        if part.noted != self.maxima {
            part.noted = self.maxima;
            part.at_maximum = part.live;
        }
        part
    }

    /// Takes over what another account consists of.
    pub(super) fn take_over(&mut self, other: &Self, peak: PeakOf) {
        let at_peak = match peak {
            PeakOf::Own => Some(self.peak()),
            PeakOf::Other => Some(other.peak()),
            PeakOf::Sum => None,
        };
        for (source, part) in &other.parts {
            self.parts.entry(*source).or_default().live += part.live;
        }
        self.maxima += 1;
        let Some(at_peak) = at_peak else { return };
        for (source, part) in &mut self.parts {
            part.noted = self.maxima;
            part.at_maximum = at_peak.get(source).copied().unwrap_or_default();
        }
    }

    /// What is live now, without what isn't.
    pub fn live(&self) -> BTreeMap<Source, Tally> {
        self.tallies(|part| part.live)
    }

    /// What was live when the live bytes first reached their maximum.
    pub fn peak(&self) -> BTreeMap<Source, Tally> {
        self.tallies(|part| {
            if part.noted == self.maxima {
                part.at_maximum
            } else {
                part.live
            }
        })
    }

    fn tallies(&self, tally: impl Fn(&Part) -> Tally) -> BTreeMap<Source, Tally> {
        self.parts
            .iter()
            .map(|(source, part)| (*source, tally(part)))
            .filter(|(_, tally)| tally.buffers > 0)
            .collect()
    }
}
