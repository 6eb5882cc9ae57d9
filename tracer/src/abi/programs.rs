//! Programs: where a `ProgramImpl` keeps what lies in L1 beyond buffers, by the word of its own
//! functions.
//!
//! A program's circular buffers, dataflow buffers and scratchpads are laid out by one
//! `CircularBufferAllocator` for each range of cores, and what these give is the L1 that the program
//! needs on each of the cores. The single buffers stand in lists beside them.
//! (`tt_metal/impl/program/program_impl.hpp`, 0.62 to 0.81.1.)

use super::{
    AbiError,
    derive::Deriver,
    field::{Field, FieldPath, Witness},
    image::Image,
    interpreter::Action,
    listing, names,
    points::{self, PROGRAM, Point},
    value::{Base, Place, Value},
    walks::{FirstTurn, Vector, all_equal, loaded},
};

pub(super) const CORE_RANGES: &str = "CoreRangeSet";

/// A `std::vector` in a `ProgramImpl`, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub vector: Vector,
    pub witnesses: Vec<Witness>,
}

/// The allocators of one kind of memory: each has a core range and the L1 regions in use on each of its
/// cores. Offsets are those in an element of `list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    pub list: List,
    /// Of the `CoreRange`.
    pub range: i64,
    /// Of the vector of regions: pairs of 64-bit addresses, of the first byte and of the one behind the
    /// last.
    pub regions: i64,
}

/// The circular buffers: `list` has `shared_ptr`s to them. Paths start at a `CircularBufferImpl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircularBuffers {
    pub list: List,
    /// Of the `CoreRangeSet`.
    pub ranges: i64,
    /// Bytes on each core.
    pub size: FieldPath,
    /// The address in L1 that the program's allocators gave it, if `has_local`.
    pub local: FieldPath,
    pub has_local: FieldPath,
    /// Whether it lies in a buffer (or a global circular buffer), at `global`.
    pub is_global: FieldPath,
    pub global: FieldPath,
}

/// The dataflow buffers: `list` has `shared_ptr`s to them. Paths start at a `DataflowBufferImpl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataflowBuffers {
    pub list: List,
    /// Of the `CoreRangeSet`.
    pub ranges: i64,
    /// Bytes on each core are the product of the two.
    pub entry_size: FieldPath,
    pub entries: FieldPath,
    /// Whether it lies where another one of the program does; `None` in releases in which none does.
    pub is_alias: Option<FieldPath>,
    /// Whether it lies in a buffer; likewise.
    pub is_borrowed: Option<FieldPath>,
    /// Its address on its first core; all have the same.
    pub address: FieldPath,
}

/// The semaphores: `list` has the `Semaphore`s. Offsets are those in an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semaphores {
    pub list: List,
    /// Of the `CoreRangeSet`.
    pub ranges: i64,
    pub id: FieldPath,
    pub initial_value: FieldPath,
}

/// What is known of a library's programs. Paths start at a `ProgramImpl`.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `get_id()`: the number in TT-Metal's messages.
    pub id: Field,
    /// `get_runtime_id()`: the number of the operation that was dispatched last.
    pub runtime_id: Field,
    pub circular_regions: Regions,
    /// Dataflow buffers and scratchpads; `None` in releases that have none.
    pub dataflow_regions: Option<Regions>,
    /// The single buffers; `None` if they can't be told apart: what they take is known all the same.
    pub buffers: Option<Buffers>,
    /// `None` if they can't be told.
    pub semaphores: Option<Semaphores>,
    /// Why something is `None` that the release should have.
    pub problems: Vec<String>,
    /// In the order in which probes should be put on.
    pub points: Vec<Point>,
}

/// A program's buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffers {
    pub circular: CircularBuffers,
    /// `None` in releases that have none.
    pub dataflow: Option<DataflowBuffers>,
}

impl Programs {
    /// What was found, for a person: a name, where it is, and who says so.
    pub fn all(&self) -> Vec<(&'static str, String, Vec<String>)> {
        let sources = |witnesses: &[Witness]| {
            let sources = witnesses.iter().map(|witness| witness.source.clone());
            sources.collect::<Vec<_>>()
        };
        let field = |name, field: &Field| {
            let text = field.path.text("program");
            (name, text, sources(&field.witnesses))
        };
        let list = |name, list: &List| {
            let Vector { offset, stride } = list.vector;
            let text = format!("[program+{offset:#x}], each {stride:#x} bytes");
            (name, text, sources(&list.witnesses))
        };
        let mut all = vec![
            field("id", &self.id),
            field("runtime_id", &self.runtime_id),
            list("circular_regions", &self.circular_regions.list),
        ];
        let regions = self.dataflow_regions.iter();
        all.extend(regions.map(|of| list("dataflow_regions", &of.list)));
        if let Some(Buffers { circular, dataflow }) = &self.buffers {
            all.push(list("circular_buffers", &circular.list));
            all.extend(dataflow.iter().map(|of| list("dataflow_buffers", &of.list)));
        }
        let semaphores = self.semaphores.iter();
        all.extend(semaphores.map(|of| list("semaphores", &of.list)));
        all
    }
}

