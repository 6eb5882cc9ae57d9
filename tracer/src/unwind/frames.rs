//! Frame after frame, and what is remembered of it.

use std::collections::HashMap;

use thiserror::Error;

use super::{
    Code, Snapshot,
    rules::{Doubt, Registers, Step},
};

/// Frames of a stack that is plausible.
const MOST_FRAMES: usize = 1024;

/// Stacks that are remembered with what they depended on.
const MOST_REMEMBERED: usize = 20_000;

/// Why a stack ends before its outermost frame.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum Broken {
    #[error("{0:#x} lies in no code that is mapped")]
    NoCode(u64),
    #[error("nothing says how to unwind the code at {0:#x}")]
    NotDescribed(u64),
    #[error("a register isn't known at {0:#x}")]
    Register(u64),
    #[error("more of the stack is needed than was captured")]
    NotCaptured,
    #[error("the unwinding rules at {0:#x} can't be followed")]
    Rules(u64),
    #[error("the stack doesn't end")]
    Endless,
}

/// Code that a process has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// What stands at `start`, in the file.
    pub file_offset: u64,
    /// Which [`Code`] of [`Codes`].
    pub code: usize,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NativeFrame {
    /// The probed instruction; of the others the return address.
    pub at: u64,
    /// What lay there when the stack was unwound: the number of the code, and the address in its file of
    /// the instruction itself or, of a return address, of the byte before.
    pub place: Option<(usize, u64)>,
}

/// One stack's frames, innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeStack {
    pub frames: Vec<NativeFrame>,
    pub broken: Option<Broken>,
}

/// A [`NativeStack`] of an [`Unwinder`]; equal ones have one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NativeStackId(pub u32);

/// What a result depended on.
#[derive(Debug)]
struct Remembered {
    bp: u64,
    words: Vec<(u64, u64)>,
    stack: NativeStackId,
}

/// Files of code, by the numbers that mappings have.
pub trait Codes {
    /// `None` for one that can't be read.
    fn code(&mut self, number: usize) -> Option<&mut Code>;
}

/// Unwinds the stacks of one process.
#[derive(Debug, Default)]
pub struct Unwinder {
    /// By address.
    mappings: Vec<Mapping>,
    /// By instruction and stack pointer.
    remembered: HashMap<(u64, u64), Vec<Remembered>>,
    remembered_count: usize,
    stacks: Vec<NativeStack>,
    ids: HashMap<NativeStack, NativeStackId>,
}

impl Unwinder {
    /// What is mapped now.
    pub fn map(&mut self, mut mappings: Vec<Mapping>) {
        mappings.sort_by_key(|mapping| mapping.start);
        if mappings != self.mappings {
            self.mappings = mappings;
            self.forget();
        }
    }

    /// Gives back what unwinding again would find again.
    pub fn forget(&mut self) {
        self.remembered = HashMap::new();
        self.remembered_count = 0;
    }

    /// The frames of a stack.
    pub fn unwind(&mut self, codes: &mut dyn Codes, snapshot: &Snapshot<'_>) -> NativeStackId {
        let key = (snapshot.ip, snapshot.sp);
        if let Some(known) = self.remembered.get(&key) {
            let same = known.iter().find(|known| {
                let word_is = |(address, word): &(u64, u64)| snapshot.word(*address) == Some(*word);
                known.bp == snapshot.bp && known.words.iter().all(word_is)
            });
            if let Some(known) = same {
                return known.stack;
            }
        }
        let (stack, words) = self.walk(codes, snapshot);
        let is_whole = stack.broken.is_none();
        let id = match self.ids.get(&stack) {
            Some(id) => *id,
            None => {
                let id = NativeStackId(self.stacks.len() as u32);
                self.stacks.push(stack.clone());
                self.ids.insert(stack, id);
                id
            }
        };
        if is_whole {
            if self.remembered_count >= MOST_REMEMBERED {
                self.forget();
            }
            self.remembered_count += 1;
            self.remembered.entry(key).or_default().push(Remembered {
                bp: snapshot.bp,
                words,
                stack: id,
            });
        }
        id
    }

    /// A stack by its number.
    pub fn stack(&self, id: NativeStackId) -> Option<&NativeStack> {
        self.stacks.get(id.0 as usize)
    }

    /// The file of code that an address lies in, and where in it, as a virtual address of the file.
    fn locate(&self, codes: &mut dyn Codes, address: u64) -> Option<(usize, u64)> {
        let behind = self
            .mappings
            .partition_point(|mapping| mapping.start <= address);
        let mapping = self.mappings.get(behind.checked_sub(1)?)?;
        let Mapping {
            start,
            end,
            file_offset,
            code,
        } = *mapping;
        if !(start..end).contains(&address) {
            return None;
        }
        let address = codes
            .code(code)?
            .address_of(address - start + file_offset)?;
        Some((code, address))
    }

    /// The frames, and the words of the stack that they follow from.
    fn walk(
        &self,
        codes: &mut dyn Codes,
        snapshot: &Snapshot<'_>,
    ) -> (NativeStack, Vec<(u64, u64)>) {
        let mut words = Vec::new();
        let mut frames: Vec<NativeFrame> = Vec::new();
        let mut at = snapshot.ip;
        let mut registers = Registers::new(snapshot.sp, snapshot.bp);
        let mut sp = snapshot.sp;
        let broken = loop {
            // A return address may be the first one behind the function that called.
            let within = if frames.is_empty() { at } else { at - 1 };
            let place = self.locate(codes, within);
            frames.push(NativeFrame { at, place });
            let Some((code, address)) = place else {
                break Some(Broken::NoCode(at));
            };
            let Some(step) = codes.code(code).and_then(|code| code.step(address)) else {
                break Some(Broken::NotDescribed(at));
            };
            if step.is_outermost() {
                break None;
            }
            let mut read = |address: u64| {
                let word = snapshot.word(address)?;
                words.push((address, word));
                Some(word)
            };
            let (caller, back) = match step.apply(&registers, &mut read) {
                Ok(caller) => caller,
                Err(Doubt::Register) => break Some(Broken::Register(at)),
                Err(Doubt::Memory) => break Some(Broken::NotCaptured),
                Err(Doubt::Expression) => break Some(Broken::Rules(at)),
            };
            if back == 0 {
                break None;
            }
            // A caller's frame lies farther out.
            match Step::stack_pointer(&caller) {
                Some(outer) if outer > sp => sp = outer,
                _ => break Some(Broken::Rules(at)),
            }
            registers = caller;
            at = back;
            if frames.len() == MOST_FRAMES {
                break Some(Broken::Endless);
            }
        };
        (NativeStack { frames, broken }, words)
    }
}
