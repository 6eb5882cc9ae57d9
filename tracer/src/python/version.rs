use std::fmt;

/// A version of CPython, as `PY_VERSION_HEX` has it (`Include/patchlevel.h`): major, minor, micro, a
/// byte each, then the release level and its serial number, four bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// Major and minor number, which the layout of structures goes by.
    pub fn series(self) -> (u8, u8) {
        let [major, minor, ..] = self.0.to_be_bytes();
        (major, minor)
    }

    /// Whether it is a release or a candidate of one: from then on the structures of a series stay
    /// as they are. 0xa is an alpha, 0xb a beta, 0xc a candidate, 0xf a release.
    pub fn is_settled(self) -> bool {
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
