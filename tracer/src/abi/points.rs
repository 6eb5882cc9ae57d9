//! The probe points of a library.

use iced_x86::Instruction;
use tracer_common::register;

use super::{
    AbiError,
    deriver::Deriver,
    fields::Fields,
    free_list,
    interpreter::Value,
    listing,
    method::{Method, hidden_result},
    names::{self, ALLOCATORS, PROGRAM},
    point::{Point, PointKind},
    probe_placement::{at_entry, place, require_call},
};

/// Finds the probe points for buffers.
///
/// # Errors
/// When a function is missing, or when the object isn't at hand in it.
pub(super) fn buffer_points(
    deriver: &Deriver<'_>,
    fields: &Fields,
) -> Result<Vec<Point>, AbiError> {
    require_calls(deriver)?;
    let missing = |name: &str| AbiError::MissingSymbols {
        names: vec![format!("tt::tt_metal::{name}")],
    };
    let entry = |kind, method: Option<Method<'_>>, name, register| {
        let method = method.ok_or_else(|| missing(name))?;
        at_entry(deriver, kind, &method, register)
    };
    // A library without this point can still be traced.
    let block = free_list::block_point(deriver);
    PointKind::ATTACH_ORDER
        .into_iter()
        .filter(|kind| *kind != PointKind::Block || block.is_some())
        .map(|kind| match kind {
            PointKind::Block => block
                .clone()
                .ok_or_else(|| missing("allocator::FreeListOpt::allocate_in_block")),
            PointKind::Allocate => {
                let function = deriver.method("GraphTracker", "track_allocate");
                entry(
                    kind,
                    function,
                    "GraphTracker::track_allocate(Buffer const*)",
                    register::RSI,
                )
            }
            PointKind::Deallocate => {
                let function = deriver.allocator_method("deallocate_buffer");
                entry(
                    kind,
                    function,
                    "AllocatorImpl::deallocate_buffer(Buffer*)",
                    register::RSI,
                )
            }
            PointKind::Destroy => entry(
                kind,
                deriver.destructor(),
                "Buffer::~Buffer()",
                register::RDI,
            ),
            PointKind::BulkFree => {
                let function = deriver.allocator_method("deallocate_buffers");
                entry(
                    kind,
                    function,
                    "AllocatorImpl::deallocate_buffers()",
                    register::RDI,
                )
            }
            PointKind::Create => create_point(deriver, fields),
            // Not in `ATTACH_ORDER`.
            PointKind::LaidOut | PointKind::Dispatched | PointKind::ProgramEnd => {
                Err(missing(&kind.to_string()))
            }
        })
        .collect()
}

/// Finds the probe points for programs.
///
/// # Errors
/// Like [`buffer_points`].
pub(super) fn program_points(deriver: &Deriver<'_>) -> Result<Vec<Point>, AbiError> {
    // The last function that is called when a program is laid out. It checks whether the program fits.
    let validates = [
        "validate_dataflow_buffer_region",
        "validate_circular_buffer_region",
    ];
    let laid_out = validates
        .iter()
        .find_map(|name| Some((deriver.method(PROGRAM, name)?, *name)))
        .ok_or_else(|| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{PROGRAM}::{}", validates[1])],
        })?;
    // Since 0.76 one function does the whole layout.
    if let Some(caller) = deriver.method(PROGRAM, "compile_and_allocate") {
        require_call(&caller, laid_out.1, &|symbol| {
            names::is_method(symbol, &[PROGRAM], laid_out.1)
        })?;
    }
    let (namespace, update) = ("program_dispatch", "update_program_dispatch_commands");
    let dispatched = deriver.required(namespace, update)?;
    let end = names::destructor(deriver.image, PROGRAM)
        .map(|function| deriver.interpret(function, Vec::new()))
        .ok_or_else(|| AbiError::MissingSymbols {
            names: vec![format!("tt::tt_metal::{PROGRAM}::~ProgramImpl()")],
        })?;
    PointKind::PROGRAM_ATTACH_ORDER
        .into_iter()
        .map(|kind| match kind {
            PointKind::LaidOut => {
                let point = at_entry(deriver, kind, &laid_out.0, register::RDI)?;
                let state = laid_out.0.analysis.before(point.address);
                let device = state
                    .and_then(|state| state.register_with(&Value::argument(register::RSI)))
                    .ok_or_else(|| AbiError::NoProbePoint {
                        function: point.function.clone(),
                        reason: "the device isn't at hand".into(),
                        code: listing::function(&laid_out.0.function),
                    })?;
                Ok(Point {
                    device: Some(device),
                    ..point
                })
            }
            PointKind::Dispatched => at_entry(deriver, kind, &dispatched, register::RDI),
            _ => at_entry(deriver, kind, &end, register::RDI),
        })
        .collect()
}

/// Checks that the probed functions are really called. Link-time optimisation may have inlined them into
/// their callers, and then a probe on them would never be hit.
///
/// # Errors
/// When a function that must call a probed one doesn't.
fn require_calls(deriver: &Deriver<'_>) -> Result<(), AbiError> {
    if let Some(allocate) = deriver.buffer_method("allocate_impl") {
        require_call(&allocate, "GraphTracker::track_allocate", &|symbol| {
            names::is_method(symbol, &["GraphTracker"], "track_allocate")
        })?;
    }
    if let Some(deallocate) = deriver.buffer_method("deallocate_impl") {
        require_call(&deallocate, "AllocatorImpl::deallocate_buffer", &|symbol| {
            names::is_method(symbol, &ALLOCATORS, "deallocate_buffer")
        })?;
    }
    for dispose in deriver.disposers() {
        require_call(&dispose, "Buffer::~Buffer", &|symbol| {
            names::is_destructor(symbol, "Buffer")
        })?;
    }
    Ok(())
}

/// The point inside the `create` that makes non-owning buffers, behind the instruction that stores the
/// buffer's address. There the buffer is complete, and the `shared_ptr` that is about to be returned
/// points to it.
fn create_point(deriver: &Deriver<'_>, fields: &Fields) -> Result<Point, AbiError> {
    let create = deriver.create()?;
    let stored = create.store_at(fields.address.path.offset, &names::argument(2));
    let after = stored
        .and_then(|at| create.analysis.instructions_from(at).nth(1))
        .map(Instruction::ip);
    let Some(after) = after else {
        return Err(AbiError::NoProbePoint {
            function: names::short(create.function.symbol),
            reason: "the instruction that gives a buffer its address wasn't found".into(),
            code: listing::function(&create.function),
        });
    };
    place(
        deriver,
        PointKind::Create,
        &create,
        after,
        &hidden_result(),
        vec![0],
    )
}
