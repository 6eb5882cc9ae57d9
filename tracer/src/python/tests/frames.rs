//! Decoding of the blocks of frames.

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    properties::property_config,
    python::{
        Instruction, Layout, RawFrame, Walk,
        walk::{MAX_BLOCK_LEN, MAX_DEREFS},
    },
};

const SERIES: [(u8, u8); 3] = [(3, 10), (3, 11), (3, 12)];

fn layout(series: (u8, u8)) -> Layout {
    Layout::of_series(series).expect("a known series")
}

/// A block with these words and bytes, by their offsets.
fn block(len: usize, words: &[(usize, u64)], bytes: &[(usize, u8)]) -> Vec<u8> {
    let mut block = vec![0; len];
    for (at, word) in words {
        block[*at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    for (at, byte) in bytes {
        block[*at] = *byte;
    }
    block
}

#[test]
fn a_walk_is_small_enough_for_the_kernel() {
    for series in SERIES {
        let walk = Walk::new(&layout(series), 0x1000);
        assert!(usize::from(walk.block_len) <= MAX_BLOCK_LEN, "{series:?}");
        assert_eq!(walk.block_len % 8, 0, "{series:?}");
        assert!(walk.previous_in_block + 8 <= walk.block_len, "{series:?}");
        assert!((1..=MAX_DEREFS).contains(&walk.frame.len()), "{series:?}");
    }
    let walk = Walk::new(&layout((3, 10)), 0x1000);
    assert_eq!((walk.block_start, walk.block_len), (24, 80));
}

#[test]
fn each_frame_of_3_10_is_called_by_c_code() {
    let layout = layout((3, 10));
    let unstarted = u64::from(u32::MAX);
    let blocks = [
        block(80, &[(0, 0x7000), (8, 0xc0de), (72, 12)], &[]),
        block(80, &[(8, 0xc1de), (72, unstarted)], &[]),
    ];
    let frame = |code, index| RawFrame {
        code,
        instruction: Instruction::Index(index),
        is_boundary: true,
        is_generator: false,
    };
    assert_eq!(
        layout.frames(&blocks.concat()),
        [frame(0xc0de, 12), frame(0xc1de, -1)]
    );
}

#[test]
fn frames_of_3_11_have_a_flag_if_c_code_called_them() {
    let layout = layout((3, 11));
    let blocks = [
        block(40, &[(0, 0xc0de), (24, 0x5000)], &[(37, 1)]),
        block(40, &[(0, 0xc1de), (24, 0x6000)], &[(36, 1)]),
    ];
    let frame = |code, address, is_boundary, is_generator| RawFrame {
        code,
        instruction: Instruction::Address(address),
        is_boundary,
        is_generator,
    };
    assert_eq!(
        layout.frames(&blocks.concat()),
        [
            frame(0xc0de, 0x5000, false, true),
            frame(0xc1de, 0x6000, true, false)
        ]
    );
}

#[test]
fn a_shim_of_3_12_is_no_frame_but_makes_the_one_before_it_a_boundary() {
    let layout = layout((3, 12));
    let function = |code| block(72, &[(0, code), (56, 0x5000)], &[(70, 0)]);
    let shim = block(72, &[(0, 0xdead)], &[(70, 3)]);
    let blocks = [function(1), function(2), shim.clone(), function(3), shim].concat();
    let decoded: Vec<_> = layout
        .frames(&blocks)
        .iter()
        .map(|frame| (frame.code, frame.is_boundary))
        .collect();
    assert_eq!(decoded, [(1, false), (2, true), (3, true)]);
    let cut_short = &blocks[..72 + 40];
    assert_eq!(layout.frames(cut_short).len(), 1);
}

/// A series, blocks of its length with random content, and an incomplete block.
fn random_blocks() -> impl Strategy<Value = ((u8, u8), Vec<Vec<u8>>, Vec<u8>)> {
    select(&SERIES).prop_flat_map(|series| {
        let len = usize::from(Walk::new(&layout(series), 0).block_len);
        let blocks = vec(vec(any::<u8>(), len), 0..=20);
        (Just(series), blocks, vec(any::<u8>(), 0..len))
    })
}

proptest! {
    #![proptest_config(property_config(200))]

    #[test]
    fn each_random_block_is_a_frame_unless_its_owner_is_that_of_a_shim(
        (series, blocks, incomplete) in random_blocks()
    ) {
        let owner = |block: &[u8]| match series {
            (3, 11) => Some(block[37]),
            (3, 12) => Some(block[70]),
            _ => None,
        };
        let frames = blocks.iter().filter(|block| owner(block) != Some(3)).count();
        let bytes = [blocks.concat(), incomplete].concat();
        prop_assert_eq!(layout(series).frames(&bytes).len(), frames);
    }
}
