//! A library's file together with what was derived from it.

use super::{Abi, AbiError, Library};

/// A parsed library and its [`Abi`]: all that is needed to read a process that has it loaded.
pub(crate) struct DerivedLibrary {
    pub abi: Abi,
    pub file: Library,
}

impl DerivedLibrary {
    /// Parses the bytes of a library's file and derives its ABI.
    ///
    /// # Errors
    /// See [`AbiError`].
    pub(crate) fn derive(data: Vec<u8>) -> Result<Self, AbiError> {
        let file = Library::parse(data)?;
        let abi = Abi::from_image(file.image())?;
        Ok(Self { abi, file })
    }
}

#[cfg(test)]
impl DerivedLibrary {
    /// A library put together from what [`excerpt`](super::excerpt) wrote. Its functions are those of the
    /// excerpt, and no others.
    pub(crate) fn from_excerpt(text: &str) -> Self {
        let file = Library::from_excerpt(text);
        let abi =
            Abi::from_image(file.image()).expect("an excerpt of a library that can be traced");
        Self { abi, file }
    }
}
