//! What `tt-memtrace check` reports of a host and of a library: as JSON and as text. Pure.

use serde::Serialize;

use crate::{
    abi::{Abi, Cost, Point},
    probe::Requirements,
};

/// What `tt-memtrace check` found: `--json` writes it as it is.
#[derive(Debug, Serialize)]
pub(crate) struct CheckReport {
    pub ok: bool,
    pub host: Requirements,
    /// `null` if none was named.
    pub library: Option<LibraryCheck>,
}

/// What was derived from one library.
#[derive(Debug, Serialize)]
pub(crate) struct LibraryCheck {
    path: String,
    build_id: Option<String>,
    release: Option<String>,
    probe_points: Vec<PointCheck>,
    fields: Vec<FieldCheck>,
    /// What is known of programs, for what they take of L1; `null` if the library has none.
    programs: Option<ProgramsCheck>,
    /// Why it can't be traced; `null` if it can.
    pub problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProgramsCheck {
    probe_points: Vec<PointCheck>,
    fields: Vec<ProgramFieldCheck>,
    /// Why the L1 that they take, or some of their parts, can't be traced.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ProgramFieldCheck {
    name: &'static str,
    place: String,
    #[serde(rename = "witnesses")]
    evidence: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PointCheck {
    kind: String,
    function: String,
    /// The probed instruction's virtual address in the library.
    address: String,
    /// How far into the function it is, in bytes.
    into: u64,
    instruction: String,
    cost: Cost,
}

#[derive(Debug, Serialize)]
struct FieldCheck {
    name: String,
    path: String,
    /// In bytes.
    width: u8,
    #[serde(rename = "witnesses")]
    evidence: Vec<String>,
}

impl PointCheck {
    fn new(point: &Point) -> Self {
        Self {
            kind: point.kind.to_string(),
            function: point.function.clone(),
            address: format!("{:#x}", point.address),
            into: point.into,
            instruction: point.instruction.clone(),
            cost: point.cost,
        }
    }
}

impl LibraryCheck {
    /// Of a library that wasn't looked at yet. `release`: of its ttnn wheel, where it is part of one.
    pub(crate) fn new(path: String, release: Option<String>) -> Self {
        Self {
            path,
            build_id: None,
            release,
            probe_points: Vec::new(),
            fields: Vec::new(),
            programs: None,
            problem: None,
        }
    }

    /// Notes what was derived.
    pub(crate) fn describe(&mut self, abi: &Abi) {
        self.build_id.clone_from(&abi.build_id);
        self.probe_points = abi.points.iter().map(PointCheck::new).collect();
        self.programs = match &abi.programs {
            Ok(programs) => programs.as_ref().map(|programs| ProgramsCheck {
                probe_points: programs.points.iter().map(PointCheck::new).collect(),
                fields: programs
                    .all()
                    .into_iter()
                    .map(|(name, place, evidence)| ProgramFieldCheck {
                        name,
                        place,
                        evidence,
                    })
                    .collect(),
                problems: programs.problems.clone(),
            }),
            Err(problem) => Some(ProgramsCheck {
                probe_points: Vec::new(),
                fields: Vec::new(),
                problems: vec![problem.clone()],
            }),
        };
        self.fields = abi
            .fields
            .all()
            .into_iter()
            .map(|(name, root, field)| FieldCheck {
                name: name.into(),
                path: field.path.text(root),
                width: field.path.width,
                evidence: field
                    .evidence
                    .iter()
                    .map(|evidence| evidence.source.clone())
                    .collect(),
            })
            .collect();
    }
}

/// A line for each probe point, in columns as wide as what stands in them.
fn probe_points(library: &LibraryCheck) -> String {
    let of_programs = library.programs.iter().flat_map(|of| &of.probe_points);
    let points = library.probe_points.iter().chain(of_programs);
    let rows: Vec<[String; 4]> = points
        .map(|point| {
            let place = match point.into {
                0 => point.function.clone(),
                into => format!("{}+{into:#x}", point.function),
            };
            let cost = point.cost.to_string();
            [point.kind.clone(), place, point.instruction.clone(), cost]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (kinds, places, instructions) = (width(0), width(1), width(2));
    rows.iter()
        .map(|[kind, place, instruction, cost]| {
            format!("   {kind:<kinds$}  {place:<places$}  {instruction:<instructions$}  {cost}\n")
        })
        .collect()
}

/// The report for a person.
pub(crate) fn text(report: &CheckReport) -> String {
    let mut text = String::new();
    let mark = |good: bool| if good { "ok " } else { "NO " };
    let Requirements {
        kernel,
        arch,
        kernel_new_enough,
        uprobes,
        kernel_types,
        missing_capabilities,
        problems: _,
    } = &report.host;
    let mut line = |good: bool, what: &str| {
        text += &format!("{}{what}\n", mark(good));
    };
    line(
        *kernel_new_enough,
        &format!("kernel       Linux {kernel}, {arch}"),
    );
    line(*uprobes, "uprobes      as perf events");
    line(*kernel_types, "kernel types described (BTF)");
    let privileges = if missing_capabilities.is_empty() {
        "enough".to_owned()
    } else {
        format!("missing {}", missing_capabilities.join(", "))
    };
    line(
        missing_capabilities.is_empty(),
        &format!("privileges   {privileges}"),
    );
    if let Some(library) = &report.library {
        let release = library
            .release
            .as_deref()
            .map(|release| format!(" (ttnn {release})"))
            .unwrap_or_default();
        line(
            library.problem.is_none(),
            &format!("library      {}{release}", library.path),
        );
        if library.problem.is_none() {
            line(
                true,
                &format!(
                    "build id     {}",
                    library.build_id.as_deref().unwrap_or("none")
                ),
            );
            text += "\nprobe points\n";
            text += &probe_points(library);
            text += "\nfields\n";
            for field in &library.fields {
                let bytes = if field.width == 1 { "byte" } else { "bytes" };
                text += &format!(
                    "   {:<12} {:<28} {} {bytes}\n",
                    field.name, field.path, field.width
                );
                for evidence in &field.evidence {
                    text += &format!("                {evidence}\n");
                }
            }
            if let Some(programs) = &library.programs {
                text += "\nprograms, for what they take of L1\n";
                for field in &programs.fields {
                    text += &format!("   {:<17} {}\n", field.name, field.place);
                    for evidence in &field.evidence {
                        text += &format!("                     {evidence}\n");
                    }
                }
                for problem in &programs.problems {
                    text += &format!("   not traced: {problem}\n");
                }
            }
        }
    }
    let problems = report.host.problems.iter().chain(
        report
            .library
            .iter()
            .filter_map(|library| library.problem.as_ref()),
    );
    let mut problems = problems.peekable();
    text.push('\n');
    if problems.peek().is_none() {
        let what = if report.library.is_some() {
            "this library can be traced here"
        } else {
            "tracing can work here; --pid or --library looks at a library too"
        };
        text += &format!("{what}\n");
    }
    for problem in problems {
        text += &format!("{problem}\n");
    }
    text
}
