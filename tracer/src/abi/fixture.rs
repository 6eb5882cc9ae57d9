//! Excerpts of the `libtt_metal.so` of ttnn wheels on PyPI, made by
//! `tt-memtrace check --library FILE --excerpt FIXTURE`.

use super::{Abi, image::Image};

/// Fields behind a pointer, all accessors out of line.
pub const TTNN_0_81_1: &str = include_str!("fixtures/ttnn-0.81.1.txt");
/// Fields in `Buffer`, few accessors out of line.
pub const TTNN_0_77_0: &str = include_str!("fixtures/ttnn-0.77.0.txt");
/// Between the two: as 0.77.0, but for a smaller `Buffer` and another `create`.
pub const TTNN_0_71_2: &str = include_str!("fixtures/ttnn-0.71.2.txt");
/// The oldest release but one: no `AllocatorImpl`, and `MeshDevice` holds its id itself.
pub const TTNN_0_62_2: &str = include_str!("fixtures/ttnn-0.62.2.txt");

pub fn ttnn_0_81_1() -> Abi {
    Abi::of(&Image::from_excerpt(TTNN_0_81_1)).expect("ttnn 0.81.1 can be traced")
}

pub fn ttnn_0_77_0() -> Abi {
    Abi::of(&Image::from_excerpt(TTNN_0_77_0)).expect("ttnn 0.77.0 can be traced")
}
