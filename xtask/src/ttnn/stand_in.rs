//! The stand-ins for Tenstorrent's compiler and hardware: the files of `tests/mock-ttnn`.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::device::Device;
use crate::{progress::Step, sh};

/// A file that makes every Python of the environment import [`HOOK_MODULE`] when it starts.
const HOOK: &str = "tt-memtrace.pth";
/// The module that the hook imports.
const HOOK_MODULE: &str = "tt_memtrace_mock";

/// The compiler driver's name, and its name up to ttnn 0.63.
const COMPILERS: [&str; 2] = ["riscv-tt-elf-g++", "riscv32-tt-elf-g++"];

/// The script that a simulator's process runs.
const SIMULATOR: &str = "simulator.py";

/// The chips that can be simulated: the name in a cluster's description, the file name of the chip's description in
/// the wheel, and the PCI ids of the chip and its vendor.
const CHIPS: [(&str, &str, &str); 2] = [
    ("wormhole", "wormhole_b0_80_arch.yaml", "0x401e1e52"),
    ("blackhole", "blackhole_140_arch.yaml", "0xb1401e52"),
];

/// The stand-ins' directory, and the contents of all its files.
pub(super) struct StandIn {
    dir: PathBuf,
    contents: Vec<u8>,
}

impl StandIn {
    pub(super) fn read() -> Result<Self> {
        let dir = sh::root().join("tests/mock-ttnn");
        let mut contents = Vec::new();
        for file in [
            COMPILERS[0],
            "kernel.s",
            "ttsim.cpp",
            SIMULATOR,
            "tt_memtrace_mock.py",
            "workload.py",
            "wormhole_n150.yaml",
        ] {
            let file = dir.join(file);
            let read = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            contents.extend_from_slice(&read);
        }
        Ok(Self { dir, contents })
    }

    /// Changes with the files.
    pub(super) fn hash(&self) -> String {
        format!("{:016x}", sh::fnv1a(&self.contents))
    }

    /// Installs the compiler into the wheel, and the link that lets the wheel be TT-Metal's home.
    pub(super) fn install_compiler(&self, step: &Step, package: &Path) -> Result<()> {
        let bin = package.join("runtime/sfpi/compiler/bin");
        fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
        let driver = self.dir.join(COMPILERS[0]);
        let driver = fs::read(&driver).with_context(|| format!("read {}", driver.display()))?;
        for name in COMPILERS {
            write_executable(&bin.join(name), &driver)?;
        }
        // Paths of kernels are relative to TT-Metal's home and begin with ttnn/cpp/.
        let inner = package.join("ttnn");
        match symlink(".", &inner) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("link {}", inner.display()));
            }
            _ => {}
        }
        step.run(
            Command::new("riscv64-unknown-elf-as")
                .args(["-march=rv32im", "-mabi=ilp32"])
                .arg(self.dir.join("kernel.s"))
                .arg("-o")
                .arg(bin.join("kernel.o")),
        )
    }

    /// Makes the simulators of each chip in `dir`, as a library and as a process, together with the wheel's description
    /// of the chip.
    pub(super) fn build_simulators(
        &self,
        step: &Step,
        python: &Path,
        package: &Path,
        dir: &Path,
    ) -> Result<()> {
        let compiler = match ["clang++", "g++"]
            .into_iter()
            .find(|name| sh::on_path(name).is_some())
        {
            Some(compiler) => compiler,
            None => {
                sh::apt_install(step, &["clang"])?;
                "clang++"
            }
        };
        for (chip, description, pci_id) in CHIPS {
            let dir = dir.join(chip);
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
            let from = package.join("tt_metal/soc_descriptors").join(description);
            fs::copy(&from, dir.join("soc_descriptor.yaml"))
                .with_context(|| format!("copy {}", from.display()))?;
            // TT-Metal starts this script. -I -S: Python imports nothing else first, such as the hook.
            let process = format!(
                "#!/bin/sh\nexec '{}' -I -S '{}'\n",
                python.display(),
                self.dir.join(SIMULATOR).display()
            );
            write_executable(&dir.join("run.sh"), process.as_bytes())?;
            step.run(
                Command::new(compiler)
                    .args(["-std=c++20", "-O2", "-shared", "-fPIC"])
                    .arg(format!("-DPCI_ID={pci_id}"))
                    .arg(self.dir.join("ttsim.cpp"))
                    .arg("-o")
                    .arg(dir.join("libttsim.so")),
            )?;
        }
        Ok(())
    }

    /// Makes each Python of the environment set the variables that are not set yet: a cache of compiled kernels for
    /// this release and these stand-ins; no shared memory of Open MPI, which would leave 16 MiB behind; no
    /// configuration printed by `import ttnn`; and the variables that the device needs.
    pub(super) fn write_hook(
        &self,
        package: &Path,
        dir: &Path,
        cache: &Path,
        device: Device,
    ) -> Result<()> {
        let mut variables = json!({
            "TT_METAL_CACHE": cache,
            "TT_METAL_HOME": package,
            "OMPI_MCA_btl": "self",
            "LOGURU_LEVEL": "WARNING",
            // 0.62 uses it in the name of its simulator's socket.
            "USER": "root",
        });
        for (name, value) in device.variables() {
            variables[name] = json!(value);
        }
        let simulator = device
            .simulator()
            .map(|file| json!({ "folder": dir.join("simulator"), "file": file }));
        let set_up = json!({ "variables": variables, "simulator": simulator });
        let site_packages = package.parent().context("site-packages")?;
        let module = site_packages.join(HOOK_MODULE);
        let write = |file: PathBuf, text: &[u8]| {
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))
        };
        let code = fs::read(self.dir.join("tt_memtrace_mock.py")).context("the hook's module")?;
        write(module.with_extension("py"), &code)?;
        write(module.with_extension("json"), set_up.to_string().as_bytes())?;
        write(
            site_packages.join(HOOK),
            format!("import {HOOK_MODULE}\n").as_bytes(),
        )
    }
}

fn write_executable(file: &Path, contents: &[u8]) -> Result<()> {
    fs::write(file, contents)
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", file.display()))
}
