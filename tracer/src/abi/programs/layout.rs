//! Where the lists of a program and the fields of their elements lie.

use crate::abi::{
    field::{Evidence, Field, FieldPath},
    point::Point,
    vector_loop::Vector,
};

/// A `std::vector` in a `ProgramImpl`, with the evidence for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List {
    pub vector: Vector,
    pub evidence: Vec<Evidence>,
}

/// A program's allocators for one kind of memory. Each has a core range and the L1 regions in use on each of
/// its cores. Offsets are in bytes from the start of an element of `list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regions {
    pub list: List,
    /// Offset of the `CoreRange`.
    pub range: i64,
    /// Offset of the vector of regions. A region is a pair of 64-bit addresses: of its first byte, and of
    /// the byte behind its last.
    pub regions: i64,
}

/// The circular buffers. `list` has `shared_ptr`s to them; paths start at a `CircularBufferImpl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CircularBuffers {
    pub list: List,
    /// Offset of the `CoreRangeSet`.
    pub ranges: i64,
    /// Bytes on each core.
    pub size: FieldPath,
    /// The address in L1 that the program's allocators assigned, if `has_local`.
    pub local: FieldPath,
    pub has_local: FieldPath,
    /// Whether it lies in a buffer or a global circular buffer, at the address in `global`.
    pub is_global: FieldPath,
    pub global: FieldPath,
}

/// The dataflow buffers. `list` has `shared_ptr`s to them; paths start at a `DataflowBufferImpl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataflowBuffers {
    pub list: List,
    /// Offset of the `CoreRangeSet`.
    pub ranges: i64,
    /// The bytes on each core are `entry_size` times `entries`.
    pub entry_size: FieldPath,
    pub entries: FieldPath,
    /// Whether it uses the memory of another dataflow buffer of the program; `None` in releases without such
    /// aliases.
    pub is_alias: Option<FieldPath>,
    /// Whether it lies in a buffer; `None` in releases in which none does.
    pub is_borrowed: Option<FieldPath>,
    /// Its address on its first core, which is the same on all its cores.
    pub address: FieldPath,
}

/// The semaphores. `list` has the `Semaphore` objects; `ranges` and paths start at one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Semaphores {
    pub list: List,
    /// Offset of the `CoreRangeSet`.
    pub ranges: i64,
    pub id: FieldPath,
    pub initial_value: FieldPath,
}

/// What is known about a library's programs. Paths start at a `ProgramImpl`.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `get_id()`: the program's number in TT-Metal's messages.
    pub id: Field,
    /// `get_runtime_id()`: the number of the operation that was dispatched last.
    pub runtime_id: Field,
    pub circular_regions: Regions,
    /// The regions of dataflow buffers and scratchpads; `None` in releases that have none.
    pub dataflow_regions: Option<Regions>,
    /// The single buffers; `None` if they can't be derived. The memory that they take is known from the
    /// regions anyway.
    pub buffers: Option<Buffers>,
    /// `None` if they can't be derived.
    pub semaphores: Option<Semaphores>,
    /// Why something that the release should have is `None`.
    pub problems: Vec<String>,
    /// In the order in which probes should be attached.
    pub points: Vec<Point>,
}

/// A program's buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Buffers {
    pub circular: CircularBuffers,
    /// `None` in releases that have none.
    pub dataflow: Option<DataflowBuffers>,
}

impl Programs {
    /// What was derived, as text: a name, the place, and the sources of the evidence.
    pub(crate) fn all(&self) -> Vec<(&'static str, String, Vec<String>)> {
        let sources = |evidence: &[Evidence]| {
            let sources = evidence.iter().map(|one| one.source.clone());
            sources.collect::<Vec<_>>()
        };
        let field = |name, field: &Field| {
            let text = field.path.text("program");
            (name, text, sources(&field.evidence))
        };
        let list = |name, list: &List| {
            let Vector { offset, stride } = list.vector;
            let text = format!("[program+{offset:#x}], each {stride:#x} bytes");
            (name, text, sources(&list.evidence))
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
