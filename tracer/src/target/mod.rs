//! Processes: which ones run, what they have mapped, what their memory holds, when they end. Reads
//! `/proc` and memory, but doesn't interpret the mapped files.

mod candidate;
mod error;
mod find;
mod identity;
mod mapping;
mod memory;
mod pagemap;
mod process;
mod reach;
mod read_memory;
mod search;
mod threads;

pub(crate) use candidate::Candidate;
pub(crate) use error::TargetError;
pub(crate) use find::find_by_name;
pub(crate) use identity::Identity;
pub(crate) use mapping::{
    FileId, LIBRARY, MappedCode, MappedFile, code, dynamic_linker, is_loaded, libraries,
    wheel_release,
};
pub(crate) use memory::ProcessMemory;
pub(crate) use process::{all, ancestors, is_alive, is_stopping, process_of};
pub(crate) use read_memory::{PAGE_LEN, PageBytes, ReadMemory, Unreadable};
pub(crate) use threads::RunningThreads;
