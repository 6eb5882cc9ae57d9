//! What each buffer is for, held against what the workload that made them says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tt_memtrace_tests::{
    Cluster, ProcessSummary, Release, Summary, Tracer, Ttnn, WorkDir, for_each_release, list, text,
    unsigned,
};

for_each_release!(
    every_live_buffer_is_what_it_was_made_for,
    programs_binaries_are_told_apart,
    on_a_mesh_of_two_chips_too if has_meshes,
    what_is_freed_was_what_it_was_made_for,
    without_stacks_nothing_is_guessed,
);

/// Type of memory and address.
type Place = (String, u64);

/// Kind and id of a device, and the place there.
type Spot<'a> = (&'a str, u64, Place);

#[track_caller]
fn place(value: &Value) -> Place {
    let buffer_type = text(value, "buffer_type").to_owned();
    (buffer_type, unsigned(value, "address"))
}

/// A run of `origins.py`, to its death.
struct Run {
    release: Release,
    summary: Summary,
    /// What it said of all that it made, and then of what was still live, if it let go of it.
    said: Vec<Value>,
}

impl Run {
    fn new(release: Release, shape: &str, arguments: &[&str], options: &[&str]) -> Self {
        let dir = WorkDir::new();
        let cluster = match shape {
            "1x1" => Cluster::n150(&dir),
            _ => Cluster::n300(&dir),
        };
        let mut workload = Ttnn::new(release, &cluster, &dir).workload("origins.py");
        workload.arg(shape).args(arguments);
        let tracer = Tracer::run(&dir).arguments(options).traced(&workload);
        let done = tracer.start().finish();
        done.expect_code(128 + 9);
        let said = done.text();
        let said = said
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        Self {
            release,
            summary: dir.summary(),
            said: said.collect(),
        }
    }

    #[track_caller]
    fn process(&self) -> ProcessSummary<'_> {
        self.summary.expect_complete().only_process()
    }

    /// Whether a tensor in another one's memory has buffers of its own: before, both shared them.
    fn has_views(&self) -> bool {
        self.release.version() != "0.66.0"
    }

    /// Places and origins of what it made that owns memory.
    fn made(&self) -> BTreeMap<Place, &str> {
        let owning = list(&self.said[0], "owning").iter();
        let made: BTreeMap<Place, &str> = owning
            .map(|made| (place(made), text(made, "origin")))
            .collect();
        // It said so of each, by TT-Metal's own list.
        let listed: BTreeSet<Place> = list(&self.said[0], "live")
            .iter()
            .map(|listed| {
                let buffer_type = listed[0].as_str().expect("a type").to_owned();
                (buffer_type, listed[1].as_u64().expect("an address"))
            })
            .collect();
        assert_eq!(made.keys().cloned().collect::<BTreeSet<_>>(), listed);
        made
    }

    /// How many owning buffers it made on each line, by origin.
    fn made_on_lines(&self) -> BTreeMap<(u64, &str), u64> {
        let mut on_lines = BTreeMap::new();
        for made in list(&self.said[0], "owning") {
            *on_lines
                .entry((unsigned(made, "line"), text(made, "origin")))
                .or_default() += 1;
        }
        on_lines
    }

    /// The line of the workload that a stack begins with.
    #[track_caller]
    fn line(&self, stack: &Value) -> u64 {
        let stacks = list(self.process().0, "stacks");
        let stack = stacks.iter().find(|known| known["id"] == *stack);
        let stack = stack.expect("a stack");
        let frames = list(stack, "frames");
        let line = frames.iter().rfind(|frame| {
            frame["kind"] == "python" && text(frame, "file").ends_with("/origins.py")
        });
        unsigned(line.expect("a line of the workload"), "line")
    }

    /// Each live buffer is what the workload says.
    #[track_caller]
    fn expect_origins(&self) {
        let made = self.made();
        let process = self.process();
        let owning = list(process.0, "live_buffers");
        let told: BTreeMap<Place, &str> = owning
            .iter()
            .map(|buffer| (place(buffer), text(buffer, "origin")))
            .collect();
        assert_eq!(told, made);

        let chips = list(&self.said[0], "chips");
        // What each buffer that owns nothing is for: on a device, at a place, by the line of its birth.
        let mut standing: BTreeMap<Spot<'_>, Vec<(&str, u64)>> = BTreeMap::new();
        for buffer in list(&process.0["non_owning"], "buffers") {
            let device = (text(buffer, "device_kind"), unsigned(buffer, "device_id"));
            standing
                .entry((device.0, device.1, place(buffer)))
                .or_default()
                .push((text(buffer, "origin"), self.line(&buffer["stack"])));
        }
        for said in list(&self.said[0], "owning") {
            let (place, line) = (place(said), unsigned(said, "line"));
            for chip in chips {
                let chip = chip.as_u64().expect("an id");
                let mut here = standing
                    .remove(&("chip", chip, place.clone()))
                    .unwrap_or_default();
                // One is the share of the mesh's own buffer, made where that was.
                let member = here.iter().position(|it| *it == ("mesh_member", line));
                let member = member.unwrap_or_else(|| panic!("no member at {place:?}: {here:?}"));
                here.swap_remove(member);
                // All others are views: those that the workload made, each at least once, and what an
                // operation makes of its own result.
                let views = list(&self.said[0], "views").iter();
                let views: BTreeSet<u64> = views
                    .filter(|view| self::place(view) == place && self.has_views())
                    .map(|view| unsigned(view, "line"))
                    .collect();
                let lines = here.iter().map(|(_, line)| *line);
                let lines: BTreeSet<u64> = lines.filter(|of_view| *of_view != line).collect();
                assert_eq!(lines, views, "at {place:?}: {here:?}");
                assert!(
                    here.iter().all(|(origin, _)| *origin == "view"),
                    "at {place:?}: {here:?}"
                );
                if text(said, "origin") != "tensor" {
                    assert_eq!(here, []);
                }
            }
            // A program has one more on the mesh.
            let mesh = unsigned(&self.said[0], "mesh");
            let on_mesh = standing.remove(&("mesh", mesh, place));
            let of_program = (text(said, "origin") == "program").then(|| vec![("program", line)]);
            assert_eq!(on_mesh, of_program);
        }
        assert_eq!(standing, BTreeMap::new(), "where nothing was made");

        // The totals are those of the list.
        let mut totals: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for buffer in owning {
            let (buffers, bytes) = totals.entry(text(buffer, "origin")).or_default();
            *buffers += 1;
            *bytes += unsigned(buffer, "size");
        }
        let told: BTreeMap<&str, (u64, u64)> = list(process.0, "origins")
            .iter()
            .map(|total| {
                let figures = (
                    unsigned(total, "live_buffers"),
                    unsigned(total, "live_bytes"),
                );
                (text(total, "origin"), figures)
            })
            .collect();
        assert_eq!(told, totals);
        assert!(!totals.contains_key("unknown"));
    }
}

