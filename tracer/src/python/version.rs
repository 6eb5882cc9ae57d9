use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of CPython in the form of `PY_VERSION_HEX` (`Include/patchlevel.h`): major, minor and micro
/// number, a byte each, then the release level and its serial number, four bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Version(pub u32);

impl Version {
    /// Major and minor number, which determine the layout of structures.
    pub(crate) fn series(self) -> (u8, u8) {
        let [major, minor, ..] = self.0.to_be_bytes();
        (major, minor)
    }

    /// Whether it is a release or a release candidate: from then on the structures of a series don't change.
    /// The level is 0xa for an alpha, 0xb for a beta, 0xc for a candidate, 0xf for a release.
    pub(crate) fn has_stable_layout(self) -> bool {
        (self.0 >> 4) & 0xf >= 0xc
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, micro, _] = self.0.to_be_bytes();
        write!(f, "{major}.{minor}.{micro}")?;
        let level = match (self.0 >> 4) & 0xf {
            0xa => "a",
            0xb => "b",
            0xc => "rc",
            _ => return Ok(()),
        };
        write!(f, "{level}{}", self.0 & 0xf)
    }
}
