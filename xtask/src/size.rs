//! `cargo xtask size`: the runtime's binary as it is shipped stays small and starts at once.
//!
//! In: the profile `dist`. Out: size and start-up time of `mccrt`, and exit code 1 when one of them is above its
//! limit. What a deployed host needs is that file and a bundle (ARCHITECTURE.md, first invariant).

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::{shell, workspace};

/// 10 MB.
const MOST_BYTES: u64 = 10_000_000;
/// What a script may pay for calling it.
const LONGEST_START: Duration = Duration::from_millis(50);
/// The best of so many starts counts: the machine may have other work.
const STARTS: usize = 10;

#[derive(clap::Args)]
pub struct Args {}

pub fn main(_: &Args) -> Result<()> {
    check()
}

/// Builds, measures, compares.
pub fn check() -> Result<()> {
    let build = [
        "build",
        "--profile",
        "dist",
        "-p",
        "mcc-runtime",
        "--bin",
        "mccrt",
    ];
    shell::run(workspace::cargo().args(build))?;
    let name = format!("mccrt{}", std::env::consts::EXE_SUFFIX);
    let binary = workspace::target_dir()?.join("dist").join(name);
    let bytes = std::fs::metadata(&binary)
        .map_err(|err| Error::Step(format!("{}: {err}", binary.display())))?
        .len();
    let start = (0..STARTS)
        .map(|_| start_time(&binary))
        .collect::<Result<Vec<_>>>()?;
    let start = start.into_iter().min().unwrap_or_default();
    println!(
        "mccrt: {:.2} MB of at most {:.0}, starts in {:.1} ms of at most {}",
        bytes as f64 / 1e6,
        MOST_BYTES as f64 / 1e6,
        start.as_secs_f64() * 1e3,
        LONGEST_START.as_millis()
    );
    judge(bytes, start)
}

fn start_time(binary: &Path) -> Result<Duration> {
    let start = Instant::now();
    let status = Command::new(binary)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .map_err(|err| Error::Step(format!("{} does not start: {err}", binary.display())))?;
    if status.success() {
        Ok(start.elapsed())
    } else {
        Err(Error::Step(format!(
            "{} --version: {status}",
            binary.display()
        )))
    }
}

fn judge(bytes: u64, start: Duration) -> Result<()> {
    if bytes > MOST_BYTES {
        return Err(Error::Step(format!(
            "mccrt has {bytes} bytes, at most {MOST_BYTES} may be: `cargo bloat --profile dist -p mcc-runtime` says \
             what takes them"
        )));
    }
    if start > LONGEST_START {
        return Err(Error::Step(format!(
            "mccrt starts in {start:?}, at most {LONGEST_START:?} may be"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert!(judge(MOST_BYTES, LONGEST_START).is_ok());
        assert!(judge(MOST_BYTES + 1, Duration::ZERO).is_err());
        assert!(judge(0, LONGEST_START + Duration::from_nanos(1)).is_err());
    }
}
