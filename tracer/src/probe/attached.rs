//! Probes that are on.

use std::thread;

use aya::programs::uprobe::UProbeLink;

/// The links of the probes that are on. Dropping them takes the probes off.
#[derive(Default)]
pub(super) struct AttachedProbes {
    links: Vec<UProbeLink>,
}

impl AttachedProbes {
    pub(super) fn push(&mut self, link: UProbeLink) {
        self.links.push(link);
    }

    pub(super) fn append(&mut self, mut others: Self) {
        self.links.append(&mut others.links);
    }
}

impl Drop for AttachedProbes {
    /// For each probe the kernel waits for a grace period (about 0.1 s). The waits overlap, since each
    /// has a thread of its own.
    fn drop(&mut self) {
        thread::scope(|scope| {
            for link in self.links.drain(..) {
                scope.spawn(move || drop(link));
            }
        });
    }
}
