//! The clock of a trace.

use rustix::time::{ClockId, clock_gettime};

use crate::ledger::Nanoseconds;

/// Measures the time since a trace began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When the trace began, by [`monotonic_ns`].
    pub started_ns: u64,
}

impl Clock {
    /// The time since the trace began.
    pub(crate) fn now(self) -> Nanoseconds {
        self.at(monotonic_ns())
    }

    /// The time from the trace's beginning to `now_ns`, a reading of [`monotonic_ns`].
    pub(crate) fn at(self, now_ns: u64) -> Nanoseconds {
        Nanoseconds(now_ns.saturating_sub(self.started_ns))
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the eBPF side stamps its records with the same clock
/// (`bpf_ktime_get_ns`).
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}
