//! Writes docs/releases.md.

use super::record::{Check, Field, Layout, Point, Record, Run, groups};

/// The whole document, newest release first.
pub(super) fn document(records: &[Record], without_library: &[&str], held_out: &[&str]) -> String {
    let layouts = groups(records, |layout| layout.fields.clone());
    let mut text = String::from(
        "# Releases of ttnn\n\n\
         Every `ttnn` on PyPI that ships `libtt_metal.so`, as `cargo xtask releases` found it. The \
         tracer has no table of releases: fields and probe points are derived from each library's \
         own code ([how](deriving.md)), and refused on doubt.\n\n",
    );
    text.push_str(&format!(
        "{} were kept out of development: their code was not looked at until the derivation was \
         finished.{}\n\n",
        list(held_out),
        if without_library.is_empty() {
            String::new()
        } else {
            format!(" Without a `libtt_metal.so`: {}.", list(without_library))
        }
    ));
    text.push_str(
        "Whole programs are the tests `ttnn_run`, `ttnn_attach`, `ttnn_attach_snapshot` and `ttnn_mesh`: \
         `tt-memtrace` must list the same live buffers as TT-Metal. Each release runs on the first of these \
         devices that it supports: a mock device; a mock device with slow dispatch; a stand-in for the \
         simulator, a library or a process, with slow dispatch and one chip, so without the tests on meshes.\n\n\
         | ttnn | build id | fields lie | found as | evidence | probes | whole programs |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for record in records {
        row(&mut text, record, &layouts, held_out);
    }
    text.push_str(
        "\nEvidence: how many pieces of evidence all fields have together, and how many the field with the fewest \
         has. Probes: how many of the probed instructions the kernel emulates.\n\n## First instructions\n\n\
         The probed instruction of each point. `create` is probed inside.\n\n",
    );
    points(&mut text, records);
    text.push_str("\n## How each field was found\n");
    for (name, (versions, layout)) in names().zip(&layouts) {
        text.push_str(&format!(
            "\n### {name}: {}\n\n| field | where | evidence |\n|---|---|---|\n",
            versions.join(", ")
        ));
        for Field {
            name,
            path,
            evidence,
        } in &layout.fields
        {
            let evidence: Vec<String> = evidence.iter().map(|it| format!("`{it}`")).collect();
            text.push_str(&format!(
                "| {name} | `{path}` | {} |\n",
                evidence.join(", ")
            ));
        }
    }
    text
}

fn row(text: &mut String, record: &Record, layouts: &[(Vec<&str>, &Layout)], held_out: &[&str]) {
    let version = &record.version;
    let kept_out = if held_out.contains(&version.as_str()) {
        " (kept out)"
    } else {
        ""
    };
    let run = run(record.run.as_ref());
    match &record.check {
        Check::Refused(problem) => {
            text.push_str(&format!(
                "| {version}{kept_out} | | refused: {} | | | | {run} |\n",
                cell(problem)
            ));
        }
        Check::Traceable(layout) => {
            let found_as = names()
                .zip(layouts)
                .find(|(_, (versions, _))| versions.contains(&version.as_str()))
                .map(|(name, _)| name)
                .unwrap_or_default();
            let counts = || layout.fields.iter().map(|field| field.evidence.len());
            let emulated = layout.points.iter().filter(|p| is_emulated(p)).count();
            text.push_str(&format!("| {version}{kept_out} | `{}` | {} | {found_as} | {}, {} | {emulated} of {} | {run} |\n",
                layout.build_id.get(..12).unwrap_or(&layout.build_id),
                if layout.behind_a_pointer() {
                    "behind a pointer"
                } else {
                    "in `Buffer`"
                },
                counts().sum::<usize>(),
                counts().min().unwrap_or(0),
                layout.points.len(),
            ));
        }
    }
}

fn run(run: Option<&Run>) -> String {
    match run {
        None => "not run".into(),
        Some(Run::Unrunnable(reasons)) => {
            let reasons: Vec<String> = reasons.iter().map(|reason| cell(reason)).collect();
            format!("can't run: {}", reasons.join("; "))
        }
        Some(Run::Tested {
            device,
            passed,
            failures,
        }) => match &failures[..] {
            [] => format!("{passed} tests passed: {device}"),
            _ => format!(
                "{passed} tests passed, **failed: {}**: {device}",
                failures.join(", ")
            ),
        },
    }
}

