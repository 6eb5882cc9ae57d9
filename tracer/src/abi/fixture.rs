//! Excerpts of `libtt_metal.so` from ttnn wheels on PyPI, made by
//! `tt-memtrace check --library FILE --excerpt FIXTURE`.

use std::sync::LazyLock;

use super::{Abi, image::Image};

/// The fields lie behind a pointer; all accessors are out of line.
pub(crate) const TTNN_0_81_1: &str = include_str!("fixtures/ttnn-0.81.1.txt");
/// The fields lie in `Buffer`; few accessors are out of line.
pub(crate) const TTNN_0_77_0: &str = include_str!("fixtures/ttnn-0.77.0.txt");
/// Like 0.77.0, with a smaller `Buffer` and another `create`.
pub(crate) const TTNN_0_71_2: &str = include_str!("fixtures/ttnn-0.71.2.txt");
/// The second oldest release: it has no `AllocatorImpl`, and `MeshDevice` holds its id itself.
pub(crate) const TTNN_0_62_2: &str = include_str!("fixtures/ttnn-0.62.2.txt");

/// The derived ABI of [`TTNN_0_81_1`]. It is derived once: that takes a third of a second without optimisation.
pub(crate) fn ttnn_0_81_1() -> Abi {
    static ABI: LazyLock<Abi> = LazyLock::new(|| derive(TTNN_0_81_1));
    ABI.clone()
}

/// The derived ABI of [`TTNN_0_77_0`], likewise.
pub(crate) fn ttnn_0_77_0() -> Abi {
    static ABI: LazyLock<Abi> = LazyLock::new(|| derive(TTNN_0_77_0));
    ABI.clone()
}

fn derive(excerpt: &str) -> Abi {
    Abi::from_image(&Image::from_excerpt(excerpt)).expect("a release that can be traced")
}
