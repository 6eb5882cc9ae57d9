//! A copy of a thread's stack.

/// The innermost part of a thread's stack, and the registers that unwinding begins with, as they were at
/// the probed instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackCopy<'a> {
    /// `rip`.
    pub ip: u64,
    /// `rsp`.
    pub sp: u64,
    /// `rbp`.
    pub bp: u64,
    /// The bytes of the stack from `sp` on.
    pub bytes: &'a [u8],
}

impl StackCopy<'_> {
    /// The word at an address, if it was captured.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.sp)?).ok()?;
        let word = self.bytes.get(at..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*word))
    }
}
