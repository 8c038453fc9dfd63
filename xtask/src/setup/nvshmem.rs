//! NVSHMEM's device library, pinned, from PyPI, cut down to what kernels call.
//!
//! In: python3 with pip, and `llvm-link` of LLVM 22. Out:
//!
//! ```text
//! .tools/nvshmem-3.8/libnvshmem_device_sm_90.bc
//! ```
//!
//! NVIDIA's file has 2,824 functions in 53 MB, which LLVM takes half a minute to read whole. What the functions below
//! reach is a third of a megabyte. As with the assembler the folder appears whole or not at all, and `PINS` says what
//! it holds. The library is NVIDIA's, under NVIDIA's licence: fetched, never shipped.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::llvm::Prefixes;
use super::nvidia::{Temporary, Wheel};
use crate::error::{Error, Result};
use crate::{shell, workspace};

/// `mcc` looks for this folder and file, too (compiler/src/ptxas.rs).
const FOLDER: &str = "nvshmem-3.8";
const FILE: &str = "libnvshmem_device_sm_90.bc";

const WHEEL: Wheel = Wheel {
    project: "nvidia-nvshmem-cu12",
    version: "3.8.0",
    sha256: "b2e5760d6158aefe7bb74348d5128bb1b46a7dd1fd4b7b1e6fe55b4b07888f70",
    programs: &["nvidia/nvshmem/lib/libnvshmem_device_sm_90.bc"],
};

/// What the functions take at least; the library's variables alone are smaller.
const LEAST_BYTES: u64 = 100_000;

/// The functions that kernels call, with their parameters in LLVM's types.
const FUNCTIONS: [(&str, &[&str]); 5] = [
    ("nvshmemx_putmem_nbi_warp", &["ptr", "ptr", "i64", "i32"]),
    (
        "nvshmemx_putmem_signal_nbi_warp",
        &["ptr", "ptr", "i64", "ptr", "i64", "i32", "i32"],
    ),
    ("nvshmemx_signal_op", &["ptr", "i64", "i32", "i32"]),
    ("nvshmem_fence", &[]),
    ("nvshmem_quiet", &[]),
];

fn dir() -> PathBuf {
    workspace::tools_dir().join(FOLDER)
}

/// The text of `PINS`: another list of functions is another library.
fn pins() -> String {
    let names: Vec<&str> = FUNCTIONS.iter().map(|f| f.0).collect();
    format!("{}{}\n", WHEEL.pin(), names.join(" "))
}

pub fn pin() -> String {
    WHEEL.requirement()
}

pub fn is_complete() -> bool {
    let dir = dir();
    fs::read_to_string(dir.join("PINS")).is_ok_and(|text| text == pins())
        && dir.join(FILE).is_file()
}

pub fn describe() -> String {
    let state = if is_complete() {
        format!("{} in .tools/{FOLDER}", WHEEL.version)
    } else {
        "not found: kernels over several nodes get no cubins (`cargo xtask setup --nvshmem`)".into()
    };
    format!("{:<12} {state}", "NVSHMEM")
}

/// A module that calls each function, so that the linker takes it. Its own function goes where kernels are linked: none
/// calls it.
fn stub() -> String {
    let mut text = String::from("target triple = \"nvptx64-nvidia-cuda\"\n");
    let mut calls = String::new();
    for (name, params) in FUNCTIONS {
        let _ = writeln!(text, "declare void @{name}({})", params.join(", "));
        let args: Vec<String> = params.iter().map(|p| format!("{p} undef")).collect();
        let _ = writeln!(calls, "  call void @{name}({})", args.join(", "));
    }
    let _ = writeln!(
        text,
        "define void @nvshmem_functions() {{\n{calls}  ret void\n}}"
    );
    text
}

/// Fetches the library if it is not there.
pub fn fetch(prefixes: &Prefixes) -> Result<()> {
    if is_complete() {
        return Ok(());
    }
    let linker = prefixes.llvm_tool("llvm-link");
    if !shell::is_executable(&linker) {
        return Err(Error::Environment(format!(
            "{} is not there; LLVM 22 brings it (Debian: llvm-22)",
            linker.display()
        )));
    }
    let io = |e: std::io::Error| Error::Environment(format!("cannot write to .tools: {e}"));
    let temporary = Temporary::new(FOLDER)?;
    let wheels = temporary.download(&WHEEL.pin()).map_err(|e| {
        Error::Environment(format!(
            "{e}. Fetching NVSHMEM needs python3 with pip and PyPI, whose files must have the pinned hashes.\n\
             Another way: set MCC_NVSHMEM to a libnvshmem_device_sm_90.bc of NVSHMEM 3.8"
        ))
    })?;
    let whole = temporary.0.join("whole.bc");
    for member in WHEEL.programs {
        WHEEL.unpack(&wheels, member, &whole)?;
    }
    let staged = temporary.0.join(FOLDER);
    fs::create_dir_all(&staged).map_err(io)?;
    let calls = temporary.0.join("stub.ll");
    fs::write(&calls, stub()).map_err(io)?;
    shell::run(
        Command::new(&linker)
            .arg("--only-needed")
            .arg(&calls)
            .arg(&whole)
            .arg("-o")
            .arg(staged.join(FILE)),
    )?;
    if fs::metadata(staged.join(FILE)).map_err(io)?.len() < LEAST_BYTES {
        return Err(Error::Environment(format!(
            "{} took next to nothing out of {}",
            linker.display(),
            WHEEL.requirement()
        )));
    }
    fs::write(staged.join("PINS"), pins()).map_err(io)?;
    let dir = dir();
    if dir.exists() && !is_complete() {
        fs::remove_dir_all(&dir).map_err(io)?;
    }
    match fs::rename(&staged, &dir) {
        Ok(()) => {}
        // Another set-up, run at the same time, was faster.
        Err(_) if is_complete() => {}
        Err(e) => return Err(io(e)),
    }
    eprintln!("NVSHMEM {} is in .tools/{FOLDER}", WHEEL.version);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_calls_every_function_as_it_is_declared() {
        let text = stub();
        for (name, params) in FUNCTIONS {
            assert!(text.contains(&format!("declare void @{name}({})", params.join(", "))));
            assert!(text.contains(&format!("call void @{name}(")));
        }
        assert!(pins().contains("sha256") && pins().ends_with("nvshmem_quiet\n"));
    }
}
