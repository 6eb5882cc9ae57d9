//! The search for the interpreter of a running process.

use std::{
    io::Read as _,
    time::{Duration, Instant},
};

use super::{InterpreterSymbols, Python, PythonError};
use crate::target::{MappedCode, ReadMemory};

/// The file name of an interpreter, program or library, begins with one of these.
const NAMES: [&str; 2] = ["python", "libpython"];

/// The time until the next attempt. It doubles with each attempt.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Whether a mapped file holds code of a Python interpreter, judging by its name.
pub(crate) fn is_interpreter(part: &MappedCode) -> bool {
    let name = part.path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| NAMES.iter().any(|start| name.starts_with(start)))
}

/// Finds and verifies the interpreter of one process. An interpreter that runs no Python code yet can't
/// be verified: the search is repeated later.
#[derive(Debug)]
pub(crate) struct InterpreterSearch {
    next_attempt: Option<Instant>,
    delay: Duration,
}

impl Default for InterpreterSearch {
    fn default() -> Self {
        Self {
            next_attempt: None,
            delay: FIRST_DELAY,
        }
    }
}

impl InterpreterSearch {
    /// Searches the files that a process has mapped. `None` if there is no interpreter, or none that runs
    /// Python code yet.
    ///
    /// # Errors
    /// When there is an interpreter, but its stacks can never be read.
    pub(crate) fn find(
        &mut self,
        memory: &dyn ReadMemory,
        mapped: &[MappedCode],
    ) -> Result<Option<Python>, PythonError> {
        self.next_attempt = None;
        let mut problem = None;
        for part in mapped.iter().filter(|part| is_interpreter(part)) {
            match verify(memory, part) {
                Ok(Some(python)) => return Ok(Some(python)),
                Err(PythonError::NotStarted | PythonError::NoThreadInPython) => {
                    self.next_attempt = Some(Instant::now() + self.delay);
                    self.delay = (2 * self.delay).min(MAX_DELAY);
                }
                // A program without the interpreter's symbols has it in a library.
                Ok(None) | Err(PythonError::NotCPython { .. }) => {}
                Err(error) => problem = Some(error),
            }
        }
        match problem {
            Some(problem) if self.next_attempt.is_none() => Err(problem),
            _ => Ok(None),
        }
    }

    /// Whether it is time to search again.
    pub(crate) fn is_due(&self) -> bool {
        self.next_attempt.is_some_and(|at| at <= Instant::now())
    }
}

/// `None` if the file can't be read.
fn verify(memory: &dyn ReadMemory, part: &MappedCode) -> Result<Option<Python>, PythonError> {
    let mut file = Vec::new();
    let read = part.open().and_then(|mut of| of.read_to_end(&mut file));
    let (Ok(_), Some(first_byte)) = (read, part.first_byte) else {
        return Ok(None);
    };
    let symbols = InterpreterSymbols::read(&file, first_byte)?;
    Python::verify(memory, &symbols, None).map(Some)
}