fn every_live_buffer_is_what_it_was_made_for(release: Release) {
    let run = Run::new(release, "1x1", &["held"], &[]);
    run.expect_origins();
    let kinds: BTreeSet<&str> = run.made().into_values().collect();
    assert_eq!(
        kinds,
        BTreeSet::from(["tensor", "semaphore", "global_circular_buffer"])
    );
}

fn programs_binaries_are_told_apart(release: Release) {
    let run = Run::new(release, "1x1", &["held", "binaries"], &[]);
    run.expect_origins();
    let programs = run.made().into_values().filter(|it| *it == "program");
    if [Release::V0_77_0, Release::V0_81_1].contains(&release) {
        assert!(programs.count() >= 4);
    } else {
        assert_eq!(run.said[0]["gathers"], false);
    }
}

fn on_a_mesh_of_two_chips_too(release: Release) {
    let run = Run::new(release, "1x2", &["held", "binaries"], &[]);
    assert_eq!(run.said[0]["chips"], json!([0, 1]));
    run.expect_origins();
}

fn what_is_freed_was_what_it_was_made_for(release: Release) {
    // With so many in between all that was freed counts as temporary, and is listed by stack.
    let options = ["--temporary", "1000000"];
    let run = Run::new(release, "1x1", &["freed", "binaries"], &options);
    assert_eq!(run.said[1]["live"], json!([]));
    let process = run.process();
    assert_eq!(process.owning(), []);
    assert_eq!(process.non_owning(), []);
    assert_eq!(process.0["origins"], json!([]));
    let mut freed: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    for group in list(&process.0["temporary"], "groups") {
        let key = (run.line(&group["stack"]), text(group, "origin"));
        *freed.entry(key).or_default() += unsigned(group, "buffers");
    }
    // What it made it knows; what operations made and freed on their way are tensors as well.
    for (key, made) in run.made_on_lines() {
        let freed = freed.entry(key).or_default();
        assert!(*freed >= made, "{key:?}: {freed} of {made}");
        *freed -= made;
        assert!(key.1 == "tensor" || *freed == 0, "{key:?}: {freed} more");
    }
    freed.retain(|(_, origin), count| *count > 0 && *origin != "tensor");
    assert_eq!(freed, BTreeMap::new());
}

fn without_stacks_nothing_is_guessed(release: Release) {
    let run = Run::new(release, "1x1", &["held"], &["--stacks", "none"]);
    let process = run.process();
    for buffer in list(process.0, "live_buffers") {
        assert_eq!(buffer["origin"], "unknown", "{buffer}");
    }
    // A chip's share is known by lying where its mesh's buffer does, before any other does.
    let mut standing: BTreeMap<Place, Vec<(u64, &str)>> = BTreeMap::new();
    for buffer in list(&process.0["non_owning"], "buffers") {
        let born = unsigned(buffer, "allocated_at_ns");
        let here = standing.entry(place(buffer)).or_default();
        here.push((born, text(buffer, "origin")));
    }
    for (at, mut here) in standing {
        here.sort_unstable();
        let mut origins = here.iter().map(|(_, origin)| *origin);
        assert_eq!(origins.next(), Some("mesh_member"), "{at:?}");
        assert!(
            origins.all(|origin| origin == "unknown"),
            "{at:?}: {here:?}"
        );
    }
}
