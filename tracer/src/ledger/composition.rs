//! What the memory on a device consists of, by where it was allocated: now, and at its peak.

use std::collections::{BTreeMap, HashMap};

use super::group::{Count, Source};

/// What one [`Account`](super::Account) consists of.
///
/// Reaching or leaving a maximum copies nothing. A part notes what it was at the last maximum when it first
/// changes after that maximum. So each change costs the same, however many parts there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Composition {
    /// A part stays when nothing of it is live any more: the peak may need it.
    parts: HashMap<Source, Part>,
    /// How often the live bytes reached a new maximum.
    maxima: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    live: Count,
    /// What was live at the maximum with the number `noted`. Outdated once there is a later maximum.
    at_maximum: Count,
    noted: u64,
}

/// Which peak is the peak of two accounts that are merged into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeakOf {
    Own,
    Other,
    /// What both together hold now.
    Sum,
}

impl Composition {
    /// Adds a live buffer. `maximum`: the live bytes reach a new maximum with it.
    pub(super) fn add(&mut self, source: Source, bytes: u64, maximum: bool) {
        if maximum {
            self.maxima += 1;
            self.parts.entry(source).or_default().live.add(bytes);
        } else {
            self.part_to_change(source).live.add(bytes);
        }
    }

    /// Removes a buffer that is no longer live.
    pub(super) fn remove(&mut self, source: Source, bytes: u64) {
        self.part_to_change(source).live.remove(bytes);
    }

    /// A part that is about to change without a new maximum. Before its first change since the last maximum,
    /// the part's count at that maximum is noted.
    fn part_to_change(&mut self, source: Source) -> &mut Part {
        let part = self.parts.entry(source).or_default();
        if part.noted != self.maxima {
            part.noted = self.maxima;
            part.at_maximum = part.live;
        }
        part
    }

    /// Adds what another account consists of. `peak`: which peak is the peak of the sum.
    pub(super) fn merge(&mut self, other: &Self, peak: PeakOf) {
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

    /// What is live now, by source. Sources without live buffers are left out.
    pub(crate) fn live(&self) -> BTreeMap<Source, Count> {
        self.counts(|part| part.live)
    }

    /// What was live when the live bytes first reached their maximum, by source.
    pub(crate) fn peak(&self) -> BTreeMap<Source, Count> {
        self.counts(|part| {
            if part.noted == self.maxima {
                part.at_maximum
            } else {
                part.live
            }
        })
    }

    fn counts(&self, count: impl Fn(&Part) -> Count) -> BTreeMap<Source, Count> {
        self.parts
            .iter()
            .map(|(source, part)| (*source, count(part)))
            .filter(|(_, count)| count.buffers > 0)
            .collect()
    }
}
