//! `cargo xtask gpu-kit`: a folder that proves and measures a GPU host with one command and no network.
//!
//! In: the checkout, a compiler. Out: the folder and its `.tar.gz`. Afterwards the folder has at most 60 MB, runs on
//! x86-64 Linux with glibc 2.36 or newer, and holds what the simulated device expects of the GPU.
//!
//! - What goes in: `mccrt` and `mcckit`, a bundle of the example checkpoint and one of everything in `bench/models/`,
//!   the checkpoint, peers' scripts, [docs/gpu-kit.md] as its README.
//! - `mcckit pack` adds the expectations and the list of files with their hashes.
//!
//! [docs/gpu-kit.md]: ../../docs/gpu-kit.md

mod elf;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::setup::{self, Nvidia};
use crate::{shell, workspace};

const CHECKPOINT: &str = "examples/tiny-v3";
/// Files of the checkpoint that a run needs.
const CHECKPOINT_FILES: [&str; 3] = ["config.json", "generation_config.json", "model.safetensors"];
const PROMPTS: &str = "examples/tiny-v3/reference/reference.json";
const MODELS: &str = "bench/models";
const PEERS: &str = "bench/peers";
const SHAPES: &str = "bench/shapes.json";
const RUN_SCRIPT: &str = "runtime/kit/run.sh";
const README: &str = "docs/gpu-kit.md";
/// Marks a folder as a kit.
const LIST: &str = "kit.json";

/// Most bytes of the folder.
const MOST_BYTES: u64 = 60_000_000;
/// Most bytes of `mccrt`.
const MOST_RUNTIME_BYTES: u64 = 10_000_000;
/// The newest glibc whose symbols the programs may use.
const GLIBC: (u32, u32) = (2, 36);

#[derive(clap::Args)]
pub struct Args {
    /// The folder to make [default: gpu-kit/mcc-gpu-kit in cargo's target folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// A compiler that is already built [default: built by this command, which takes minutes]
    #[arg(long)]
    mcc: Option<PathBuf>,
    /// The GPU to compile for: h800, h100 or h200
    #[arg(long, default_value = "h100")]
    target: String,
    /// Tokens that the simulated device generates after each prompt
    #[arg(long, default_value_t = 24)]
    steps: u32,
    /// Install what is missing without asking
    #[arg(long, short)]
    yes: bool,
    /// Afterwards unpack the archive in an empty folder and run it there, as far as this machine can
    #[arg(long)]
    try_it: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let target_dir = workspace::target_dir()?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => target_dir.join("gpu-kit/mcc-gpu-kit"),
    };
    let mcc = match &args.mcc {
        Some(mcc) if shell::is_executable(mcc) => mcc.clone(),
        Some(mcc) => {
            return Err(Error::Environment(format!(
                "{} is no program",
                mcc.display()
            )));
        }
        None => {
            setup::ensure(args.yes, Nvidia::Any)?;
            shell::run(workspace::cargo().args(["build", "--release", "-p", "mcc"]))?;
            target_dir.join("release/mcc")
        }
    };
    let mcc = absolute(&mcc)?;
    for (package, binary) in [("mcc-runtime", "mccrt"), ("mcc-kit", "mcckit")] {
        shell::run(workspace::cargo().args([
            "build",
            "--profile",
            "dist",
            "-p",
            package,
            "--bin",
            binary,
        ]))?;
    }

    empty(&out)?;
    let programs = target_dir.join("dist");
    for binary in ["mccrt", "mcckit"] {
        copy(&programs.join(binary), &out.join(binary))?;
    }
    copy(&workspace::root().join(RUN_SCRIPT), &out.join("run"))?;
    copy(&workspace::root().join(README), &out.join("README.md"))?;
    copy_peers(&out)?;
    let checkpoint = workspace::root().join(CHECKPOINT);
    let name = stem(&checkpoint);
    for file in CHECKPOINT_FILES {
        copy(
            &checkpoint.join(file),
            &out.join("weights").join(&name).join(file),
        )?;
    }
    for source in sources()? {
        let bundle = out.join("bundles").join(format!("{}.mccb", stem(&source)));
        make_parent(&bundle)?;
        let mut build = Command::new(&mcc);
        build
            .current_dir(workspace::root())
            .arg("build")
            .arg(workspace::from_root(&source));
        shell::run(
            build
                .args(["--target", &args.target, "-o"])
                .arg(absolute(&bundle)?),
        )?;
    }

    eprintln!("\n-- what the simulated device expects");
    shell::run(
        Command::new(absolute(&out.join("mcckit"))?)
            .arg("pack")
            .args([
                "--commit",
                &commit(),
                "--steps",
                &args.steps.to_string(),
                "--prompts",
            ])
            .arg(workspace::root().join(PROMPTS)),
    )?;
    check(&out)?;
    let archive = archive(&out)?;
    eprintln!(
        "\n{}: {:.1} MB; {}: {:.1} MB",
        out.display(),
        size(&out)? as f64 / 1e6,
        archive.display(),
        size(&archive)? as f64 / 1e6
    );
    if args.try_it {
        try_it(&archive, &target_dir)
    } else {
        Ok(())
    }
}