/// Derives what is known of a library's programs, if it has any.
///
/// # Errors
/// When a function is missing, doesn't tell, or contradicts another.
pub fn of(deriver: &Deriver<'_>) -> Result<Option<Programs>, AbiError> {
    let image = deriver.image;
    if names::destructor(image, PROGRAM).is_none() {
        return Ok(None);
    }
    let points = points::of_programs(deriver)?;
    Inquiry { image }.programs(points).map(Some)
}

/// Asks the functions of one library.
pub(super) struct Inquiry<'a> {
    pub image: &'a Image<'a>,
}

impl<'a> Inquiry<'a> {
    fn programs(&self, points: Vec<Point>) -> Result<Programs, AbiError> {
        self.core_ranges()?;
        let has_dataflow_buffers =
            !names::methods(self.image, PROGRAM, "allocate_dataflow_buffers").is_empty();
        let mut problems = Vec::new();
        let buffers = self.circular_buffers().and_then(|circular| {
            let dataflow = has_dataflow_buffers.then(|| self.dataflow_buffers());
            let dataflow = dataflow.transpose()?;
            Ok(Buffers { circular, dataflow })
        });
        let buffers = or_problem(buffers, &mut problems);
        let semaphores = or_problem(self.semaphores(), &mut problems);
        Ok(Programs {
            id: self.accessor("program id", "get_id")?,
            runtime_id: self.accessor("program runtime id", "get_runtime_id")?,
            circular_regions: self.regions(
                "circular buffers' regions",
                [
                    "invalidate_circular_buffer_allocation",
                    "validate_circular_buffer_region",
                ],
            )?,
            dataflow_regions: has_dataflow_buffers
                .then(|| {
                    self.regions(
                        "dataflow buffers' regions",
                        [
                            "invalidate_dataflow_buffer_allocation",
                            "validate_dataflow_buffer_region",
                        ],
                    )
                })
                .transpose()?,
            buffers,
            semaphores,
            problems,
            points,
        })
    }

