use std::path::PathBuf;

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use thiserror::Error;

/// A failure of the kernel side.
#[derive(Debug, Error)]
pub(crate) enum ProbeError {
    /// The kernel refused the object: too old, or without BPF.
    #[error(
        "the kernel refused the BPF object: {source}. It needs Linux 5.15 or newer with \
         CONFIG_BPF_SYSCALL and CONFIG_UPROBE_EVENTS, and root (or CAP_BPF and CAP_PERFMON)"
    )]
    Load {
        #[source]
        source: Box<EbpfError>,
    },

    /// The committed object lacks a program or a map.
    #[error("the embedded BPF object has no {kind} `{name}`: rebuild it with `cargo xtask ebpf`")]
    Missing {
        kind: &'static str,
        name: &'static str,
    },

    /// A map couldn't be used.
    #[error("BPF map `{map}`: {source}")]
    Map {
        map: &'static str,
        #[source]
        source: MapError,
    },

    /// A program couldn't be loaded or attached.
    #[error("BPF program `{program}`: {source}")]
    Program {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },

    /// The kernel refused a probe.
    #[error("can't put a probe at {path}+{offset:#x}: {source}")]
    Attach {
        path: PathBuf,
        offset: u64,
        #[source]
        source: Box<ProgramError>,
    },

    /// The ring buffer can't be waited for.
    #[error("can't wait for the ring buffer: {0}")]
    Wait(#[source] std::io::Error),

    /// More probes than the kernel side has room for.
    #[error(
        "no room for the probes of another library: there are more kinds of libtt_metal.so on this \
         host than can be traced at once"
    )]
    Full,

    /// The kernel has no BTF.
    #[error(
        "this kernel doesn't describe its types (no /sys/kernel/btf/vmlinux): it needs \
         CONFIG_DEBUG_INFO_BTF"
    )]
    NoTypes,

    /// A probe was asked for on the process with pid 0.
    #[error("there is no process 0")]
    NoProcess,
}
