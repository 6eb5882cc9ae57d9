//! Derives what is known about a library's programs.

use super::{
    deriver::ProgramDeriver,
    layout::{Buffers, Programs},
};
use crate::abi::{
    AbiError,
    deriver::Deriver,
    names::{self, PROGRAM},
    point::Point,
    points,
};

/// Derives what is known about a library's programs; `None` if it has none.
///
/// # Errors
/// When a function is missing, doesn't show what it should, or contradicts another.
pub(crate) fn derive(deriver: &Deriver<'_>) -> Result<Option<Programs>, AbiError> {
    let image = deriver.image;
    if names::destructor(image, PROGRAM).is_none() {
        return Ok(None);
    }
    let points = points::program_points(deriver)?;
    programs(&ProgramDeriver { image }, points).map(Some)
}

fn programs(deriver: &ProgramDeriver<'_>, points: Vec<Point>) -> Result<Programs, AbiError> {
    deriver.require_core_ranges()?;
    let has_dataflow_buffers =
        !names::methods(deriver.image, PROGRAM, "allocate_dataflow_buffers").is_empty();
    let mut problems = Vec::new();
    let buffers = deriver.circular_buffers().and_then(|circular| {
        let dataflow = has_dataflow_buffers.then(|| deriver.dataflow_buffers());
        let dataflow = dataflow.transpose()?;
        Ok(Buffers { circular, dataflow })
    });
    let buffers = or_problem(buffers, &mut problems);
    let semaphores = or_problem(deriver.semaphores(), &mut problems);
    Ok(Programs {
        id: deriver.accessor("program id", "get_id")?,
        runtime_id: deriver.accessor("program runtime id", "get_runtime_id")?,
        circular_regions: deriver.regions(
            "circular buffers' regions",
            [
                "invalidate_circular_buffer_allocation",
                "validate_circular_buffer_region",
            ],
        )?,
        dataflow_regions: has_dataflow_buffers
            .then(|| {
                deriver.regions(
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

/// The value; on an error `None`, and the error becomes one of the `problems`.
fn or_problem<T>(result: Result<T, AbiError>, problems: &mut Vec<String>) -> Option<T> {
    result
        .map_err(|error| problems.push(error.to_string()))
        .ok()
}