/// The checkpoint, and every file and folder of [`MODELS`].
fn sources() -> Result<Vec<PathBuf>> {
    let mut sources = vec![workspace::root().join(CHECKPOINT)];
    sources.extend(entries(&workspace::root().join(MODELS))?);
    Ok(sources)
}

fn copy_peers(out: &Path) -> Result<()> {
    for script in entries(&workspace::root().join(PEERS))? {
        if script
            .extension()
            .is_some_and(|extension| extension == "py")
        {
            copy(
                &script,
                &out.join("peers")
                    .join(script.file_name().unwrap_or_default()),
            )?;
        }
    }
    copy(
        &workspace::root().join(SHAPES),
        &out.join("peers/shapes.json"),
    )
}

/// What a kit must hold to be handed out.
fn check(out: &Path) -> Result<()> {
    for binary in ["mccrt", "mcckit"] {
        let bytes = read(&out.join(binary))?;
        match elf::newest_glibc(&bytes) {
            Some(version) if version <= GLIBC => {}
            Some((major, minor)) => {
                return Err(Error::Step(format!(
                    "{binary} needs glibc {major}.{minor}, hosts may have {}.{}; build the kit on an older system",
                    GLIBC.0, GLIBC.1
                )));
            }
            None => {
                return Err(Error::Step(format!(
                    "{binary} names no version of glibc; is it a Linux program?"
                )));
            }
        }
    }
    limit("mccrt", size(&out.join("mccrt"))?, MOST_RUNTIME_BYTES)?;
    limit("the kit", size(out)?, MOST_BYTES)?;
    let list: serde_json::Value = serde_json::from_slice(&read(&out.join(LIST))?)
        .map_err(|err| Error::Step(format!("{LIST}: {err}")))?;
    for bundle in list["bundles"].as_array().into_iter().flatten() {
        if bundle["cubins"] != true {
            eprintln!(
                "warning: bundle {} has no machine code, since no ptxas was found; the driver will compile its PTX, \
                 which costs the kit some of its minutes (`cargo xtask setup` fetches ptxas)",
                bundle["name"]
            );
        }
    }
    Ok(())
}

fn limit(what: &str, bytes: u64, most: u64) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    Err(Error::Step(format!(
        "{what} has {:.1} MB, at most {:.0} MB are allowed",
        bytes as f64 / 1e6,
        most as f64 / 1e6
    )))
}

/// The folder as one file. The same files give the same bytes.
fn archive(out: &Path) -> Result<PathBuf> {
    let name = stem(out);
    let parent = absolute(out.parent().unwrap_or(Path::new(".")))?;
    let archive = parent.join(format!("{name}.tar.gz"));
    shell::run(
        Command::new("tar")
            .args([
                "--sort=name",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "--mtime=@0",
                "-C",
            ])
            .arg(&parent)
            .arg("-czf")
            .arg(&archive)
            .arg(&name),
    )?;
    Ok(archive)
}

