//! `tt-memtrace check`.

use std::{fmt::Write as _, fs, process::ExitCode};

use anyhow::anyhow;
use serde::Serialize;

use super::{
    args::Check,
    failure::{Failure, Kind},
    host::HostCheck,
};
use crate::{
    abi::{self, Abi, Cost, Point},
    target,
};

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    host: HostCheck,
    /// `null` if none was named.
    library: Option<LibraryCheck>,
}

#[derive(Debug, Serialize)]
struct LibraryCheck {
    path: String,
    build_id: Option<String>,
    release: Option<String>,
    probe_points: Vec<PointCheck>,
    fields: Vec<FieldCheck>,
    /// What is known of programs, for what they take of L1; `null` if the library has none.
    programs: Option<ProgramsCheck>,
    /// Why it can't be traced; `null` if it can.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProgramsCheck {
    probe_points: Vec<PointCheck>,
    fields: Vec<ProgramFieldCheck>,
    /// Why what they take, or a part of what they are made of, can't be told.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ProgramFieldCheck {
    name: &'static str,
    place: String,
    witnesses: Vec<String>,
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
    witnesses: Vec<String>,
}

/// Looks at the host and at a library, and prints what was found.
///
/// # Errors
/// When tracing can't work, after the report was printed; or when there is no such process or file.
pub fn check(options: &Check) -> Result<ExitCode, Failure> {
    let host = HostCheck::run();
    let (library, library_failure) = match library(options)? {
        None => (None, None),
        Some((library, failure)) => (Some(library), failure),
    };
    let failure = host.require().err().or(library_failure);
    let report = Report {
        ok: failure.is_none(),
        host,
        library,
    };
    if options.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new(Kind::Output, error))?;
        println!("{text}");
    } else {
        print!("{}", text(&report));
    }
    Ok(failure.map_or(ExitCode::SUCCESS, |failure| failure.code()))
}

fn library(options: &Check) -> Result<Option<(LibraryCheck, Option<Failure>)>, Failure> {
    let (path, release, data) = match (options.pid, &options.library) {
        (Some(pid), _) => {
            let file = target::libraries(pid)?.into_iter().next().ok_or_else(|| {
                Failure::new(
                    Kind::NoLibrary,
                    anyhow!(
                        "process {pid} has no file called {}* mapped",
                        target::LIBRARY
                    ),
                )
            })?;
            (
                file.path.display().to_string(),
                file.release(),
                file.read()?,
            )
        }
        (None, Some(path)) => {
            let data = fs::read(path).map_err(|error| {
                Failure::new(
                    Kind::Target,
                    anyhow!(error).context(format!("can't read {}", path.display())),
                )
            })?;
            let absolute = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            (
                path.display().to_string(),
                target::wheel_release(&absolute),
                data,
            )
        }
        (None, None) => return Ok(None),
    };
    if let Some(to) = &options.excerpt {
        let text = abi::excerpt(&data)?;
        fs::write(to, text).map_err(|error| {
            Failure::new(
                Kind::Output,
                anyhow!(error).context(format!("can't write {}", to.display())),
            )
        })?;
    }
    let mut check = LibraryCheck {
        path,
        build_id: None,
        release,
        probe_points: Vec::new(),
        fields: Vec::new(),
        programs: None,
        problem: None,
    };
    let failure = match Abi::derive(&data) {
        Err(error) => {
            check.problem = Some(error.to_string());
            Some(error.into())
        }
        Ok(abi) => {
            check.describe(&abi);
            None
        }
    };
    Ok(Some((check, failure)))
}

impl PointCheck {
    fn of(point: &Point) -> Self {
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
    fn describe(&mut self, abi: &Abi) {
        self.build_id.clone_from(&abi.build_id);
        self.probe_points = abi.points.iter().map(PointCheck::of).collect();
        self.programs = match &abi.programs {
            Ok(programs) => programs.as_ref().map(|programs| ProgramsCheck {
                probe_points: programs.points.iter().map(PointCheck::of).collect(),
                fields: programs
                    .all()
                    .into_iter()
                    .map(|(name, place, witnesses)| ProgramFieldCheck {
                        name,
                        place,
                        witnesses,
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
                witnesses: field
                    .witnesses
                    .iter()
                    .map(|witness| witness.source.clone())
                    .collect(),
            })
            .collect();
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mark = |good: bool| if good { "ok " } else { "NO " };
    let HostCheck {
        kernel,
        arch,
        kernel_new_enough,
        uprobes,
        kernel_types,
        missing_capabilities,
        problems: _,
    } = &report.host;
    let mut line = |good: bool, what: &str| {
        let _ = writeln!(text, "{}{what}", mark(good));
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
            let _ = writeln!(text, "\nprobe points");
            let of_programs = library.programs.iter().flat_map(|of| &of.probe_points);
            for point in library.probe_points.iter().chain(of_programs) {
                let place = if point.into == 0 {
                    point.function.clone()
                } else {
                    format!("{}+{:#x}", point.function, point.into)
                };
                let _ = writeln!(
                    text,
                    "   {:<11} {place:<40} {:<14} {}",
                    point.kind, point.instruction, point.cost
                );
            }
            let _ = writeln!(text, "\nfields");
            for field in &library.fields {
                let _ = writeln!(
                    text,
                    "   {:<12} {:<28} {} bytes",
                    field.name, field.path, field.width
                );
                for witness in &field.witnesses {
                    let _ = writeln!(text, "                {witness}");
                }
            }
            if let Some(programs) = &library.programs {
                let _ = writeln!(text, "\nprograms, for what they take of L1");
                for field in &programs.fields {
                    let _ = writeln!(text, "   {:<17} {}", field.name, field.place);
                    for witness in &field.witnesses {
                        let _ = writeln!(text, "                     {witness}");
                    }
                }
                for problem in &programs.problems {
                    let _ = writeln!(text, "   not told: {problem}");
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
        let _ = writeln!(text, "{what}");
    }
    for problem in problems {
        let _ = writeln!(text, "{problem}");
    }
    text
}
