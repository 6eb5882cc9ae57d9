//! Unwinding a stack frame by frame, and the cache of results.

use std::{collections::HashMap, sync::Arc};

use thiserror::Error;

use super::{
    StackCopy, UnwindInfo,
    rules::{Doubt, Registers, Step},
};

/// The most frames of a plausible stack.
const MAX_FRAMES: usize = 1024;

/// The most results that are cached.
const MAX_CACHED: usize = 20_000;

/// Why a stack ends before its outermost frame.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    #[error("{0:#x} lies in no code that is mapped")]
    NoCode(u64),
    #[error("the code at {0:#x} has no unwinding rules")]
    NoRules(u64),
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
pub(crate) struct Mapping {
    pub start: u64,
    pub end: u64,
    /// The offset in the file of the byte at `start`.
    pub file_offset: u64,
    /// The file's number: see [`UnwindInfoSource`].
    pub file: usize,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NativeFrame {
    /// Of the innermost frame the probed instruction, of the others the return address.
    pub at: u64,
    /// The code that was mapped at `at` when the stack was unwound. Of a return address it is the byte before,
    /// which belongs to the call. `None` where no code was mapped.
    pub file_address: Option<FileAddress>,
}

/// An address in an executable or a shared library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileAddress {
    /// The file's number: see [`UnwindInfoSource`].
    pub file: usize,
    /// A virtual address of the file.
    pub address: u64,
}

/// The frames of a stack, innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NativeStack {
    pub frames: Vec<NativeFrame>,
    /// Why frames are missing after the last one; `None` where the stack is complete.
    pub broken: Option<Broken>,
}

/// A [`NativeStack`] of an [`Unwinder`]; equal stacks have the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NativeStackId(pub u32);

/// A result, and what it depended on besides instruction and stack pointer.
#[derive(Debug)]
struct Cached {
    bp: u64,
    /// Address and value of each word of the stack that was read.
    words: Vec<(u64, u64)>,
    stack: NativeStackId,
}

/// Has the unwinding rules of each file. The owner of the files gives them numbers.
pub(crate) trait UnwindInfoSource {
    /// The rules of the file with this number; `None` if it can't be read.
    fn unwind_info(&mut self, file: usize) -> Option<&mut UnwindInfo>;
}

/// Unwinds the stacks of one process.
#[derive(Debug, Default)]
pub(crate) struct Unwinder {
    /// In the order of their addresses.
    mappings: Vec<Mapping>,
    /// By instruction and stack pointer.
    cache: HashMap<(u64, u64), Vec<Cached>>,
    cached_count: usize,
    stacks: Vec<Arc<NativeStack>>,
    ids: HashMap<Arc<NativeStack>, NativeStackId>,
}

impl Unwinder {
    /// Sets what the process has mapped now.
    pub(crate) fn set_mappings(&mut self, mut mappings: Vec<Mapping>) {
        mappings.sort_by_key(|mapping| mapping.start);
        if mappings != self.mappings {
            self.mappings = mappings;
            self.clear_cache();
        }
    }

    /// Frees the cached results. The stacks keep their ids.
    pub(crate) fn clear_cache(&mut self) {
        self.cache = HashMap::new();
        self.cached_count = 0;
    }

    /// Unwinds a stack.
    pub(crate) fn unwind(
        &mut self,
        infos: &mut dyn UnwindInfoSource,
        copy: &StackCopy<'_>,
    ) -> NativeStackId {
        let key = (copy.ip, copy.sp);
        if let Some(cached) = self.cache.get(&key) {
            let same = cached.iter().find(|cached| {
                let is_same = |(address, word): &(u64, u64)| copy.word(*address) == Some(*word);
                cached.bp == copy.bp && cached.words.iter().all(is_same)
            });
            if let Some(cached) = same {
                return cached.stack;
            }
        }
        let (stack, words) = self.walk(infos, copy);
        let is_whole = stack.broken.is_none();
        let id = match self.ids.get(&stack) {
            Some(id) => *id,
            None => {
                let id = NativeStackId(self.stacks.len() as u32);
                let stack = Arc::new(stack);
                self.stacks.push(Arc::clone(&stack));
                self.ids.insert(stack, id);
                id
            }
        };
        if is_whole {
            if self.cached_count >= MAX_CACHED {
                self.clear_cache();
            }
            self.cached_count += 1;
            self.cache.entry(key).or_default().push(Cached {
                bp: copy.bp,
                words,
                stack: id,
            });
        }
        id
    }

    /// The stack with this id.
    pub(crate) fn stack(&self, id: NativeStackId) -> Option<&NativeStack> {
        self.stacks.get(id.0 as usize).map(|stack| &**stack)
    }

    /// The file that is mapped at an address, and the address in it.
    fn locate(&self, infos: &mut dyn UnwindInfoSource, address: u64) -> Option<FileAddress> {
        let next = self
            .mappings
            .partition_point(|mapping| mapping.start <= address);
        let mapping = self.mappings.get(next.checked_sub(1)?)?;
        let Mapping {
            start,
            end,
            file_offset,
            file,
        } = *mapping;
        if !(start..end).contains(&address) {
            return None;
        }
        let info = infos.unwind_info(file)?;
        let address = info.address_of(address - start + file_offset)?;
        Some(FileAddress { file, address })
    }

    /// The frames of a stack, and the words of the stack that were read: addresses and values.
    fn walk(
        &self,
        infos: &mut dyn UnwindInfoSource,
        copy: &StackCopy<'_>,
    ) -> (NativeStack, Vec<(u64, u64)>) {
        let mut words = Vec::new();
        let mut frames: Vec<NativeFrame> = Vec::new();
        let mut at = copy.ip;
        let mut registers = Registers::new(copy.sp, copy.bp);
        let mut sp = copy.sp;
        let broken = loop {
            // A call may be the last instruction of its function: the return address is in the next one then.
            let within = if frames.is_empty() { at } else { at - 1 };
            let file_address = self.locate(infos, within);
            frames.push(NativeFrame { at, file_address });
            let Some(FileAddress { file, address }) = file_address else {
                break Some(Broken::NoCode(at));
            };
            let info = infos.unwind_info(file);
            let Some(step) = info.and_then(|info| info.step(address)) else {
                break Some(Broken::NoRules(at));
            };
            if step.is_outermost() {
                break None;
            }
            let mut read = |address: u64| {
                let word = copy.word(address)?;
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
            // The stack grows downwards: a caller's frame has the higher address.
            match Step::stack_pointer(&caller) {
                Some(outer) if outer > sp => sp = outer,
                _ => break Some(Broken::Rules(at)),
            }
            registers = caller;
            at = back;
            if frames.len() == MAX_FRAMES {
                break Some(Broken::Endless);
            }
        };
        (NativeStack { frames, broken }, words)
    }
}