/// Unpacks in an empty folder and runs there: exit code 0, or 3 where this machine lacks a GPU.
fn try_it(archive: &Path, target_dir: &Path) -> Result<()> {
    let dir = target_dir.join("gpu-kit/try");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(io(&dir))?;
    }
    std::fs::create_dir_all(&dir).map_err(io(&dir))?;
    eprintln!("\n-- unpack and run in {}", dir.display());
    shell::run(
        Command::new("tar")
            .arg("-xzf")
            .arg(absolute(archive)?)
            .current_dir(&dir),
    )?;
    let run = entries(&dir)?
        .into_iter()
        .next()
        .unwrap_or_default()
        .join("run");
    let status = Command::new(&run)
        .status()
        .map_err(|err| Error::Step(format!("{}: {err}", run.display())))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(3) => {
            eprintln!("nothing failed; what was skipped is listed above");
            Ok(())
        }
        _ => Err(Error::Step(format!("the kit's `run` ended with {status}"))),
    }
}

/// An empty folder; what was there must have been a kit.
fn empty(out: &Path) -> Result<()> {
    if out.exists() {
        let is_kit = out.join(LIST).exists() || out.join("mcckit").exists();
        if !is_kit && !entries(out)?.is_empty() {
            return Err(Error::Step(format!(
                "{} is not empty and no kit; name another folder",
                out.display()
            )));
        }
        std::fs::remove_dir_all(out).map_err(io(out))?;
    }
    std::fs::create_dir_all(out).map_err(io(out))
}

fn commit() -> String {
    let git = |args: &[&str]| {
        shell::capture(
            Command::new("git")
                .args(args)
                .current_dir(workspace::root()),
        )
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|text| !text.trim().is_empty());
    format!("{}{}", commit.trim(), if changed { "-changed" } else { "" })
}

/// Bytes of a file, or of all files below a folder.
fn size(path: &Path) -> Result<u64> {
    if path.is_dir() {
        return entries(path)?.iter().map(|entry| size(entry)).sum();
    }
    Ok(std::fs::metadata(path).map_err(io(path))?.len())
}

/// The entries of a folder in the order of their names, without hidden ones.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        let entry = entry.map_err(io(dir))?;
        if !entry.file_name().to_string_lossy().starts_with(['.', '_']) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    std::fs::copy(from, to).map(|_| ()).map_err(|err| {
        Error::Step(format!(
            "cannot copy {} to {}: {err}",
            from.display(),
            to.display()
        ))
    })
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(io(parent))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(io(path))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(io(path))
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |err| Error::Step(format!("{}: {err}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_that_is_too_large_is_refused() {
        assert!(limit("the kit", MOST_BYTES, MOST_BYTES).is_ok());
        let error = limit("the kit", 61_000_000, MOST_BYTES)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "the kit has 61.0 MB, at most 60 MB are allowed");
    }

    #[test]
    fn a_folder_that_is_no_kit_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("thesis.tex");
        std::fs::write(&file, "text").unwrap();
        assert!(empty(dir.path()).is_err());
        assert!(file.exists());
        std::fs::write(dir.path().join(LIST), "{}").unwrap();
        empty(dir.path()).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn what_the_kit_is_made_of_is_there() {
        for source in sources().unwrap() {
            assert!(source.exists(), "{}", source.display());
        }
        for path in [RUN_SCRIPT, README, PROMPTS, SHAPES] {
            assert!(workspace::root().join(path).is_file(), "{path}");
        }
        for file in CHECKPOINT_FILES {
            assert!(
                workspace::root().join(CHECKPOINT).join(file).is_file(),
                "{file}"
            );
        }
    }

    #[test]
    fn an_archive_unpacks_to_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let kit = dir.path().join("kit");
        copy(&workspace::root().join(RUN_SCRIPT), &kit.join("run")).unwrap();
        let first = archive(&kit).unwrap();
        let bytes = read(&first).unwrap();
        assert_eq!(
            read(&archive(&kit).unwrap()).unwrap(),
            bytes,
            "the same files give the same bytes"
        );
        let into = dir.path().join("into");
        std::fs::create_dir(&into).unwrap();
        shell::run(
            Command::new("tar")
                .arg("-xzf")
                .arg(&first)
                .current_dir(&into),
        )
        .unwrap();
        assert!(shell::is_executable(&into.join("kit/run")));
    }
}
