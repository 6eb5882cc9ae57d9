//! The running kernel's own type information.

use btf_rs::{Btf, Type};

/// Where the running kernel describes its types (Linux 5.4 with CONFIG_DEBUG_INFO_BTF).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The offsets of the members that the kernel side reads, in bytes from the start of their structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// `task_struct.pid`: a thread's number.
    pub task_pid: u64,
    /// `task_struct.tgid`: the number of the thread's process.
    pub task_tgid: u64,
    /// `task_struct.exit_code`: how the thread ended, as `wait(2)` encodes it.
    pub task_exit_code: u64,
    /// `task_struct.signal`: the structure that a process's threads share.
    pub task_signal: u64,
    /// `signal_struct.live`: the number of threads that haven't ended.
    pub signal_live: u64,
    /// `task_struct.thread.fsbase`: the address of a thread's own data, by x86-64's ABI.
    pub task_fsbase: u64,
    /// `task_struct.mm`: a process's memory.
    pub task_mm: u64,
    /// `mm_struct.start_stack`: the first thread's stack pointer when the program began.
    pub mm_start_stack: u64,
}

/// The offsets in the running kernel, or `None` if it doesn't describe its types.
pub(super) fn offsets() -> Option<Offsets> {
    // The file is read at once. Read piece by piece, it would take half a million system calls.
    let btf = Btf::from_bytes(&std::fs::read(VMLINUX).ok()?).ok()?;
    let task = |name| offset(&btf, "task_struct", name);
    Some(Offsets {
        task_pid: task("pid")?,
        task_tgid: task("tgid")?,
        task_exit_code: task("exit_code")?,
        task_signal: task("signal")?,
        signal_live: offset(&btf, "signal_struct", "live")?,
        task_fsbase: task("thread")? + offset(&btf, "thread_struct", "fsbase")?,
        task_mm: task("mm")?,
        mm_start_stack: offset(&btf, "mm_struct", "start_stack")?,
    })
}

/// Whether the running kernel describes its types.
pub(super) fn describes_types() -> bool {
    std::path::Path::new(VMLINUX).exists()
}

fn offset(btf: &Btf, structure: &str, member: &str) -> Option<u64> {
    let types = btf.resolve_types_by_name(structure).ok()?;
    let bits = types.iter().find_map(|kind| match kind {
        Type::Struct(of) => member_bits(btf, of, member),
        _ => None,
    })?;
    Some(u64::from(bits) / 8)
}

/// The offset in bits of a member. It is searched in anonymous structures and unions, too: a kernel with
/// structure randomization wraps most of `task_struct` in one.
fn member_bits(btf: &Btf, of: &btf_rs::Struct, name: &str) -> Option<u32> {
    of.members.iter().find_map(|member| {
        let member_name = btf.resolve_name(member).unwrap_or_default();
        if member_name == name {
            return Some(member.bit_offset());
        }
        if !member_name.is_empty() {
            return None;
        }
        match btf.resolve_chained_type(member).ok()? {
            Type::Struct(inner) | Type::Union(inner) => {
                member_bits(btf, &inner, name).map(|bits| bits + member.bit_offset())
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In every kernel the offsets are aligned and within their structures.
    #[test]
    fn the_running_kernel_has_the_members() {
        if !describes_types() {
            assert_eq!(offsets(), None);
            return;
        }
        let Offsets {
            task_pid,
            task_tgid,
            task_exit_code,
            task_signal,
            signal_live,
            task_fsbase,
            task_mm,
            mm_start_stack,
        } = offsets().expect("the members are there");
        for (offset, width) in [
            (task_pid, 4),
            (task_tgid, 4),
            (task_exit_code, 4),
            (task_signal, 8),
            (signal_live, 4),
            (task_fsbase, 8),
            (task_mm, 8),
            (mm_start_stack, 8),
        ] {
            assert!(offset < 64 * 1024 && offset % width == 0, "{offset:#x}");
        }
        // In `include/linux/sched.h` of every release they are side by side.
        assert_eq!(task_tgid, task_pid + 4);
        assert_ne!(task_exit_code, task_pid);
    }
}
