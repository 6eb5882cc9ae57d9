//! Interprets the functions of programs, and derives single fields and lists from them.

use super::layout::List;
use crate::abi::{
    AbiError,
    field::{Field, FieldPath},
    image::Image,
    interpreter::Value,
    listing,
    names::PROGRAM,
    vector_loop::{FirstIteration, Vector},
};

/// Derives what is known about programs from the functions of one library.
pub(super) struct ProgramDeriver<'a> {
    pub image: &'a Image<'a>,
}

impl<'a> ProgramDeriver<'a> {
    /// Interprets the first iteration of the loops of a member function.
    ///
    /// # Errors
    /// When the library lacks the function.
    pub(super) fn first_iteration(
        &self,
        class: &str,
        name: &str,
    ) -> Result<FirstIteration<'a>, AbiError> {
        FirstIteration::find(self.image, class, name).ok_or_else(|| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{class}::{name}()")],
        })
    }

    /// The eight bytes of the program that an accessor returns.
    ///
    /// # Errors
    /// When the library lacks the accessor, or it does something else.
    pub(super) fn accessor(&self, field: &'static str, name: &str) -> Result<Field, AbiError> {
        let method = self.first_iteration(PROGRAM, name)?;
        let returned = method.returned().and_then(|value| {
            let path = value.loaded_from()?.path_from(&method.this())?;
            (path.derefs.is_empty() && path.width == 8).then_some(path)
        });
        let path = returned.ok_or_else(|| {
            self.underivable(field, "the accessor doesn't just return it", [&method])
        })?;
        let evidence = vec![method.evidence("returns it", path.clone())];
        Ok(Field { path, evidence })
    }

    /// The error that a field can't be derived from these functions.
    pub(super) fn underivable<'f>(
        &self,
        field: &'static str,
        reason: &str,
        functions: impl IntoIterator<Item = &'f FirstIteration<'a>>,
    ) -> AbiError
    where
        'a: 'f,
    {
        let code = functions
            .into_iter()
            .map(|of| listing::function(&of.function));
        AbiError::Underivable {
            field,
            reason: reason.into(),
            code: code.collect::<Vec<_>>().join("\n"),
        }
    }

    /// The vector that an accessor returns: by reference, or as the pointer of a `span`.
    ///
    /// # Errors
    /// Like [`Self::accessor`].
    pub(super) fn list(
        &self,
        field: &'static str,
        accessor: &str,
        stride: i64,
    ) -> Result<List, AbiError> {
        let method = self.first_iteration(PROGRAM, accessor)?;
        let this = method.this();
        let offset = method.returned().and_then(|value| match value {
            Value::Symbolic { base, offset } if base == this => Some(offset),
            value => {
                let path = value.loaded_from()?.path_from(&this)?;
                path.derefs.is_empty().then_some(path.offset)
            }
        });
        let offset = offset.ok_or_else(|| {
            self.underivable(field, "the accessor doesn't just return it", [&method])
        })?;
        Ok(List {
            vector: Vector { offset, stride },
            evidence: vec![method.evidence("returns it", FieldPath::direct(offset, 8))],
        })
    }
}
