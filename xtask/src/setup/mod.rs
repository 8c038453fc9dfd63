//! `cargo xtask setup`: what a build needs and this machine lacks, installed.
//!
//! In: the machine. Out: LLVM and MLIR 22 with their headers where the build
//! looks for them, and NVIDIA's assembler; or an error that lists what is
//! missing and how to get it. Afterwards a second run changes nothing.
//!
//! - [`llvm`] knows which files a build needs and which package holds each.
//! - [`apt`] installs packages, after asking.
//! - [`nvidia`] keeps pinned `ptxas`, `nvdisasm` and `cuobjdump` in `.tools/`.
//! - [`nvshmem`] adds NVSHMEM's device library to them, for those who ask.

mod apt;
pub mod llvm;
pub mod nvidia;
pub mod nvshmem;

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::{shell, workspace};

/// What LLVM's packages take on disk, and a build of everything beside them.
const PACKAGES_MIB: u64 = 1800;
const BUILD_MIB: u64 = 6000;

#[derive(clap::Args)]
pub struct Args {
    /// Install without asking
    #[arg(long, short)]
    yes: bool,
    /// Say what is missing, install nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Fetch the pinned NVIDIA tools even where a CUDA toolkit is installed
    #[arg(long)]
    pinned_ptxas: bool,
    /// Also fetch NVSHMEM's device library (280 MB), which kernels over several nodes need to run on GPUs
    #[arg(long)]
    nvshmem: bool,
}

/// Which of NVIDIA's tools a chore needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Nvidia {
    /// Any `ptxas`, if it can be had: a toolkit's, or else the pinned ones.
    Any,
    /// The pinned versions, which the tests' expectations are about.
    Pinned,
}

pub fn main(args: &Args) -> Result<()> {
    let nvidia = if args.pinned_ptxas {
        Nvidia::Pinned
    } else {
        Nvidia::Any
    };
    if args.dry_run {
        return dry_run(nvidia, args.nvshmem);
    }
    ensure(args.yes, nvidia)?;
    if args.nvshmem {
        nvshmem::fetch(&llvm::Prefixes::from_env())?;
    }
    summary();
    Ok(())
}

/// Installs what is missing; prints nothing when all is there.
pub fn ensure(yes: bool, nvidia: Nvidia) -> Result<()> {
    let fetch = nvidia::needed(nvidia);
    let packages = missing_packages(fetch)?;
    if !packages.is_empty() {
        require_disk(Path::new("/usr"), PACKAGES_MIB)?;
        apt::install(&packages, yes)?;
        let still = missing_packages(fetch)?;
        if !still.is_empty() {
            return Err(Error::Environment(format!(
                "apt-get installed its packages, but files of these are still not there: {}",
                still.join(" ")
            )));
        }
    }
    if fetch {
        match nvidia::fetch() {
            // Without ptxas everything works but cubins and the tests of it.
            Err(error) if nvidia == Nvidia::Any => eprintln!("warning: {error}"),
            outcome => outcome?,
        }
    }
    warn_of_full_disk()
}

fn dry_run(nvidia: Nvidia, with_nvshmem: bool) -> Result<()> {
    let fetch = nvidia::needed(nvidia);
    let packages = missing_packages(fetch)?;
    if !packages.is_empty() {
        println!("would install with apt-get: {}", packages.join(" "));
    }
    if fetch && !nvidia::is_complete() {
        println!("would fetch from PyPI: {}", nvidia::pins().join(" "));
    }
    if with_nvshmem && !nvshmem::is_complete() {
        println!("would fetch from PyPI: {}", nvshmem::pin());
    }
    summary();
    Ok(())
}

/// The packages to install, in the order of the table, or an error where apt
/// is not the way to get them.
fn missing_packages(fetch_nvidia: bool) -> Result<Vec<&'static str>> {
    let prefixes = llvm::Prefixes::from_env();
    let missing = llvm::missing(Path::new("/"), &prefixes);
    prefixes.explain_foreign(&missing)?;
    let mut packages: Vec<&'static str> = missing.iter().map(|piece| piece.package).collect();
    packages.dedup();
    // HiGHS, the solver of the optimiser's integer programs, is built from source with these.
    for (program, package) in [("c++", "g++"), ("cmake", "cmake"), ("make", "make")] {
        if shell::on_path(program).is_none() {
            packages.push(package);
        }
    }
    if fetch_nvidia && !nvidia::is_complete() && apt::is_here() {
        packages.extend(nvidia::missing_packages());
    }
    if packages.is_empty() || apt::is_here() {
        return Ok(packages);
    }
    Err(Error::Environment(llvm::by_hand(&missing, &packages)))
}

fn summary() {
    let version = |program: &str| {
        shell::capture(Command::new(program).arg("--version"))
            .and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_else(|| "not found".to_owned())
    };
    println!("{:<12} {}", "rust", version("rustc"));
    println!("{:<12} {}", "C++", version("c++"));
    println!("{:<12} {}", "cmake", version("cmake"));
    for line in llvm::Prefixes::from_env().describe() {
        println!("{line}");
    }
    for line in nvidia::describe() {
        println!("{line}");
    }
    println!("{}", nvshmem::describe());
    if let Some(free) = free_mib(workspace::root()) {
        println!(
            "{:<12} {:.1} GiB free for builds",
            "disk",
            free as f64 / 1024.0
        );
    }
}

fn require_disk(path: &Path, mib: u64) -> Result<()> {
    match free_mib(path) {
        Some(free) if free < mib => Err(Error::Environment(format!(
            "{} has {free} MiB free; LLVM's packages need about {mib} MiB",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn warn_of_full_disk() -> Result<()> {
    let target = workspace::target_dir()?;
    let existing = target.ancestors().find(|dir| dir.is_dir());
    if !target.is_dir()
        && let Some(free) = existing.and_then(free_mib)
        && free < BUILD_MIB
    {
        eprintln!(
            "warning: {} has {free} MiB free; a build of everything takes about {BUILD_MIB} MiB",
            target.display()
        );
    }
    Ok(())
}

/// Free space of the file system that holds `path`, from POSIX `df`.
fn free_mib(path: &Path) -> Option<u64> {
    let text = shell::capture(Command::new("df").arg("-Pk").arg(path))?;
    let free_kib: u64 = text
        .lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse()
        .ok()?;
    Some(free_kib / 1024)
}