/// The table of probe points: one row for each release, one column for each point.
fn points(text: &mut String, records: &[Record]) {
    let traceable = || {
        records.iter().filter_map(|record| match &record.check {
            Check::Traceable(layout) => Some((&record.version, layout)),
            Check::Refused(_) => None,
        })
    };
    let Some((_, first)) = traceable().next() else {
        return;
    };
    let kinds: Vec<&str> = first.points.iter().map(|p| p.kind.as_str()).collect();
    text.push_str(&format!("| ttnn | {} |\n", kinds.join(" | ")));
    text.push_str(&format!("|---|{}\n", "---|".repeat(kinds.len())));
    for (version, layout) in traceable() {
        let cells: Vec<String> = layout.points.iter().map(point).collect();
        text.push_str(&format!("| {version} | {} |\n", cells.join(" | ")));
    }
}

fn point(point: &Point) -> String {
    // The target of a call differs in each release and means nothing.
    let instruction = match point.instruction.split_once(" 0x") {
        Some((call, _)) if call == "call" => call,
        _ => &point.instruction,
    };
    let place = match point.into {
        0 => String::new(),
        into => format!("`+{into:#x}` "),
    };
    let cost = if is_emulated(point) {
        ""
    } else {
        ", single-stepped"
    };
    format!("{place}`{instruction}`{cost}")
}

fn is_emulated(point: &Point) -> bool {
    point.cost == "emulated"
}

/// A, B, …, Z, AA, …
fn names() -> impl Iterator<Item = String> {
    (0_u32..).map(|mut index| {
        let mut name = String::new();
        loop {
            let letter = char::from_u32(u32::from(b'A') + index % 26).unwrap_or('?');
            name.insert(0, letter);
            if index < 26 {
                return name;
            }
            index = index / 26 - 1;
        }
    })
}

/// The first line of a program's output as a cell of a table.
fn cell(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.replace('|', "\\|")
}

fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{document, names};
    use crate::releases::record::{Check, Field, Layout, Point, Record, Run};

    fn layout(path: &str) -> Check {
        Check::Traceable(Layout {
            build_id: "23bb346fe8447951975aca3c3eb261b08372522d".into(),
            fields: vec![Field {
                name: "size".into(),
                path: path.into(),
                evidence: vec!["Buffer::size (returns it)".into(), "another".into()],
            }],
            points: vec![Point {
                kind: "create".into(),
                function: "BufferImpl::create".into(),
                into: 0xd0,
                instruction: "call 0x000000000078e340".into(),
                cost: "emulated".into(),
            }],
        })
    }

    fn record(version: &str, check: Check, run: Option<Run>) -> Record {
        Record {
            version: version.into(),
            check,
            run,
        }
    }

    #[test]
    fn a_row_says_what_was_found_and_how_it_ran() {
        let tested = |failures| Run::Tested {
            device: "mock device".into(),
            passed: 10,
            failures,
        };
        let text = document(
            &[
                record("0.3.0", layout("[[buffer+0x10]+0x8]"), Some(tested(vec![]))),
                record(
                    "0.2.0",
                    layout("[buffer+0x18]"),
                    Some(tested(vec!["a_test".into()])),
                ),
                record(
                    "0.1.0",
                    Check::Refused("no size\nits code".into()),
                    Some(Run::Unrunnable(vec!["mock device: signal 11".into()])),
                ),
            ],
            &["0.0.1"],
            &["0.3.0"],
        );
        for line in [
            "| 0.3.0 (kept out) | `23bb346fe844` | behind a pointer | A | 2, 2 | 1 of 1 | 10 tests passed: mock device |",
            "| 0.2.0 | `23bb346fe844` | in `Buffer` | B | 2, 2 | 1 of 1 | 10 tests passed, **failed: a_test**: mock device |",
            "| 0.1.0 | | refused: no size | | | | can't run: mock device: signal 11 |",
            "| 0.3.0 | `+0xd0` `call` |",
            "### B: 0.2.0",
            "| size | `[buffer+0x18]` | `Buffer::size (returns it)`, `another` |",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        assert!(
            text.contains("Without a `libtt_metal.so`: 0.0.1."),
            "{text}"
        );
    }

    #[test]
    fn layouts_are_named_like_columns_of_a_spreadsheet() {
        let names: Vec<String> = names().take(28).collect();
        assert_eq!((&*names[0], &*names[25], &*names[26]), ("A", "Z", "AA"));
    }
}
