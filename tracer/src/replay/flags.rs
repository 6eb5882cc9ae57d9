//! The flags, and the arithmetic on values of a given width that sets them.

use iced_x86::ConditionCode;

/// The flags that conditions depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub carry: bool,
    pub zero: bool,
    pub sign: bool,
    pub overflow: bool,
    pub parity: bool,
}

impl Flags {
    /// The flags that depend only on the result, `width` bytes; the others are clear.
    pub(super) fn from_result(result: u64, width: usize) -> Self {
        Self {
            zero: result & mask(width) == 0,
            sign: is_negative(result, width),
            parity: (result as u8).count_ones().is_multiple_of(2),
            ..Self::default()
        }
    }

    /// Whether a condition holds; `None` if it isn't one.
    pub(super) fn holds(&self, condition: ConditionCode) -> Option<bool> {
        let Self {
            carry,
            zero,
            sign,
            overflow,
            parity,
        } = *self;
        Some(match condition {
            ConditionCode::o => overflow,
            ConditionCode::no => !overflow,
            ConditionCode::b => carry,
            ConditionCode::ae => !carry,
            ConditionCode::e => zero,
            ConditionCode::ne => !zero,
            ConditionCode::be => carry || zero,
            ConditionCode::a => !carry && !zero,
            ConditionCode::s => sign,
            ConditionCode::ns => !sign,
            ConditionCode::p => parity,
            ConditionCode::np => !parity,
            ConditionCode::l => sign != overflow,
            ConditionCode::ge => sign == overflow,
            ConditionCode::le => zero || sign != overflow,
            ConditionCode::g => !zero && sign == overflow,
            ConditionCode::None => return None,
        })
    }
}

/// Whether the highest bit of a value of `width` bytes is set.
pub(super) fn is_negative(value: u64, width: usize) -> bool {
    value >> (8 * width - 1) & 1 != 0
}

/// The value of `width` bytes, extended by its sign.
pub(super) fn sign_extended(value: u64, width: usize) -> i64 {
    let unused = 64 - 8 * width as u32;
    (value << unused) as i64 >> unused
}

/// The bits of a value of `width` bytes.
pub(super) fn mask(width: usize) -> u64 {
    match width {
        0..8 => (1 << (8 * width)) - 1,
        _ => u64::MAX,
    }
}
