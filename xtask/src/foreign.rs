//! `cargo xtask foreign`: the simulator's test kernels that other compilers
//! make, made again.
//!
//! In: the sources in `runtime/sim/tests/foreign`, and pinned compilers in
//! `.tools/foreign` (`--install` fetches them from PyPI: nvcc without a CUDA
//! toolkit, Triton without torch; neither needs a GPU). Out: `NAME.ptx` beside
//! each source, and a line that says what changed. With `--check` nothing is
//! written, and a difference is a failed step.
//!
//! The PTX is kept in the repository, so that the tests of the simulator run
//! everywhere. The compilers are under their makers' licences: fetched, never
//! shipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::{shell, workspace};

/// nvcc and what it needs to write PTX: its front end and optimiser, headers of
/// the language, the run-time library and libcu++.
const NVCC: [&str; 5] = [
    "nvidia-cuda-nvcc==13.5.37 --hash=sha256:f5c4f7ead5d964fb4af42bbf1e6d3ec3c1e6e9d83b53749f691d387e7fcaa3a7",
    "nvidia-nvvm==13.5.37 --hash=sha256:c41bfa362e407405163f103c2229f0765f8cc2ed7d148b754dc77f228bf7e070",
    "nvidia-cuda-crt==13.5.37 --hash=sha256:e898b7f73d3035fa89915a3f7bf3b54a73e90249746111aed295822c4729bb29",
    "nvidia-cuda-runtime==13.5.37 --hash=sha256:df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d",
    "nvidia-cuda-cccl==13.3.5.0.6 --hash=sha256:d5230098fa2df5021e1a00c0c4eee41797671a91119d31e892463e5ccf3ee326",
];
/// Its wheels differ with the version of Python, hence no hash.
const TRITON: &str = "triton==3.9.0";

/// What nvcc is asked for, before the names of the files.
const NVCC_FLAGS: [&str; 4] = ["-arch=sm_90a", "-std=c++17", "-O3", "-ptx"];

#[derive(clap::Args)]
pub struct Args {
    /// Fetch the pinned compilers first, if they are not there
    #[arg(long)]
    install: bool,
    /// Write nothing, and fail if a compiler now makes something else
    #[arg(long)]
    check: bool,
}

pub fn main(args: &Args) -> Result<()> {
    if args.install {
        install()?;
    }
    let tools = Tools::find()?;
    let mut changed = Vec::new();
    for source in sources()? {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let ptx = tools.compile(&source)?;
        let kept = source.with_extension("ptx");
        let old = fs::read_to_string(&kept).ok();
        let verdict = match &old {
            None => "new",
            Some(old) if *old == ptx => "unchanged",
            Some(_) => "changed",
        };
        println!(
            "{name:<28} {:>5} lines of PTX, {verdict}",
            ptx.lines().count()
        );
        if old.as_deref() != Some(ptx.as_str()) {
            changed.push(name.into_owned());
            if !args.check {
                fs::write(&kept, ptx)
                    .map_err(|e| Error::Step(format!("{}: {e}", kept.display())))?;
            }
        }
    }
    if args.check && !changed.is_empty() {
        return Err(Error::Step(format!(
            "the PTX kept for {} is not what the compilers make: run `cargo xtask foreign` and read the difference",
            changed.join(", ")
        )));
    }
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("runtime/sim/tests/foreign")
}

/// What is compiled: CUDA C++, and the Python files that hold a kernel.
fn sources() -> Result<Vec<PathBuf>> {
    let folder = folder();
    let entries =
        fs::read_dir(&folder).map_err(|e| Error::Step(format!("{}: {e}", folder.display())))?;
    let mut sources: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kernel = name.starts_with("triton_") && name != DRIVER && name.ends_with(".py");
            kernel || name.ends_with(".cu")
        })
        .collect();
    sources.sort();
    Ok(sources)
}

/// Compiles one Triton file; it is beside the sources.
const DRIVER: &str = "triton_ptx.py";

fn venv() -> PathBuf {
    workspace::tools_dir().join("foreign/venv")
}

fn pins() -> String {
    NVCC.map(|pin| format!("{pin}\n")).concat() + TRITON + "\n"
}

/// The compilers, with the pinned versions.
struct Tools {
    python: PathBuf,
    nvcc: PathBuf,
}

impl Tools {
    fn find() -> Result<Tools> {
        Tools::at(&venv()).ok_or_else(|| {
            Error::Environment(
                "the pinned nvcc and Triton are not in .tools/foreign. \
                 `cargo xtask foreign --install` fetches them from PyPI (400 MB); \
                 that needs python3 with venv and pip, nvcc needs a C++ compiler"
                    .to_owned(),
            )
        })
    }

    fn at(venv: &Path) -> Option<Tools> {
        let pinned = fs::read_to_string(venv.join("PINS")).ok()?;
        let python = venv.join("bin/python");
        let lib = fs::read_dir(venv.join("lib")).ok()?;
        let nvcc = lib
            .flatten()
            .map(|entry| entry.path().join("site-packages/nvidia/cu13/bin/nvcc"))
            .find(|nvcc| shell::is_executable(nvcc))?;
        (pinned == pins() && shell::is_executable(&python)).then_some(Tools { python, nvcc })
    }

