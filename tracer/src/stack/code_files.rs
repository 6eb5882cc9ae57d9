//! The executables and libraries that traced processes have mapped.

use std::{
    cell::OnceCell,
    collections::HashMap,
    fs::File,
    io::{Read as _, Seek as _},
};

use object::read::ReadCache;

use super::merge::NamedNativeFrame;
use crate::{
    frame::{Frame, FrameKind},
    python::is_interpreter,
    target::{FileId, MappedCode},
    unwind::{FileAddress, NativeFrame, Symbols, UnwindInfo, UnwindInfoSource},
};

/// The executables and libraries of all processes, by the numbers that a
/// [`Mapping`](crate::unwind::Mapping) has.
#[derive(Default)]
pub(super) struct CodeFiles {
    numbers: HashMap<FileId, usize>,
    files: Vec<CodeFile>,
}

/// An executable or a library. It stays open: by the time its symbols are read, the file may be replaced and
/// the process gone.
struct CodeFile {
    path: String,
    file: File,
    is_interpreter: bool,
    /// Read when the first stack with a frame in it is unwound; `None` if it can't be read.
    unwind_info: OnceCell<Option<UnwindInfo>>,
    /// Read when the first stack with a frame in it is named.
    symbols: OnceCell<Symbols>,
    /// Demangled names, by addresses in the functions; `None` where no symbol covers the address.
    functions: HashMap<u64, Option<String>>,
}

impl CodeFiles {
    /// The number of the file that code of a process is mapped from; `None` if the file can't be opened.
    pub(super) fn number(&mut self, part: &MappedCode) -> Option<usize> {
        if let Some(number) = self.numbers.get(&part.file) {
            return Some(*number);
        }
        self.files.push(CodeFile {
            path: part.path.display().to_string(),
            file: part.open().ok()?,
            is_interpreter: is_interpreter(part),
            unwind_info: OnceCell::new(),
            symbols: OnceCell::new(),
            functions: HashMap::new(),
        });
        let number = self.files.len() - 1;
        self.numbers.insert(part.file, number);
        Some(number)
    }

    /// A native frame with its names.
    pub(super) fn named(&mut self, frame: NativeFrame, is_innermost: bool) -> NamedNativeFrame {
        let NativeFrame { at, file_address } = frame;
        let located = file_address.and_then(|FileAddress { file, address }| {
            let file = self.files.get_mut(file)?;
            Some((file, address))
        });
        let mut named = NamedNativeFrame {
            frame: Frame {
                kind: FrameKind::Native,
                function: None,
                file: None,
                line: None,
                module: None,
                offset: Some(at),
            },
            of_interpreter: false,
        };
        if let Some((file, address)) = located {
            named.frame.function = file.function(address);
            named.frame.module = Some(file.path.clone());
            // Of the other frames, `address` is the byte before the return address.
            named.frame.offset = Some(address + u64::from(!is_innermost));
            named.of_interpreter = file.is_interpreter;
        }
        named
    }
}

impl UnwindInfoSource for CodeFiles {
    fn unwind_info(&mut self, number: usize) -> Option<&mut UnwindInfo> {
        let CodeFile {
            file, unwind_info, ..
        } = self.files.get_mut(number)?;
        unwind_info.get_or_init(|| UnwindInfo::read(&ReadCache::new(&*file)).ok());
        unwind_info.get_mut()?.as_mut()
    }
}

impl CodeFile {
    /// The demangled name of the function that an address lies in. Stacks share most of their frames, so
    /// each address is looked up once.
    fn function(&mut self, address: u64) -> Option<String> {
        let Self {
            file,
            symbols,
            functions,
            ..
        } = self;
        let function = functions.entry(address).or_insert_with(|| {
            let symbols = symbols.get_or_init(|| read_symbols(file).unwrap_or_default());
            symbols.name(address).map(Symbols::demangled)
        });
        function.clone()
    }
}

fn read_symbols(mut file: &File) -> Option<Symbols> {
    // The whole file in one read: each of the many symbols would cost a system call or two.
    let mut data = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut data).ok()?;
    Symbols::read(data.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target;

    #[test]
    fn a_frame_has_the_function_and_the_file_that_its_address_lies_in() {
        let ip =
            a_frame_has_the_function_and_the_file_that_its_address_lies_in as fn() as usize as u64;
        let mapped = target::code(std::process::id()).expect("one's own process");
        let part = mapped
            .iter()
            .find(|part| (part.start..part.end).contains(&ip));
        let part = part.expect("mapped code");
        let mut files = CodeFiles::default();
        let file = files.number(part).expect("a file that can be opened");
        assert_eq!(files.number(part), Some(file));
        let info = files.unwind_info(file).expect("an ELF file");
        let address = info.address_of(ip - part.start + part.file_offset);
        let address = address.expect("code of the file");
        let frame = NativeFrame {
            at: ip,
            file_address: Some(FileAddress { file, address }),
        };

        let innermost = files.named(frame, true);
        let function = innermost.frame.function.as_deref().unwrap_or_default();
        assert!(function.contains("a_frame_has_the_function"), "{function}");
        let path = part.path.display().to_string();
        assert_eq!(innermost.frame.module, Some(path));
        assert_eq!(innermost.frame.offset, Some(address));
        assert!(!innermost.of_interpreter);
        // The same address again, as the byte before a return address.
        let outer = files.named(frame, false);
        assert_eq!(outer.frame.function, innermost.frame.function);
        assert_eq!(outer.frame.offset, Some(address + 1));
    }
}
