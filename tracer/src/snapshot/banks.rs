//! The banks of an allocator: how full they are, and which of their addresses are in use.

use std::collections::BTreeMap;

use crate::ledger::BankRange;

/// The banks of one type of memory on one device. All figures but `count` are bytes of one bank, as
/// `ttnn.get_memory_view` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BankStatistics {
    pub count: u64,
    pub bytes: u64,
    pub allocated: u64,
    pub free: u64,
    pub largest_free: u64,
}

/// Which addresses an allocator can give in each bank of one type, and which of them are in use.
/// Addresses are those of buffers: the same in each bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BankMap {
    pub(super) range: BankRange,
    /// The length in bytes of each block in use, by its address.
    pub(super) used: BTreeMap<u64, u64>,
}

impl BankMap {
    /// Makes a map of the blocks in use and the free ones, each given by its first address and the one
    /// behind its last. `None` unless the blocks adjoin and their sums are those of the statistics.
    pub(super) fn new(
        used: &[(u64, u64)],
        free: &[(u64, u64)],
        banks: &BankStatistics,
    ) -> Option<Self> {
        let sum = |blocks: &[(u64, u64)]| -> Option<u64> {
            let mut blocks = blocks.iter();
            blocks.try_fold(0_u64, |sum, (from, to)| {
                sum.checked_add(to.checked_sub(*from)?)
            })
        };
        let mut all = [used, free].concat();
        all.sort_unstable();
        let adjoin = all.windows(2).all(|pair| pair[0].1 == pair[1].0);
        let agree = sum(used)? == banks.allocated && sum(free)? == banks.free;
        let ((start, _), (_, end)) = (*all.first()?, *all.last()?);
        let range = BankRange {
            banks: banks.count,
            start,
            end,
        };
        (adjoin && agree && end - start == banks.bytes).then(|| Self {
            range,
            used: used.iter().map(|(from, to)| (*from, to - from)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANKS: BankStatistics = BankStatistics {
        count: 12,
        bytes: 0x8000,
        allocated: 0x1800,
        free: 0x6800,
        largest_free: 0x5000,
    };
    const USED: [(u64, u64); 2] = [(0x3000, 0x3800), (0x1000, 0x2000)];
    const FREE: [(u64, u64); 2] = [(0x4000, 0x9000), (0x2000, 0x3000)];

    #[test]
    fn adjoining_blocks_make_a_map() {
        let free = [(0x3800, 0x9000), (0x2000, 0x3000)];
        let map = BankMap::new(&USED, &free, &BANKS).expect("a map");
        let range = BankRange {
            banks: 12,
            start: 0x1000,
            end: 0x9000,
        };
        assert_eq!(map.range, range);
        assert_eq!(
            map.used,
            BTreeMap::from([(0x1000, 0x1000), (0x3000, 0x800)])
        );
    }

    #[test]
    fn an_empty_bank_is_one_free_block() {
        let banks = BankStatistics {
            allocated: 0,
            free: 0x8000,
            ..BANKS
        };
        let map = BankMap::new(&[], &[(0x20, 0x8020)], &banks).expect("a map");
        assert_eq!((map.range.start, map.range.end), (0x20, 0x8020));
    }

    /// The lists were read while the target changed them, so that they are of different moments.
    #[test]
    fn blocks_that_do_not_fit_together_make_no_map() {
        let whole = (&USED[..], &[(0x3800, 0x9000), (0x2000, 0x3000)][..]);
        let fits = |used: &[_], free: &[_], banks: &BankStatistics| {
            BankMap::new(used, free, banks).is_some()
        };
        assert!(fits(whole.0, whole.1, &BANKS));
        assert!(!fits(&USED, &FREE, &BANKS), "there is a gap");
        assert!(!fits(&USED[..1], whole.1, &BANKS), "a block is missing");
        assert!(
            !fits(&[(0x3800, 0x3000)], whole.1, &BANKS),
            "a block ends before it begins"
        );
        for other in [
            BankStatistics {
                allocated: 0x1000,
                ..BANKS
            },
            BankStatistics {
                free: 0x7000,
                ..BANKS
            },
            BankStatistics {
                bytes: 0x9000,
                ..BANKS
            },
        ] {
            assert!(!fits(whole.0, whole.1, &other), "{other:?}");
        }
        assert!(!fits(&[], &[], &BANKS), "there are no blocks");
    }
}
