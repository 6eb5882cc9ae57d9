//! Stand-ins for the functions outside the library that accessors call.

use super::{Overlay, ReplayError};
use crate::abi::never_returns;

/// Has the effect of the function of that name on `overlay`, and returns its result.
///
/// # Errors
/// When the function has no stand-in, or when it would throw or wait.
pub(super) fn call(
    name: &str,
    arguments: [u64; 4],
    overlay: &mut Overlay<'_>,
) -> Result<u64, ReplayError> {
    /// The bit in `pthread_rwlock_t::__data.__readers` that a writer sets (glibc 2.25 and later,
    /// `nptl/pthread_rwlock_common.c`: PTHREAD_RWLOCK_WRLOCKED).
    const WRITE_LOCKED: u64 = 2;
    let [first, second, third, _] = arguments;
    let base = name.split('@').next().unwrap_or(name);
    match base {
        "_Znwm" | "_Znam" | "_ZnwmSt11align_val_t" | "_ZnamSt11align_val_t" | "malloc" => {
            overlay.allocate(first).ok_or(ReplayError::Endless)
        }
        "_ZdlPv"
        | "_ZdlPvm"
        | "_ZdaPv"
        | "_ZdaPvm"
        | "_ZdlPvSt11align_val_t"
        | "_ZdlPvmSt11align_val_t"
        | "free" => Ok(0),
        "memcpy" | "memmove" => {
            let mut bytes = vec![0; length(third)?];
            overlay.read(second, &mut bytes)?;
            overlay.write(first, &bytes)?;
            Ok(first)
        }
        "memset" => {
            overlay.write(first, &vec![second as u8; length(third)?])?;
            Ok(first)
        }
        // `pthread_mutex_t::__data.__lock` (glibc) is 0 unless a thread holds the mutex.
        "pthread_mutex_lock" | "pthread_mutex_trylock" => match overlay.number(first, 4)? {
            0 => Ok(0),
            _ => Err(ReplayError::Locked),
        },
        "pthread_rwlock_rdlock" | "pthread_rwlock_tryrdlock" => {
            match overlay.number(first, 4)? & WRITE_LOCKED {
                0 => Ok(0),
                _ => Err(ReplayError::Locked),
            }
        }
        "pthread_mutex_unlock" | "pthread_rwlock_unlock" => Ok(0),
        _ if never_returns(base) => Err(ReplayError::Throws {
            function: base.to_owned(),
        }),
        _ => Err(ReplayError::Foreign {
            function: base.to_owned(),
        }),
    }
}

/// A length that a function passed. More than 256 MiB can only come from a torn read.
fn length(bytes: u64) -> Result<usize, ReplayError> {
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= 1 << 28)
        .ok_or(ReplayError::Endless)
}
