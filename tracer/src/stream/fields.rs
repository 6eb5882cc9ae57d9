//! The fields in a record's payload.

use tracer_common::SENT_AT;

use super::{
    plan::Location,
    record::{DecodeError, number},
};

/// The payload of a record: the part of the capture program's workspace that was sent.
pub(super) struct Fields<'a> {
    pub(super) sent: &'a [u8],
    /// Bit i is set if the capture program's read i failed.
    pub(super) faults: u32,
}

impl Fields<'_> {
    /// A field's value. 0 if it wasn't sent.
    ///
    /// # Errors
    /// When one of the reads that it needs failed.
    pub(super) fn get(&self, location: &Location) -> Result<u64, DecodeError> {
        if self.faults & location.needs != 0 {
            return Err(DecodeError::Fault {
                faults: self.faults,
                needed: location.needs,
            });
        }
        let at = location.at.saturating_sub(SENT_AT);
        let bytes = self.sent.get(at..at + usize::from(location.width));
        Ok(bytes.map(number).unwrap_or_default())
    }
}
