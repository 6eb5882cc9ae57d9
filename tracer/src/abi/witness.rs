//! What one function has to say about where fields lie.

use std::rc::Rc;

use tracer_common::register;

use super::{
    field::{FieldPath, Witness},
    image::Function,
    interpreter::{Action, Analysis, Callee},
    names,
    value::{Base, Place, Value},
};

/// A function that was interpreted, and which object its `this` is.
#[derive(Clone)]
pub struct Testimony<'a> {
    pub function: Function<'a>,
    pub analysis: Rc<Analysis>,
    /// The argument that points to the object.
    pub this: Base,
    /// The way from the `Buffer` to that object.
    pub prefix: Vec<i64>,
}

impl Testimony<'_> {
    fn path(&self, place: &Place) -> Option<FieldPath> {
        Some(place.path_from(&self.this)?.within(&self.prefix))
    }

    /// `paths`, if they are all the same one, as this function's word.
    fn word(&self, what: &str, paths: impl IntoIterator<Item = FieldPath>) -> Option<Witness> {
        let mut paths = paths.into_iter();
        let path = paths.next()?;
        if paths.any(|other| other != path) {
            return None;
        }
        Some(Witness {
            source: format!("{} ({what})", names::short(self.function.symbol)),
            path,
        })
    }

    fn actions(&self) -> impl Iterator<Item = &Action> {
        self.analysis
            .observations()
            .iter()
            .map(|observation| &observation.what)
    }

    /// The field that an accessor returns, on each path.
    pub fn returned(&self) -> Option<Witness> {
        let values = self.actions().filter_map(|action| match action {
            Action::Return(value) => Some(value.place().and_then(|place| self.path(place))),
            _ => None,
        });
        self.word("returns it", values.collect::<Option<Vec<_>>>()?)
    }

    /// The only field of the object itself that is `width` bytes wide and that the function reads.
    pub fn only_read(&self, width: u8) -> Option<Witness> {
        let reads = self.actions().filter_map(|action| match action {
            Action::Load(place) if place.width == width => self.path(place),
            _ => None,
        });
        // A pointer on the way to the object isn't a field of the object.
        let depth = |path: &FieldPath| path.derefs.len();
        let reads: Vec<_> = reads.collect();
        let deepest = reads.iter().map(depth).max()?;
        self.word(
            "reads only it",
            reads.into_iter().filter(|path| depth(path) == deepest),
        )
    }

    /// The field of the object that is set to `value`.
    pub fn stored(
        &self,
        what: &str,
        width: Option<u8>,
        value: &Value,
        except: &[&FieldPath],
    ) -> Option<Witness> {
        let stores = self.actions().filter_map(|action| match action {
            Action::Store {
                to: Some(base),
                offset,
                width: stored,
                value: v,
            } if v == value && width.is_none_or(|wanted| wanted == *stored) => self.path(&Place {
                base: base.clone(),
                offset: *offset,
                width: *stored,
            }),
            _ => None,
        });
        self.word(
            what,
            stores.filter(|path| !except.iter().any(|other| other.same_place(path))),
        )
    }

    /// The one-byte field that the function compares first, and with what.
    pub fn first_compared(&self) -> Option<(Witness, i64)> {
        self.compared_bytes(&[]).into_iter().next()
    }

    /// The one-byte fields that the function compares with constants, except some.
    pub fn compared_bytes(&self, except: &[&FieldPath]) -> Vec<(Witness, i64)> {
        self.actions()
            .filter_map(|action| {
                let Action::Compare {
                    left,
                    right: Value::Constant(constant),
                } = action
                else {
                    return None;
                };
                let place = left.place().filter(|place| place.width == 1)?;
                let path = self
                    .path(place)
                    .filter(|path| !except.iter().any(|other| other.same_place(path)))?;
                Some((self.word("compares it", [path])?, *constant))
            })
            .collect()
    }

    /// The four-byte enum of which the function asks whether it is at least 2: subtracts 2 and
    /// compares the rest, or compares it with 1 or 2.
    pub fn range_checked(&self) -> Option<Witness> {
        let checked = self.actions().filter_map(|action| {
            let Action::Compare {
                left:
                    Value::Symbolic {
                        base: Base::Loaded(place),
                        offset,
                    },
                right,
            } = action
            else {
                return None;
            };
            let asks = match (offset, right) {
                (-2, Value::Constant(_)) => true,
                (0, Value::Constant(constant)) => matches!(constant, 1 | 2),
                _ => false,
            };
            (asks && place.width == 4)
                .then(|| self.path(place))
                .flatten()
        });
        self.word("checks its range", checked)
    }

    /// The field that holds the object whose virtual function is called first.
    pub fn first_virtual_object(&self) -> Option<Witness> {
        let object = self.actions().find_map(|action| match action {
            Action::Call {
                callee: Callee::Virtual { object, .. },
                ..
            } => Some(object.place()?.clone()),
            _ => None,
        })?;
        self.word("calls its virtual function", self.path(&object))
    }

    /// The field that is passed as the first argument to a member function of one of `classes`.
    pub fn passed_as_this(&self, classes: &[&str], method: &str) -> Option<Witness> {
        let passed = self.actions().filter_map(|action| match action {
            Action::Call {
                callee: Callee::Named(name),
                arguments,
            } if names::is_method(name, classes, method) => {
                Some(arguments[0].place().and_then(|place| self.path(place)))
            }
            _ => None,
        });
        self.word(
            &format!("calls {method} on it"),
            passed.collect::<Option<Vec<_>>>()?,
        )
    }

    /// Results of calls to a member function of one of `classes`.
    pub fn results_of(&self, classes: &[&str], method: &str) -> Vec<Value> {
        self.analysis
            .observations()
            .iter()
            .filter_map(|observation| match &observation.what {
                Action::Call {
                    callee: Callee::Named(name),
                    ..
                } if names::is_method(name, classes, method) => {
                    Some(Value::symbolic(Base::Result(observation.at)))
                }
                _ => None,
            })
            .collect()
    }

    /// Values read from a counter of the library by an atomic addition and stored in the object.
    pub fn counted(&self, variable: &str) -> Option<Witness> {
        let value = self.actions().find_map(|action| match action {
            Action::Store {
                value:
                    Value::Symbolic {
                        base: Base::Counter(name),
                        offset: 0,
                    },
                ..
            } if name.contains(variable) => Some(Value::symbolic(Base::Counter(name.clone()))),
            _ => None,
        })?;
        self.stored(&format!("takes it from {variable}"), Some(8), &value, &[])
    }

    /// The instruction that stores `value` as eight bytes at `offset` from whatever.
    pub fn store_at(&self, offset: i64, value: &Value) -> Option<u64> {
        self.analysis
            .observations()
            .iter()
            .find_map(|observation| match &observation.what {
                Action::Store {
                    offset: at,
                    width: 8,
                    value: v,
                    ..
                } if *at == offset && v == value => Some(observation.at),
                _ => None,
            })
    }

    /// The same function, with its result returned through a hidden first argument.
    pub fn after_result(self) -> Self {
        Self {
            this: this_after_result(),
            ..self
        }
    }

    /// Where a `create` that returns a `shared_ptr<Buffer>` through a hidden pointer stores its
    /// address argument: the path from the `Buffer`.
    pub fn through_result(&self) -> Option<Witness> {
        let address = names::argument(2);
        self.analysis
            .observations()
            .iter()
            .find_map(|observation| match &observation.what {
                Action::Store {
                    to: Some(base),
                    offset,
                    width: 8,
                    value,
                } if *value == address => {
                    let path = Place {
                        base: base.clone(),
                        offset: *offset,
                        width: 8,
                    }
                    .path_from(&this())?;
                    // The first step is from the `shared_ptr` to the `Buffer`.
                    let (0, derefs) = path
                        .derefs
                        .split_first()
                        .map(|(first, rest)| (*first, rest.to_vec()))?
                    else {
                        return None;
                    };
                    Some(Witness {
                        source: format!(
                            "{} (sets it to its address)",
                            names::short(self.function.symbol)
                        ),
                        path: FieldPath { derefs, ..path },
                    })
                }
                _ => None,
            })
    }
}

/// `this` of an ordinary member function.
pub fn this() -> Base {
    Base::Argument(register::RDI)
}

/// `this` of a member function whose result is returned through a hidden pointer.
pub fn this_after_result() -> Base {
    Base::Argument(register::RSI)
}

/// What the register of a function's hidden result held at its entry.
pub fn hidden_result() -> Value {
    Value::symbolic(Base::Argument(register::RDI))
}
