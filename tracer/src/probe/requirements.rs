//! What tracing needs of the host: the kernel and privileges.

use caps::{CapSet, Capability};
use rustix::system::uname;
use serde::Serialize;
use thiserror::Error;

use super::kernel::{describes_types, supports_uprobes};

/// Tracing can't work here; what is missing, and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct Unsupported(String);

/// The oldest kernel that has all that is used: `bpf_get_attach_cookie` came with 5.15.
const OLDEST: (u32, u32) = (5, 15);

/// The oldest one on which stacks can be captured: `bpf_loop` came with 5.17.
const OLDEST_WITH_LOOPS: (u32, u32) = (5, 17);

/// The oldest kernel on which each part of tracing works, and what this host has.
#[derive(Debug, Serialize)]
pub(crate) struct Requirements {
    pub kernel: String,
    pub arch: String,
    pub kernel_new_enough: bool,
    pub uprobes: bool,
    pub kernel_types: bool,
    pub missing_capabilities: Vec<String>,
    /// Whatever stands in the way, each with what to do; empty if tracing can work.
    pub problems: Vec<String>,
}

impl Requirements {
    /// Looks at the host.
    pub(crate) fn check() -> Self {
        let host = HostName::read();
        let version = version(&host.kernel);
        let mut problems = Vec::new();
        let kernel_new_enough = version.is_none_or(|version| version >= OLDEST);
        if !kernel_new_enough {
            problems.push(format!(
                "Linux {} is too old: {}.{} or newer is needed",
                host.kernel, OLDEST.0, OLDEST.1
            ));
        }
        if host.arch != "x86_64" {
            problems.push(format!("this is {}: only x86_64 can be traced", host.arch));
        }
        let uprobes = supports_uprobes();
        if !uprobes {
            problems.push(
                "this kernel has no uprobes (CONFIG_UPROBE_EVENTS), or /sys isn't mounted".into(),
            );
        }
        let kernel_types = describes_types();
        if !kernel_types {
            problems.push(
                "this kernel doesn't describe its types (CONFIG_DEBUG_INFO_BTF), or /sys isn't mounted"
                    .into(),
            );
        }
        let missing_capabilities = missing_capabilities();
        if !missing_capabilities.is_empty() {
            problems.push(format!(
                "not enough privilege: {} missing; run as root (sudo tt-memtrace …)",
                missing_capabilities.join(" and ")
            ));
        }
        Self {
            kernel: host.kernel,
            arch: host.arch,
            kernel_new_enough,
            uprobes,
            kernel_types,
            missing_capabilities,
            problems,
        }
    }

    /// # Errors
    /// The first problem, when tracing can't work here.
    pub(crate) fn require(&self) -> Result<(), Unsupported> {
        match self.problems.first() {
            None => Ok(()),
            Some(problem) => Err(Unsupported(problem.clone())),
        }
    }

    /// # Errors
    /// When this kernel is too old to capture stacks.
    pub(crate) fn of_stacks() -> Result<(), Unsupported> {
        loops_for("stacks", " (--stacks none says that none are wanted)")
    }

    /// # Errors
    /// When this kernel is too old to send lists, for what programs take of L1.
    pub(crate) fn of_lists() -> Result<(), Unsupported> {
        loops_for("circular buffers", "")
    }
}

/// What needs `bpf_loop`.
fn loops_for(what: &str, hint: &str) -> Result<(), Unsupported> {
    let kernel = HostName::read().kernel;
    match version(&kernel) {
        Some(version) if version < OLDEST_WITH_LOOPS => Err(Unsupported(format!(
            "no {what}: Linux {kernel} is too old for that, {}.{} or newer is needed{hint}",
            OLDEST_WITH_LOOPS.0, OLDEST_WITH_LOOPS.1
        ))),
        _ => Ok(()),
    }
}

/// The names of this host, its kernel's release and its architecture (`uname(2)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostName {
    pub hostname: String,
    pub kernel: String,
    pub arch: String,
}

impl HostName {
    /// Asks the kernel.
    pub(crate) fn read() -> Self {
        let name = uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Self {
            hostname: text(name.nodename()),
            kernel: text(name.release()),
            arch: text(name.machine()),
        }
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The capabilities that are wanted and not there. CAP_SYS_ADMIN stands for both.
fn missing_capabilities() -> Vec<String> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    if has(Capability::CAP_SYS_ADMIN) {
        return Vec::new();
    }
    [Capability::CAP_BPF, Capability::CAP_PERFMON]
        .into_iter()
        .filter(|capability| !has(*capability))
        .map(|capability| capability.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_compare_as_numbers() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.15-rc1"), Some((5, 15)));
        assert_eq!(version("odd"), None);
        assert!(version("5.4.0") < Some(OLDEST));
        assert!(version("10.0") > Some(OLDEST));
    }
}
