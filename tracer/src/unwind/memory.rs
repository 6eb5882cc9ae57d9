//! A stack as it was.

/// The innermost part of a thread's stack, and the registers that unwinding begins with, at the probed
/// instruction.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub ip: u64,
    pub sp: u64,
    /// `rbp`.
    pub bp: u64,
    /// What stands from `sp` on.
    pub bytes: &'a [u8],
}

impl Snapshot<'_> {
    /// The word at an address, if it was captured.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.sp)?).ok()?;
        let word = self.bytes.get(at..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*word))
    }
}
