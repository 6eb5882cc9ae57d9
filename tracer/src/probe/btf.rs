//! The running kernel's own type information.

use btf_rs::{Btf, Type};

/// Where the running kernel describes its types (Linux 5.4 with CONFIG_DEBUG_INFO_BTF).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offset in bytes of `exit_code` in `struct task_struct` of the running kernel, or `None` where
/// the kernel doesn't describe itself: then a traced process's exit code stays unknown.
pub fn exit_code_offset() -> Option<u64> {
    let btf = Btf::from_file(VMLINUX).ok()?;
    btf.resolve_types_by_name("task_struct")
        .ok()?
        .iter()
        .find_map(|kind| match kind {
            Type::Struct(task) => member_bits(&btf, task, "exit_code"),
            _ => None,
        })
        .map(|bits| u64::from(bits) / 8)
}

/// Offset in bits of a member, looked for in anonymous structures and unions too (a kernel with
/// structure randomization wraps most of `task_struct` in one).
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

    /// Whatever the kernel, the offset lies within a task_struct and is that of an int.
    #[test]
    fn the_running_kernel_tells_where_exit_code_lies() {
        if !std::path::Path::new(VMLINUX).exists() {
            eprintln!("no {VMLINUX} on this kernel: nothing to look up");
            assert_eq!(exit_code_offset(), None);
            return;
        }
        let offset = exit_code_offset().expect("task_struct has an exit_code");
        assert!(
            offset > 0 && offset < 64 * 1024 && offset.is_multiple_of(4),
            "{offset:#x}"
        );
    }
}
