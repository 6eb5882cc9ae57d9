use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{Interest, unix::AsyncFd};

use super::TargetError;

/// Waits for the end of a process that needn't be our child (a pidfd: Linux 5.3).
#[derive(Debug)]
pub struct Ended {
    pid: u32,
    descriptor: AsyncFd<OwnedFd>,
}

impl Ended {
    /// Begins to watch a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self, TargetError> {
        let no_such = TargetError::NoSuchProcess { pid };
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Err(no_such);
        };
        let descriptor = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Err(no_such),
            Err(error) => {
                return Err(TargetError::Wait {
                    pid,
                    source: error.into(),
                });
            }
        };
        // SAFETY: the descriptor is owned by the `AsyncFd`, which keeps it open until it has
        // deregistered it.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        let descriptor = registered.map_err(|error| TargetError::Wait {
            pid,
            source: error.into_parts().1,
        })?;
        Ok(Self { pid, descriptor })
    }

    /// Completes when the process has ended, its last thread included.
    ///
    /// # Errors
    /// When the descriptor can't be waited for.
    pub async fn wait(&self) -> Result<(), TargetError> {
        // Left ready: an ended process stays ended.
        let ready = self.descriptor.readable().await;
        ready.map(drop).map_err(|source| TargetError::Wait {
            pid: self.pid,
            source,
        })
    }
}
