//! `cargo xtask ptxas-report`: what NVIDIA's assembler says about PTX files.
//!
//! In: PTX files. Out: for each file, each `ptxas` and each kernel, one line
//! with registers, barriers, shared memory and spills, then every message. A
//! spill, a message that is not the usual chatter, or a refused file makes the
//! exit code 1: among them are serialised `wgmma` (C7508, C7510, C7517) and an
//! ignored `setmaxnreg`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::setup::{self, Nvidia, nvidia};
use crate::workspace;

#[derive(clap::Args)]
pub struct Args {
    /// PTX files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The architecture to assemble for
    #[arg(long, default_value = "sm_90a")]
    arch: String,
}

/// What `ptxas -v` says about one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    kernels: Vec<Kernel>,
    messages: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Kernel {
    name: String,
    registers: u32,
    barriers: u32,
    smem_bytes: u32,
    stack_bytes: u32,
    spill_store_bytes: u32,
    spill_load_bytes: u32,
}

pub fn main(args: &Args) -> Result<()> {
    let mut clean = true;
    let assemblers = assemblers()?;
    for file in &args.files {
        if !file.is_file() {
            return Err(Error::Step(format!("there is no file {}", file.display())));
        }
        println!("{}", file.display());
        for ptxas in &assemblers {
            clean &= report(ptxas, file, &args.arch)?;
        }
    }
    if clean {
        Ok(())
    } else {
        Err(Error::Step("ptxas found fault; see above".to_owned()))
    }
}

/// `$MCC_PTXAS` alone where it is set; else both pinned versions; else what
/// an installed toolkit has.
fn assemblers() -> Result<Vec<PathBuf>> {
    if std::env::var_os("MCC_PTXAS").is_none() {
        setup::ensure(false, Nvidia::Pinned)?;
        let pinned = nvidia::pinned_ptxas();
        if !pinned.is_empty() {
            return Ok(pinned);
        }
    }
    nvidia::toolkit_ptxas()
        .map(|file| vec![file])
        .ok_or_else(|| {
            Error::Environment(
                "no ptxas: install a CUDA toolkit, or set MCC_PTXAS to an executable ptxas"
                    .to_owned(),
            )
        })
}

fn report(ptxas: &Path, file: &Path, arch: &str) -> Result<bool> {
    let cubin = std::env::temp_dir().join(format!("xtask-{}.cubin", std::process::id()));
    let output = Command::new(ptxas)
        .arg(format!("-arch={arch}"))
        .args(["-v", "-o"])
        .arg(&cubin)
        .arg(file)
        .output()
        .map_err(|e| Error::Environment(format!("cannot start {}: {e}", ptxas.display())))?;
    let _ = std::fs::remove_file(&cubin);

    let version =
        nvidia::version(ptxas).unwrap_or_else(|| workspace::from_root(ptxas).display().to_string());
    println!(
        "  ptxas {version}{}",
        if output.status.success() {
            ""
        } else {
            ": refused"
        }
    );
    let text = [output.stdout, output.stderr].concat();
    let report = parse(&String::from_utf8_lossy(&text));
    for k in &report.kernels {
        println!(
            "    {}: {} registers, {} barriers, {} B shared, {} B stack, spills {} B stored {} B loaded",
            k.name,
            k.registers,
            k.barriers,
            k.smem_bytes,
            k.stack_bytes,
            k.spill_store_bytes,
            k.spill_load_bytes
        );
    }
    for message in &report.messages {
        println!("    {message}");
    }
    Ok(output.status.success() && report.is_clean())
}

impl Report {
    fn is_clean(&self) -> bool {
        let spills = |k: &Kernel| k.spill_store_bytes + k.spill_load_bytes > 0;
        self.messages.is_empty() && !self.kernels.iter().any(spills)
    }
}

/// Reads the usual lines into numbers; whatever is left is a message.
fn parse(text: &str) -> Report {
    let mut report = Report::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let info = line
            .strip_prefix("ptxas info")
            .map(|rest| rest.trim_start_matches([' ', ':']));
        if let Some(entry) = info.and_then(|i| i.strip_prefix("Compiling entry function '")) {
            report.kernels.push(Kernel {
                name: entry.split('\'').next().unwrap_or(entry).to_owned(),
                ..Kernel::default()
            });
            continue;
        }
        if let Some(kernel) = report.kernels.last_mut() {
            if let Some(used) = info.and_then(|i| i.strip_prefix("Used ")) {
                kernel.registers = number_before(used, "registers");
                kernel.barriers = number_before(used, "barriers");
                kernel.smem_bytes = number_before(used, "bytes smem");
                continue;
            }
            if line.contains("bytes stack frame") {
                kernel.stack_bytes = number_before(line, "bytes stack frame");
                kernel.spill_store_bytes = number_before(line, "bytes spill stores");
                kernel.spill_load_bytes = number_before(line, "bytes spill loads");
                continue;
            }
        }
        let chatter = [
            "Function properties for",
            "bytes gmem",
            "Compile time",
            "Overriding",
        ];
        if !info.is_some_and(|i| chatter.iter().any(|c| i.contains(c))) {
            report.messages.push(line.to_owned());
        }
    }
    report
}

/// The number in front of `unit`, or 0 where the line has none.
fn number_before(line: &str, unit: &str) -> u32 {
    line.split_once(unit)
        .and_then(|(before, _)| before.split_whitespace().last()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gemm' for 'sm_90a'
ptxas info    : Function properties for gemm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 3 barriers, 256 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 3.053 ms
";

    #[test]
    fn usual_lines_become_numbers() {
        let report = parse(CLEAN);
        assert!(report.is_clean());
        assert_eq!(report.kernels.len(), 1);
        let kernel = &report.kernels[0];
        assert_eq!(kernel.name, "gemm");
        assert_eq!(
            (kernel.registers, kernel.barriers, kernel.smem_bytes),
            (168, 3, 256)
        );
    }

    #[test]
    fn a_spill_is_fault() {
        let report = parse(&CLEAN.replace("0 bytes spill loads", "24 bytes spill loads"));
        assert_eq!(report.kernels[0].spill_load_bytes, 24);
        assert!(!report.is_clean());
    }

    #[test]
    fn an_ignored_hint_is_fault() {
        let message = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; \
                       unable to determine register count at entry.";
        let report = parse(&format!("{message}\n{CLEAN}"));
        assert_eq!(report.messages, [message]);
        assert!(!report.is_clean());
    }
}
