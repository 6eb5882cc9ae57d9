//! How property tests run.

use proptest::{
    prelude::ProptestConfig,
    test_runner::{RngSeed, contextualize_config},
};

/// How long a failing case is shrunk, in milliseconds. A case of a slow property takes half a second.
const MAX_SHRINK_TIME: u32 = 60_000;

/// The configuration of a property test with that many cases. The cases are the same in every run, so that a
/// failure can be repeated; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` choose more and others.
pub(crate) fn property_config(cases: u32) -> ProptestConfig {
    contextualize_config(ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: MAX_SHRINK_TIME,
        ..ProptestConfig::default()
    })
}