    /// The PTX of one source.
    fn compile(&self, source: &Path) -> Result<String> {
        let name = source.file_name().unwrap_or_default();
        let scratch = Scratch::new()?;
        let out = scratch.0.join("out.ptx");
        let mut command;
        if source.extension().is_some_and(|e| e == "cu") {
            command = Command::new(&self.nvcc);
            command.args(NVCC_FLAGS).arg(name).arg("-o").arg(&out);
        } else {
            command = Command::new(&self.python);
            // An empty cache, so that it really compiles.
            command
                .args([DRIVER.as_ref(), name, out.as_os_str()])
                .env("TRITON_CACHE_DIR", scratch.0.join("cache"))
                .env("PYTHONDONTWRITEBYTECODE", "1");
        }
        command.current_dir(folder());
        let output = command.output().map_err(|e| {
            Error::Environment(format!("cannot start {:?}: {e}", command.get_program()))
        })?;
        if !output.status.success() {
            return Err(Error::Step(format!(
                "{} does not compile:\n{}",
                name.display(),
                String::from_utf8_lossy(&output.stderr)
            )));
        }
        let text = fs::read_to_string(&out)
            .map_err(|e| Error::Step(format!("{} gave no PTX: {e}", name.display())))?;
        Ok(anonymous(&text))
    }
}

/// nvcc names what is internal to a file after the file's path, by eight digits
/// of a hash behind `_INTERNAL_` and `_GLOBAL__N__`. They become zeros, so that
/// every checkout makes the same PTX; the names stay distinct, since the rest
/// of them tells them apart.
fn anonymous(ptx: &str) -> String {
    let mut text = ptx.to_owned();
    for mark in ["_INTERNAL_", "_GLOBAL__N__"] {
        let mut from = 0;
        while let Some(found) = text[from..].find(mark) {
            let at = from + found + mark.len();
            let digits = text[at..].bytes().take_while(u8::is_ascii_hexdigit).count();
            if digits == 8 {
                text.replace_range(at..at + 8, "00000000");
            }
            from = at;
        }
    }
    text
}

/// Makes the virtual environment. `PINS` is written last, so that one which was
/// interrupted is made anew.
fn install() -> Result<()> {
    let venv = venv();
    if Tools::at(&venv).is_some() {
        eprintln!("the pinned nvcc and Triton are there");
        return Ok(());
    }
    let io = |e: std::io::Error| Error::Environment(format!("cannot write to .tools: {e}"));
    fs::create_dir_all(&venv).map_err(io)?;
    shell::run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
    )
    .map_err(|e| {
        Error::Environment(format!(
            "{e}. Install python3 with venv (Debian: python3-venv)"
        ))
    })?;
    let requirements = venv.join("requirements.txt");
    fs::write(&requirements, NVCC.map(|pin| format!("{pin}\n")).concat()).map_err(io)?;
    let pip = || {
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--only-binary=:all:"]);
        pip
    };
    let offline = |e| Error::Environment(format!("{e}. This needs PyPI, for x86-64 Linux"));
    shell::run(
        pip()
            .args(["--require-hashes", "--requirement"])
            .arg(&requirements),
    )
    .map_err(offline)?;
    shell::run(pip().arg(TRITON)).map_err(offline)?;
    fs::write(venv.join("PINS"), pins()).map_err(io)
}

/// A folder for one compilation, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mcc-foreign-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir)
            .map_err(|e| Error::Environment(format!("cannot create {}: {e}", dir.display())))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_its_ptx_and_every_ptx_its_source() {
        let sources = sources().unwrap();
        assert!(sources.len() >= 12, "{sources:?}");
        for source in &sources {
            let ptx = fs::read_to_string(source.with_extension("ptx"));
            let ptx = ptx.unwrap_or_else(|e| panic!("{}: {e}", source.display()));
            assert!(ptx.contains(".target sm_90a"), "{}", source.display());
            assert_eq!(ptx, anonymous(&ptx), "{}", source.display());
        }
        let kept = fs::read_dir(folder()).unwrap().flatten();
        let kept = kept.filter(|e| e.path().extension().is_some_and(|x| x == "ptx"));
        assert_eq!(kept.count(), sources.len());
    }

    #[test]
    fn names_that_hold_a_hash_of_the_path_lose_it() {
        let text =
            "_ZN52_INTERNAL_c72da805_21_a_cu_1bceac1c4cuda _GLOBAL__N__d2ebb1db_2 _INTERNAL_x";
        let plain =
            "_ZN52_INTERNAL_00000000_21_a_cu_1bceac1c4cuda _GLOBAL__N__00000000_2 _INTERNAL_x";
        assert_eq!(anonymous(text), plain);
    }

    /// The PTX that the simulator's tests run is what these versions of the
    /// compilers make of the sources beside it.
    #[test]
    fn the_compilers_still_make_the_kept_ptx() {
        let tools = match Tools::find() {
            Ok(tools) => tools,
            Err(e) => return println!("skipped: {e}"),
        };
        if shell::on_path("g++").is_none() {
            return println!("skipped: nvcc needs a C++ compiler and there is no g++");
        }
        for source in sources().unwrap() {
            let made = tools.compile(&source).unwrap_or_else(|e| panic!("{e}"));
            let kept = fs::read_to_string(source.with_extension("ptx")).unwrap();
            assert!(
                made == kept,
                "{}: `cargo xtask foreign` makes other PTX; read the difference",
                source.display()
            );
        }
    }
}