    pub(super) fn turn(&self, class: &str, name: &str) -> Result<FirstTurn<'a>, AbiError> {
        FirstTurn::of(self.image, class, name).ok_or_else(|| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{class}::{name}()")],
        })
    }

    /// What an accessor returns, eight bytes of the program.
    fn accessor(&self, field: &'static str, name: &str) -> Result<Field, AbiError> {
        let turn = self.turn(PROGRAM, name)?;
        let returned = turn.returned().and_then(|value| {
            let path = value.place()?.path_from(&turn.this())?;
            (path.derefs.is_empty() && path.width == 8).then_some(path)
        });
        let path = returned.ok_or_else(|| self.doubt(field, "isn't just returned", [&turn]))?;
        let witnesses = vec![turn.witness("returns it", path.clone())];
        Ok(Field { path, witnesses })
    }

    pub(super) fn doubt<'t>(
        &self,
        field: &'static str,
        reason: &str,
        turns: impl IntoIterator<Item = &'t FirstTurn<'a>>,
    ) -> AbiError
    where
        'a: 't,
    {
        let code = turns.into_iter().map(|turn| listing::of(&turn.function));
        AbiError::Underivable {
            field,
            reason: reason.into(),
            code: code.collect::<Vec<_>>().join("\n"),
        }
    }

    /// That a `CoreRangeSet` is a vector of `CoreRange`s, each four 64-bit coordinates: of the first
    /// core x and y, of the last one x and y. `intersects()` compares each with its counterpart.
    fn core_ranges(&self) -> Result<(), AbiError> {
        const FIELD: &str = "core ranges";
        let function = names::methods(self.image, CORE_RANGES, "intersects")
            .into_iter()
            .find(|function| {
                names::parameters(function.symbol) == ["tt::tt_metal::CoreRange const&"]
            })
            .ok_or_else(|| AbiError::MissingSymbols {
                names: vec!["tt::tt_metal::CoreRangeSet::intersects(CoreRange const&)".into()],
            })?;
        let turn = FirstTurn::of_function(self.image, function);
        let whole = Vector {
            offset: 0,
            stride: 32,
        };
        let (range, other) = (turn.first_element(0), names::argument(1));
        let compares = |own: i64, theirs: i64| {
            let word = |base: &Base, offset| Value::symbolic(loaded(base, offset));
            let Value::Symbolic { base: other, .. } = &other else {
                return false;
            };
            let pair = (word(&range, own), word(other, theirs));
            turn.actions().any(|action| match action {
                Action::Compare { left, right } => {
                    (left, right) == (&pair.0, &pair.1) || (right, left) == (&pair.0, &pair.1)
                }
                _ => false,
            })
        };
        let ends_apart = compares(16, 0) && compares(0, 16) && compares(24, 8) && compares(8, 24);
        if turn.vectors() == [whole] && ends_apart {
            return Ok(());
        }
        Err(self.doubt(
            FIELD,
            "`intersects` doesn't compare them as it should",
            [&turn],
        ))
    }

    /// The vector of allocators that functions walk through, asking each whether it has regions.
    fn regions(&self, field: &'static str, walkers: [&str; 2]) -> Result<Regions, AbiError> {
        let turns = [
            self.turn(PROGRAM, walkers[0])?,
            self.turn(PROGRAM, walkers[1])?,
        ];
        let mut told: Vec<(Vector, i64)> = Vec::new();
        let mut witnesses = Vec::new();
        for turn in &turns {
            let found: Vec<(Vector, i64)> = turn
                .vectors()
                .into_iter()
                .filter_map(|vector| {
                    let element = turn.first_element(vector.offset);
                    match turn.asked_if_empty(&element)[..] {
                        [regions] => Some((vector, regions)),
                        _ => None,
                    }
                })
                .collect();
            let [(vector, regions)] = found[..] else {
                return Err(self.doubt(field, "which vector is walked isn't clear", [turn]));
            };
            told.push((vector, regions));
            witnesses.push(turn.witness("walks through it", path(vector.offset, 8)));
        }
        let (vector, regions) = all_equal(told).ok_or_else(|| AbiError::Contradiction {
            field,
            witnesses: witnesses.clone(),
            code: turns
                .each_ref()
                .map(|turn| listing::of(&turn.function))
                .join("\n"),
        })?;
        // The one that may throw says whose cores the trouble is on.
        let element = turns[1].first_element(vector.offset);
        let range = turns[1]
            .passed("CoreRange", "str", 1, &element)
            .ok_or_else(|| self.doubt(field, "no core range is named", [&turns[1]]))?;
        self.region(field, regions)?;
        Ok(Regions {
            list: List { vector, witnesses },
            range,
            regions,
        })
    }

    /// That a region is a pair of addresses, by how `mark_address` adds one to an allocator's.
    fn region(&self, field: &'static str, regions: i64) -> Result<(), AbiError> {
        let turn = self.turn(
            &format!("{PROGRAM}::CircularBufferAllocator"),
            "mark_address",
        )?;
        let end = loaded(&turn.this(), regions + 8);
        let farther = Value::Symbolic {
            base: end.clone(),
            offset: 16,
        };
        let (address, base) = (names::argument(1), names::argument(3));
        let stores = |to: &Base, offset: i64, wanted: &Value| {
            turn.actions().any(|action| {
                matches!(action, Action::Store { to: Some(of), offset: at, width: 8, value }
                    if of == to && *at == offset && value == wanted)
            })
        };
        // Where there is none yet, one of no length at the base is the first; then the end of the last is
        // compared with the new address.
        let last_end = Place {
            base: end.clone(),
            offset: 8,
            width: 8,
        };
        let compares_end = turn.actions().any(|action| {
            matches!(action, Action::Compare { left, right }
                if *left == address && right.place() == Some(&last_end)
                || *right == address && left.place() == Some(&last_end))
        });
        if stores(&end, 0, &base)
            && stores(&end, 8, &base)
            && stores(&turn.this(), regions + 8, &farther)
            && compares_end
        {
            return Ok(());
        }
        Err(self.doubt(
            field,
            "`mark_address` doesn't add a region as it should",
            [&turn],
        ))
    }

    /// A vector that an accessor returns: by reference, or as the pointer of a `span`.
    pub(super) fn list(
        &self,
        field: &'static str,
        accessor: &str,
        stride: i64,
    ) -> Result<List, AbiError> {
        let turn = self.turn(PROGRAM, accessor)?;
        let this = turn.this();
        let offset = turn.returned().and_then(|value| match value {
            Value::Symbolic { base, offset } if base == this => Some(offset),
            value => {
                let path = value.place()?.path_from(&this)?;
                path.derefs.is_empty().then_some(path.offset)
            }
        });
        let offset = offset.ok_or_else(|| self.doubt(field, "isn't just returned", [&turn]))?;
        Ok(List {
            vector: Vector { offset, stride },
            witnesses: vec![turn.witness("returns it", path(offset, 8))],
        })
    }
}

fn or_problem<T>(result: Result<T, AbiError>, problems: &mut Vec<String>) -> Option<T> {
    result
        .map_err(|error| problems.push(error.to_string()))
        .ok()
}

pub(super) fn path(offset: i64, width: u8) -> FieldPath {
    FieldPath {
        derefs: Vec::new(),
        offset,
        width,
    }
}
