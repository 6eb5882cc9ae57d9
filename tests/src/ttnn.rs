//! The real `ttnn` on mock devices.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Release, WorkDir, workspace};

/// A mock cluster: a description of `tests/mock-ttnn`, with chip ids that no other process uses. The
/// shared-memory statistics of its chips are therefore this test's own. They are removed at the test's end.
pub struct Cluster {
    description: PathBuf,
    chips: Vec<u64>,
}

impl Cluster {
    /// One Wormhole chip.
    pub fn n150(dir: &WorkDir) -> Self {
        Self::new(dir, "wormhole_n150.yaml", 1)
    }

    /// Two Wormhole chips, a mesh of 1x2.
    pub fn n300(dir: &WorkDir) -> Self {
        Self::new(dir, "wormhole_n300.yaml", 2)
    }

    /// Eight Wormhole chips, a mesh of 2x4 or 1x8.
    pub fn t3000(dir: &WorkDir) -> Self {
        Self::new(dir, "wormhole_t3000.yaml", 8)
    }

    /// One Blackhole chip.
    pub fn p150(dir: &WorkDir) -> Self {
        Self::new(dir, "blackhole_p150.yaml", 1)
    }

    fn new(dir: &WorkDir, name: &str, chips: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let chips: Vec<u64> = (0..chips)
            .map(|_| {
                let chip = NEXT.fetch_add(1, Ordering::Relaxed);
                7_000_000_000_000 + u64::from(std::process::id()) * 1_000 + chip
            })
            .collect();
        let source = workspace().join("tests/mock-ttnn").join(name);
        let text = std::fs::read_to_string(&source)
            .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        // The descriptions write this mapping in flow or in block style; YAML reads both.
        let ids: Vec<String> = chips
            .iter()
            .enumerate()
            .map(|(chip, id)| format!("{chip}: {id}"))
            .collect();
        let mut lines = vec![format!("chip_unique_ids: {{{}}}", ids.join(", "))];
        let mut skipping = false;
        for line in text.lines() {
            if line.starts_with("chip_unique_ids:") {
                skipping = true;
            } else if !line.starts_with(' ') {
                skipping = false;
            }
            if !skipping {
                lines.push(line.to_owned());
            }
        }
        let description = dir.path().join(name);
        std::fs::write(&description, lines.join("\n") + "\n").expect("the test's own directory");
        Self { description, chips }
    }

    pub fn description(&self) -> &Path {
        &self.description
    }

    /// TT-Metal's shared-memory statistics of a chip.
    pub fn statistics(&self, chip: usize) -> PathBuf {
        PathBuf::from(format!("/dev/shm/tt_device_{}_memory", self.chips[chip]))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for chip in 0..self.chips.len() {
            // The file exists only if TT-Metal opened the chip.
            std::fs::remove_file(self.statistics(chip)).ok();
        }
    }
}

/// A Python with `ttnn`, a mock cluster and a working directory.
pub struct Ttnn<'a> {
    release: Release,
    cluster: &'a Cluster,
    dir: &'a WorkDir,
}

impl<'a> Ttnn<'a> {
    pub fn new(release: Release, cluster: &'a Cluster, dir: &'a WorkDir) -> Self {
        Self {
            release,
            cluster,
            dir,
        }
    }

    /// `tests/mock-ttnn/workload.py CLUSTER`, the workload of the README.
    pub fn demo(&self) -> Command {
        let script = workspace().join("tests/mock-ttnn/workload.py");
        let mut command = self.python(&script);
        command.arg(self.cluster.description());
        command
    }

    /// A script of `tests/workloads`.
    pub fn workload(&self, script: &str) -> Command {
        self.python(&workspace().join("tests/workloads").join(script))
    }

    fn python(&self, script: &Path) -> Command {
        let mut command = self.dir.command(self.release.python());
        command
            .arg(script)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env(
                "TT_METAL_MOCK_CLUSTER_DESC_PATH",
                self.cluster.description(),
            )
            // Releases must not share a cache of compiled kernels.
            .env("TT_METAL_CACHE", self.dir.path().join("kernels"))
            // Without this, a killed process leaves 16 MiB of Open MPI's shared memory in /dev/shm.
            .env("OMPI_MCA_btl", "self");
        command
    }
}
