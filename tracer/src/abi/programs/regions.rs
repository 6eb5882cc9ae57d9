//! Derives the L1 regions of programs: where a program's allocators keep them.

use super::{
    deriver::ProgramDeriver,
    layout::{List, Regions},
};
use crate::abi::{
    AbiError,
    field::FieldPath,
    interpreter::{Action, Base, MemoryLocation, Value},
    listing,
    names::{self, CORE_RANGES, PROGRAM},
    vector_loop::{FirstIteration, Vector, all_equal, loaded},
};

impl ProgramDeriver<'_> {
    /// Checks that a `CoreRangeSet` is a vector of `CoreRange`s, each with four 64-bit coordinates: x and y
    /// of the first core, x and y of the last one. `intersects()` compares each coordinate of one range
    /// with its counterpart in the other.
    ///
    /// # Errors
    /// When it doesn't.
    pub(super) fn require_core_ranges(&self) -> Result<(), AbiError> {
        const FIELD: &str = "core ranges";
        let function = names::methods(self.image, CORE_RANGES, "intersects")
            .into_iter()
            .find(|function| {
                names::parameters(function.symbol) == ["tt::tt_metal::CoreRange const&"]
            })
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::CoreRangeSet::intersects(CoreRange const&)".into()],
            })?;
        let intersects = FirstIteration::new(self.image, function);
        let whole = Vector {
            offset: 0,
            stride: 32,
        };
        let (range, other) = (intersects.first_element(0), names::argument(1));
        let compares = |own: i64, theirs: i64| {
            let word = |base: &Base, offset| Value::symbolic(loaded(base, offset));
            let Value::Symbolic { base: other, .. } = &other else {
                return false;
            };
            let pair = (word(&range, own), word(other, theirs));
            intersects.actions().any(|action| match action {
                Action::Compare { left, right } => {
                    (left, right) == (&pair.0, &pair.1) || (right, left) == (&pair.0, &pair.1)
                }
                _ => false,
            })
        };
        let compares_ends =
            compares(16, 0) && compares(0, 16) && compares(24, 8) && compares(8, 24);
        if intersects.vectors() == [whole] && compares_ends {
            return Ok(());
        }
        Err(self.underivable(
            FIELD,
            "`intersects` doesn't compare them as expected",
            [&intersects],
        ))
    }

    /// The vector of allocators that both `walkers` walk through, checking each for having regions. The
    /// second walker validates the regions, so it throws where they don't fit.
    ///
    /// # Errors
    /// When a function is missing, doesn't show the vector, or disagrees with the other.
    pub(super) fn regions(
        &self,
        field: &'static str,
        walkers: [&str; 2],
    ) -> Result<Regions, AbiError> {
        let walkers = [
            self.first_iteration(PROGRAM, walkers[0])?,
            self.first_iteration(PROGRAM, walkers[1])?,
        ];
        let mut results: Vec<(Vector, i64)> = Vec::new();
        let mut evidence = Vec::new();
        for walker in &walkers {
            let found: Vec<(Vector, i64)> = walker
                .vectors()
                .into_iter()
                .filter_map(|vector| {
                    let element = walker.first_element(vector.offset);
                    match walker.checked_for_empty(&element)[..] {
                        [regions] => Some((vector, regions)),
                        _ => None,
                    }
                })
                .collect();
            let [(vector, regions)] = found[..] else {
                return Err(self.underivable(
                    field,
                    "it isn't clear which vector the loop walks through",
                    [walker],
                ));
            };
            results.push((vector, regions));
            let path = FieldPath::direct(vector.offset, 8);
            evidence.push(walker.evidence("walks through it", path));
        }
        let (vector, regions) = all_equal(results).ok_or_else(|| AbiError::Contradiction {
            field,
            evidence: evidence.clone(),
            code: walkers
                .each_ref()
                .map(|walker| listing::function(&walker.function))
                .join("\n"),
        })?;
        // The message of the exception names the core range.
        let element = walkers[1].first_element(vector.offset);
        let range = walkers[1]
            .passed("CoreRange", "str", 1, &element)
            .ok_or_else(|| self.underivable(field, "no core range is named", [&walkers[1]]))?;
        self.require_pairs(field, regions)?;
        Ok(Regions {
            list: List { vector, evidence },
            range,
            regions,
        })
    }

    /// Checks that a region is a pair of addresses: `mark_address` must add such a pair to an allocator's
    /// regions.
    fn require_pairs(&self, field: &'static str, regions: i64) -> Result<(), AbiError> {
        let mark_address = self.first_iteration(
            &format!("{PROGRAM}::CircularBufferAllocator"),
            "mark_address",
        )?;
        let end = loaded(&mark_address.this(), regions + 8);
        let farther = Value::Symbolic {
            base: end.clone(),
            offset: 16,
        };
        let (address, base) = (names::argument(1), names::argument(3));
        let stores = |to: &Base, offset: i64, wanted: &Value| {
            mark_address.actions().any(|action| {
                matches!(action, Action::Store { to: Some(of), offset: at, width: 8, value }
                    if of == to && *at == offset && value == wanted)
            })
        };
        // If there is no region yet, it adds an empty one at the base address. Then it compares the end of
        // the last region with the new address.
        let last_end = MemoryLocation {
            base: end.clone(),
            offset: 8,
            width: 8,
        };
        let compares_end = mark_address.actions().any(|action| {
            matches!(action, Action::Compare { left, right }
                if *left == address && right.loaded_from() == Some(&last_end)
                || *right == address && left.loaded_from() == Some(&last_end))
        });
        if stores(&end, 0, &base)
            && stores(&end, 8, &base)
            && stores(&mark_address.this(), regions + 8, &farther)
            && compares_end
        {
            return Ok(());
        }
        Err(self.underivable(
            field,
            "`mark_address` doesn't add a region as expected",
            [&mark_address],
        ))
    }
}
