//! Vector loops: which vectors a function walks through, derived from the first iteration of its loops.

use tracer_common::register;

use super::{
    field::{Evidence, FieldPath},
    image::{Function, Image},
    interpreter::{Action, Analysis, Base, Callee, MemoryLocation, Value},
    names,
};

/// A `std::vector` in an object. In libstdc++ it begins with a pointer to its first element and a
/// pointer behind its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vector {
    /// Offset of the vector in the object, in bytes.
    pub offset: i64,
    /// Distance from one element to the next, in bytes.
    pub stride: i64,
}

/// A member function of which only the first iteration of each loop was interpreted.
pub(super) struct FirstIteration<'a> {
    pub function: Function<'a>,
    analysis: Analysis,
    this: Base,
}

impl<'a> FirstIteration<'a> {
    /// Interprets the member function `name` of a class, if the library has it.
    pub(super) fn find(image: &Image<'a>, class: &str, name: &str) -> Option<Self> {
        let function = names::methods(image, class, name).into_iter().next()?;
        Some(Self::new(image, function))
    }

    /// Interprets a member function.
    pub(super) fn new(image: &Image<'a>, function: Function<'a>) -> Self {
        Self {
            analysis: Analysis::first_iteration(image, &function),
            function,
            this: Base::Argument(register::RDI),
        }
    }

    /// The argument that points to the object.
    pub(super) fn this(&self) -> Base {
        self.this.clone()
    }

    /// The same function, if it returns its result through a hidden first argument.
    pub(super) fn with_hidden_result(self) -> Self {
        Self {
            this: Base::Argument(register::RSI),
            ..self
        }
    }

    /// What the function does, in the order of its code.
    pub(super) fn actions(&self) -> impl Iterator<Item = &Action> {
        let observations = self.analysis.observations().iter();
        observations.map(|observation| &observation.what)
    }

    /// This function's evidence for a field at `path`. `what` says what the function does with it.
    pub(super) fn evidence(&self, what: &str, path: FieldPath) -> Evidence {
        Evidence {
            source: format!("{} ({what})", names::short(self.function.symbol)),
            path,
        }
    }

    /// The vectors of the object that the function walks through.
    pub(super) fn vectors(&self) -> Vec<Vector> {
        let mut vectors = Vec::new();
        for action in self.actions() {
            let Action::Advance { pointer, by } = action else {
                continue;
            };
            let vector = Vector {
                offset: pointer.offset,
                stride: *by,
            };
            if pointer.base == self.this
                && pointer.width == 8
                && self.loaded_at(&self.this, 8).contains(&(vector.offset + 8))
                && !vectors.contains(&vector)
            {
                vectors.push(vector);
            }
        }
        vectors
    }

    /// The pointer to the first element of the object's vector at that offset.
    pub(super) fn first_element(&self, vector: i64) -> Base {
        loaded(&self.this, vector)
    }

    /// The offsets of the vectors that the function checks for being empty, by comparing their two
    /// pointers, in the object that `base` points to.
    pub(super) fn checked_for_empty(&self, base: &Base) -> Vec<i64> {
        let within = |value: &Value| {
            value
                .loaded_from()
                .filter(|from| from.base == *base && from.width == 8)
                .map(|from| from.offset)
        };
        let pairs = self.actions().filter_map(|action| match action {
            Action::Compare { left, right } => Some((within(left)?, within(right)?)),
            _ => None,
        });
        let mut vectors: Vec<i64> = pairs
            .filter(|(one, other)| one.abs_diff(*other) == 8)
            .map(|(one, other)| one.min(other))
            .collect();
        vectors.sort_unstable();
        vectors.dedup();
        vectors
    }

    /// The values that the function returns, one for each return.
    pub(super) fn returns(&self) -> impl Iterator<Item = &Value> {
        self.actions().filter_map(|action| match action {
            Action::Return(value) => Some(value),
            _ => None,
        })
    }

    /// The value that the function returns, if it is the same at each return.
    pub(super) fn returned(&self) -> Option<Value> {
        all_equal(self.returns()).cloned()
    }

    /// The only offset in the object at which the function writes `width` bytes.
    pub(super) fn only_written(&self, width: u8) -> Option<i64> {
        all_equal(self.actions().filter_map(|action| match action {
            Action::Store {
                to: Some(to),
                offset,
                width: stored,
                ..
            } if *to == self.this && *stored == width => Some(*offset),
            _ => None,
        }))
    }

    /// The offsets at which the function reads `width` bytes of the object that `base` points to, in
    /// ascending order.
    pub(super) fn loaded_at(&self, base: &Base, width: u8) -> Vec<i64> {
        let mut offsets: Vec<i64> = self
            .actions()
            .filter_map(|action| match action {
                Action::Load(from) if from.base == *base && from.width == width => {
                    Some(from.offset)
                }
                _ => None,
            })
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }

    /// The only offset in the object at which the function stores `wanted` as four bytes.
    pub(super) fn only_stored(&self, wanted: &Value) -> Option<i64> {
        all_equal(self.actions().filter_map(|action| match action {
            Action::Store {
                to: Some(to),
                offset,
                width: 4,
                value,
            } if *to == self.this && value == wanted => Some(*offset),
            _ => None,
        }))
    }

    /// The distance from `base` to the object that is passed as argument number `slot` to a member
    /// function of `class`. `None` if no such object is passed, or if calls differ.
    pub(super) fn passed(
        &self,
        class: &str,
        method: &str,
        slot: usize,
        base: &Base,
    ) -> Option<i64> {
        self.passed_to(&|name| names::is_method(name, &[class], method), slot, base)
    }

    /// The distance from `base` to the object that a constructor of `class` is called for.
    pub(super) fn constructed(&self, class: &str, base: &Base) -> Option<i64> {
        self.passed_to(&|name| names::is_constructor(name, class), 0, base)
    }

    fn passed_to(&self, is: &dyn Fn(&str) -> bool, slot: usize, base: &Base) -> Option<i64> {
        all_equal(self.actions().filter_map(|action| match action {
            Action::Call {
                callee: Callee::Named(name),
                arguments,
            } if is(name) => match &arguments[slot] {
                Value::Symbolic { base: of, offset } if of == base => Some(*offset),
                _ => None,
            },
            _ => None,
        }))
    }
}

/// The pointer in the eight bytes at `offset` of the object that `base` points to.
pub(super) fn loaded(base: &Base, offset: i64) -> Base {
    Base::Loaded(
        MemoryLocation {
            base: base.clone(),
            offset,
            width: 8,
        }
        .into(),
    )
}

/// The value of all items, if there is at least one and all are the same.
pub(super) fn all_equal<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values = values.into_iter();
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}
