//! The trace's clock.

use rustix::time::{ClockId, clock_gettime};

use crate::ledger::Nanoseconds;

/// The time since the trace's start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub started_ns: u64,
}

impl Clock {
    pub fn starting_now() -> Self {
        Self {
            started_ns: monotonic_ns(),
        }
    }

    pub fn now(self) -> Nanoseconds {
        Nanoseconds(monotonic_ns().saturating_sub(self.started_ns))
    }
}

/// `CLOCK_MONOTONIC`, which the kernel side stamps records with (`bpf_ktime_get_ns`).
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}
