//! What one function shows about where fields lie.

use std::rc::Rc;

use tracer_common::register;

use super::{
    field::{Evidence, FieldPath},
    image::Function,
    interpreter::{Action, Analysis, Base, Callee, MemoryLocation, Value},
    names,
};

/// A member function that was interpreted.
#[derive(Clone)]
pub(super) struct Method<'a> {
    pub function: Function<'a>,
    pub analysis: Rc<Analysis>,
    /// The argument that points to the object.
    pub this: Base,
    /// The path from the `Buffer` to that object.
    pub prefix: Vec<i64>,
}

impl Method<'_> {
    fn path(&self, location: &MemoryLocation) -> Option<FieldPath> {
        Some(location.path_from(&self.this)?.within(&self.prefix))
    }

    /// Evidence for a field that lies at `paths`, if all of these are the same.
    fn evidence(&self, what: &str, paths: impl IntoIterator<Item = FieldPath>) -> Option<Evidence> {
        let mut paths = paths.into_iter();
        let path = paths.next()?;
        if paths.any(|other| other != path) {
            return None;
        }
        Some(Evidence {
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

    /// The field that an accessor returns on every path.
    pub(super) fn returned(&self) -> Option<Evidence> {
        let values = self.actions().filter_map(|action| match action {
            Action::Return(value) => Some(value.loaded_from().and_then(|from| self.path(from))),
            _ => None,
        });
        self.evidence("returns it", values.collect::<Option<Vec<_>>>()?)
    }

    /// The only field of the object itself with a width of `width` bytes that the function reads.
    pub(super) fn only_read(&self, width: u8) -> Option<Evidence> {
        let reads = self.actions().filter_map(|action| match action {
            Action::Load(from) if from.width == width => self.path(from),
            _ => None,
        });
        // A pointer on the way to the object isn't a field of the object.
        let depth = |path: &FieldPath| path.derefs.len();
        let reads: Vec<_> = reads.collect();
        let deepest = reads.iter().map(depth).max()?;
        self.evidence(
            "reads only it",
            reads.into_iter().filter(|path| depth(path) == deepest),
        )
    }

    /// The field of the object that the function sets to `value`. `what` describes that for the evidence;
    /// fields in `except` don't count.
    pub(super) fn stored(
        &self,
        what: &str,
        width: Option<u8>,
        value: &Value,
        except: &[&FieldPath],
    ) -> Option<Evidence> {
        let stores = self.actions().filter_map(|action| match action {
            Action::Store {
                to: Some(base),
                offset,
                width: stored,
                value: v,
            } if v == value && width.is_none_or(|wanted| wanted == *stored) => {
                self.path(&MemoryLocation {
                    base: base.clone(),
                    offset: *offset,
                    width: *stored,
                })
            }
            _ => None,
        });
        self.evidence(
            what,
            stores.filter(|path| !except.iter().any(|other| other.same_place(path))),
        )
    }

    /// The one-byte field that the function compares first, and the constant that it compares it with.
    pub(super) fn first_compared(&self) -> Option<(Evidence, i64)> {
        self.compared_bytes(&[]).into_iter().next()
    }

    /// The one-byte fields that the function compares with constants, and the constants. Fields in
    /// `except` don't count.
    pub(super) fn compared_bytes(&self, except: &[&FieldPath]) -> Vec<(Evidence, i64)> {
        self.actions()
            .filter_map(|action| {
                let Action::Compare {
                    left,
                    right: Value::Constant(constant),
                } = action
                else {
                    return None;
                };
                let location = left.loaded_from().filter(|from| from.width == 1)?;
                let path = self
                    .path(location)
                    .filter(|path| !except.iter().any(|other| other.same_place(path)))?;
                Some((self.evidence("compares it", [path])?, *constant))
            })
            .collect()
    }

    /// The four-byte enum that the function checks for being at least 2: it subtracts 2 and compares the
    /// result, or compares the enum with 1 or 2.
    pub(super) fn range_checked(&self) -> Option<Evidence> {
        let checked = self.actions().filter_map(|action| {
            let Action::Compare {
                left:
                    Value::Symbolic {
                        base: Base::Loaded(from),
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
            (asks && from.width == 4).then(|| self.path(from)).flatten()
        });
        self.evidence("checks its range", checked)
    }

    /// The field that points to the object whose virtual function is called first.
    pub(super) fn first_virtual_object(&self) -> Option<Evidence> {
        let object = self.actions().find_map(|action| match action {
            Action::Call {
                callee: Callee::Virtual { object, .. },
                ..
            } => Some(object.loaded_from()?.clone()),
            _ => None,
        })?;
        self.evidence("calls its virtual function", self.path(&object))
    }

    /// The field that is passed as the first argument to a member function of one of `classes`.
    pub(super) fn passed_as_this(&self, classes: &[&str], method: &str) -> Option<Evidence> {
        let passed = self.actions().filter_map(|action| match action {
            Action::Call {
                callee: Callee::Named(name),
                arguments,
            } if names::is_method(name, classes, method) => {
                Some(arguments[0].loaded_from().and_then(|from| self.path(from)))
            }
            _ => None,
        });
        self.evidence(
            &format!("calls {method} on it"),
            passed.collect::<Option<Vec<_>>>()?,
        )
    }

    /// The results of the calls to a member function of one of `classes`.
    pub(super) fn results_of(&self, classes: &[&str], method: &str) -> Vec<Value> {
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

    /// The field that gets the value which an atomic addition read from the library's counter
    /// `variable`.
    pub(super) fn counted(&self, variable: &str) -> Option<Evidence> {
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

    /// The address of the instruction that stores `value` as eight bytes at `offset` from any pointer.
    pub(super) fn store_at(&self, offset: i64, value: &Value) -> Option<u64> {
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
    pub(super) fn with_hidden_result(self) -> Self {
        Self {
            this: this_after_result(),
            ..self
        }
    }

    /// The field in which a `create` that returns a `shared_ptr<Buffer>` through a hidden pointer stores
    /// its address argument.
    pub(super) fn through_result(&self) -> Option<Evidence> {
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
                    let path = MemoryLocation {
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
                    Some(Evidence {
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
pub(super) fn this() -> Base {
    Base::Argument(register::RDI)
}

/// `this` of a member function whose result is returned through a hidden pointer.
pub(super) fn this_after_result() -> Base {
    Base::Argument(register::RSI)
}

/// The hidden pointer through which a function returns its result.
pub(super) fn hidden_result() -> Value {
    Value::symbolic(Base::Argument(register::RDI))
}
