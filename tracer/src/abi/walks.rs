//! What a loop walks through: vectors, told from its first turn.

use tracer_common::register;

use super::{
    field::{FieldPath, Witness},
    image::{Function, Image},
    interpreter::{Action, Analysis, Callee},
    names,
    value::{Base, Place, Value},
};

/// A `std::vector` in an object (libstdc++: the pointers to its first element and behind its last).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Where in the object it lies, in bytes.
    pub offset: i64,
    /// From one element to the next, in bytes.
    pub stride: i64,
}

/// A member function, interpreted in the first turn of its loops, and which argument is its object.
pub struct FirstTurn<'a> {
    pub function: Function<'a>,
    analysis: Analysis,
    this: Base,
}

impl<'a> FirstTurn<'a> {
    /// Of the one member function of that name.
    pub fn of(image: &Image<'a>, class: &str, name: &str) -> Option<Self> {
        let function = names::methods(image, class, name).into_iter().next()?;
        Some(Self::of_function(image, function))
    }

    pub fn of_function(image: &Image<'a>, function: Function<'a>) -> Self {
        Self {
            analysis: Analysis::first_turn(image, &function),
            function,
            this: Base::Argument(register::RDI),
        }
    }

    /// The argument that points to the object.
    pub fn this(&self) -> Base {
        self.this.clone()
    }

    /// The same, with its result returned through a hidden first argument.
    pub fn after_result(self) -> Self {
        Self {
            this: Base::Argument(register::RSI),
            ..self
        }
    }

    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        let observations = self.analysis.observations().iter();
        observations.map(|observation| &observation.what)
    }

    /// The function's word on a field.
    pub fn witness(&self, what: &str, path: FieldPath) -> Witness {
        Witness {
            source: format!("{} ({what})", names::short(self.function.symbol)),
            path,
        }
    }

    /// The vectors of the object that it walks through.
    pub fn vectors(&self) -> Vec<Vector> {
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

    /// What points to the first element of a vector of the object.
    pub fn first_element(&self, vector: i64) -> Base {
        loaded(&self.this, vector)
    }

    /// The vectors within what `base` points to that it asks whether they are empty: it compares their
    /// two pointers.
    pub fn asked_if_empty(&self, base: &Base) -> Vec<i64> {
        let within = |value: &Value| {
            value
                .place()
                .filter(|place| place.base == *base && place.width == 8)
                .map(|place| place.offset)
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

    /// What the function returns, on each way out.
    pub fn returns(&self) -> impl Iterator<Item = &Value> {
        self.actions().filter_map(|action| match action {
            Action::Return(value) => Some(value),
            _ => None,
        })
    }

    /// What it returns, if that is one value.
    pub fn returned(&self) -> Option<Value> {
        all_equal(self.returns()).cloned()
    }

    /// The only place in the object where it writes `width` bytes.
    pub fn only_written(&self, width: u8) -> Option<i64> {
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

    /// Where it reads `width` bytes of what `base` points to, in order.
    pub fn loaded_at(&self, base: &Base, width: u8) -> Vec<i64> {
        let mut offsets: Vec<i64> = self
            .actions()
            .filter_map(|action| match action {
                Action::Load(place) if place.base == *base && place.width == width => {
                    Some(place.offset)
                }
                _ => None,
            })
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }

    /// The only place in the object that becomes `wanted`, four bytes.
    pub fn only_stored(&self, wanted: &Value) -> Option<i64> {
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

    /// How far behind `base` the object stands that is passed as argument number `slot` to a member
    /// function of `class`, each time; `None` if it isn't passed, or differs.
    pub fn passed(&self, class: &str, method: &str, slot: usize, base: &Base) -> Option<i64> {
        self.passed_to(&|name| names::is_method(name, &[class], method), slot, base)
    }

    /// How far behind `base` the object of `class` stands that a constructor is called for.
    pub fn constructed(&self, class: &str, base: &Base) -> Option<i64> {
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

/// What stands in the eight bytes at `offset` of what `base` points to.
pub fn loaded(base: &Base, offset: i64) -> Base {
    Base::Loaded(
        Place {
            base: base.clone(),
            offset,
            width: 8,
        }
        .into(),
    )
}

/// What all are, if there is any and all are the same.
pub fn all_equal<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values = values.into_iter();
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}
