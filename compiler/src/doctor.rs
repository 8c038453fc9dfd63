//! What this machine has of what a compiler's user needs, and how to get the rest.
//!
//! In: this machine's paths and environment. Out: the findings of the compile side and of the comparisons; those of
//! the run side are `mcc-runtime`'s. Only what builds and runs on the simulator cannot do without is required:
//! everything else makes something faster, or is needed for one thing more.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mcc_runtime::doctor::{Finding, Side};
use serde::Deserialize;

use crate::ptxas::{Ptxas, find_tool};

const SETUP: &str = "cargo xtask setup (in a checkout of mcc), or install the CUDA toolkit";

/// Looks for what builds bundles.
#[must_use]
pub fn compile_side() -> Vec<Finding> {
    let (major, minor, patch) = mcc_codegen::llvm_version();
    let llvm = format!("{major}.{minor}.{patch}, linked in");
    vec![
        Finding::ok(Side::Compile, "LLVM and MLIR", llvm).required(),
        // Built from source with mcc itself: a binary that starts has it.
        Finding::ok(
            Side::Compile,
            "HiGHS",
            "linked in; proves the optimiser's choices",
        )
        .required(),
        ptxas(),
        nvdisasm(),
        cargo(),
    ]
}

/// Looks for what checks kernels on a GPU and compares their times.
#[must_use]
pub fn compare_side() -> Vec<Finding> {
    let mut findings = vec![sanitizer()];
    findings.extend(python());
    findings
}

fn ptxas() -> Finding {
    let name = "ptxas";
    let Some(ptxas) = Ptxas::find() else {
        return Finding::missing(
            Side::Compile,
            name,
            "bundles hold PTX only: the driver assembles it whenever a model is loaded (seconds, not slower kernels), \
             and spills are not found at build time",
            SETUP,
        );
    };
    let path = ptxas.path().display().to_string();
    // With $MCC_PTXAS it was asked for by name, and builds fail when it does not work; so they do with any that is
    // found.
    let broken = |why: String| {
        Finding::unusable(
            Side::Compile,
            name,
            format!("{path}: {why}"),
            "builds fail, unless with --no-cubin",
            format!("set MCC_PTXAS to another one; or {SETUP}"),
        )
        .required()
    };
    let version = match version(ptxas.path()) {
        Ok(version) => version,
        Err(why) => return broken(why),
    };
    match newest_ptx(ptxas.path()) {
        Some(isa) => {
            let found = format!("{version}, PTX up to {isa}, {path}");
            Finding::ok(Side::Compile, name, found)
        }
        None => broken("it does not say which PTX it takes".to_owned()),
    }
}

fn nvdisasm() -> Finding {
    let cost = "mcc build --emit sass cannot show machine code";
    match find_tool("nvdisasm") {
        None => Finding::missing(Side::Compile, "nvdisasm", cost, SETUP),
        Some(path) => match version(&path) {
            Ok(version) => {
                let found = format!("{version}, {}", path.display());
                Finding::ok(Side::Compile, "nvdisasm", found)
            }
            Err(why) => {
                let why = format!("{}: {why}", path.display());
                Finding::unusable(Side::Compile, "nvdisasm", why, cost, SETUP)
            }
        },
    }
}

fn cargo() -> Finding {
    let cost = "Rust models (.rs files and crates) cannot be built; checkpoints and .mir files can";
    let remedy = "install Rust with rustup (https://rustup.rs) or your system's packages";
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    match output(Command::new(&cargo).arg("--version")) {
        Ok(text) => Finding::ok(Side::Compile, "cargo", text.trim()),
        Err(_) => Finding::missing(Side::Compile, "cargo", cost, remedy),
    }
}

fn sanitizer() -> Finding {
    let cost = "memory and synchronisation errors on a GPU are found by the simulator only";
    let remedy = "install the CUDA toolkit, or NVIDIA's package of compute-sanitizer";
    match find_tool("compute-sanitizer") {
        None => Finding::missing(Side::Compare, "compute-sanitizer", cost, remedy),
        Some(path) => Finding::ok(
            Side::Compare,
            "compute-sanitizer",
            path.display().to_string(),
        ),
    }
}

/// What one look into Python's packages finds.
#[derive(Deserialize)]
struct Packages {
    python: String,
    packages: Vec<(String, Option<String>)>,
}

/// Asks for packages without importing them: importing torch takes seconds.
const ASK: &str = "
import importlib.metadata as m, importlib.util as u, json, platform
def version(module, package):
    if u.find_spec(module) is None:
        return None
    try:
        return m.version(package)
    except m.PackageNotFoundError:
        return 'of unknown version'
wanted = [('torch', 'torch'), ('triton', 'triton'), ('deep_gemm', 'deep_gemm')]
print(json.dumps({'python': platform.python_version(), 'packages': [(n, version(n, p)) for n, p in wanted]}))
";

fn python() -> Vec<Finding> {
    let cost = "the peers of bench/peers are not measured: tables have no ratios";
    let mut ask = Command::new("python3");
    ask.args(["-c", ASK]);
    let answer = output(&mut ask).and_then(|text| {
        serde_json::from_str::<Packages>(text.trim()).map_err(|err| format!("its answer: {err}"))
    });
    let found = match answer {
        Ok(found) => found,
        Err(_) if !on_path("python3") => {
            let remedy = "install python3 (3.8 or newer)";
            return vec![Finding::missing(Side::Compare, "python3", cost, remedy)];
        }
        Err(why) => {
            let remedy = "install python3 3.8 or newer";
            return vec![Finding::unusable(
                Side::Compare,
                "python3",
                why,
                cost,
                remedy,
            )];
        }
    };
    let mut findings = vec![Finding::ok(Side::Compare, "python3", found.python)];
    for (name, version) in found.packages {
        let (cost, remedy) = match name.as_str() {
            "torch" => (cost, "pip install torch"),
            "triton" => (
                "no comparison with Triton's kernels",
                "pip install triton (it comes with torch)",
            ),
            _ => (
                "no comparison with DeepGEMM",
                "build it from https://github.com/deepseek-ai/DeepGEMM",
            ),
        };
        findings.push(match version {
            Some(version) => Finding::ok(Side::Compare, name, version),
            None => Finding::missing(Side::Compare, name, cost, remedy),
        });
    }
    findings
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// `12.9.86`, from the last words of an NVIDIA tool's `--version`.
fn version(tool: &Path) -> Result<String, String> {
    let text = output(Command::new(tool).arg("--version"))?;
    let number = |word: &str| {
        let rest = word.strip_prefix('V')?;
        rest.starts_with(|c: char| c.is_ascii_digit())
            .then(|| rest.to_owned())
    };
    text.split_whitespace()
        .find_map(number)
        .ok_or_else(|| "it does not tell its version".to_owned())
}

/// The newest PTX ISA version that an assembler takes: its complaint about one that does not exist names it.
fn newest_ptx(ptxas: &Path) -> Option<String> {
    let dir = tempfile::tempdir().ok()?;
    let file = dir.path().join("version.ptx");
    std::fs::write(&file, ".version 99.0\n.target sm_90a\n.address_size 64\n").ok()?;
    let output = Command::new(ptxas)
        .arg(&file)
        .arg("-o")
        .arg(dir.path().join("version.cubin"))
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let (_, rest) = text.split_once("current version is '")?;
    rest.split_once('\'').map(|(isa, _)| isa.to_owned())
}

/// What a program prints, or why it does not.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|err| format!("it does not start: {err}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default().to_owned();
        return Err(format!("it ends with {}: {last}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| "its output is not UTF-8".to_owned())
}
