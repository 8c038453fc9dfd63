//! `cargo xtask test`: every check, in the order in which they fail fastest.
//!
//! Each step prints a heading and keeps cargo's own output; the first failure
//! ends the run. The times of the steps stand at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::setup::{self, Nvidia};
use crate::{shell, size, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Install what is missing without asking
    #[arg(long, short)]
    yes: bool,
}

struct Step {
    name: &'static str,
    args: &'static [&'static str],
    env: Option<(&'static str, &'static str)>,
}

const STEPS: [Step; 4] = [
    Step {
        name: "format",
        args: &["fmt", "--all", "--check"],
        env: None,
    },
    Step {
        name: "clippy",
        args: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        env: None,
    },
    Step {
        name: "tests",
        args: &["test", "--workspace"],
        env: None,
    },
    Step {
        name: "docs",
        args: &["doc", "--workspace", "--no-deps"],
        env: Some(("RUSTDOCFLAGS", "-D warnings")),
    },
];

pub fn main(args: &Args) -> Result<()> {
    let mut times = Vec::new();
    timed("set-up", &mut times, || {
        setup::ensure(args.yes, Nvidia::Pinned)?;
        require_components()
    })?;
    for step in &STEPS {
        timed(step.name, &mut times, || {
            let mut cargo = workspace::cargo();
            cargo.args(step.args).envs(step.env);
            shell::run(&mut cargo)
        })?;
    }
    timed("size", &mut times, size::check)?;
    let total: Duration = times.iter().map(|(_, t)| *t).sum();
    eprintln!("\nall checks passed");
    for (name, time) in times.iter().chain([&("total", total)]) {
        eprintln!("  {name:<8} {:>7.1} s", time.as_secs_f64());
    }
    Ok(())
}

fn timed(
    name: &'static str,
    times: &mut Vec<(&'static str, Duration)>,
    step: impl FnOnce() -> Result<()>,
) -> Result<()> {
    eprintln!("\n== {name}");
    let start = Instant::now();
    let outcome = step();
    let time = start.elapsed();
    times.push((name, time));
    eprintln!("== {name}: {:.1} s", time.as_secs_f64());
    outcome.map_err(|error| match error {
        Error::Step(text) => Error::Step(format!("{name}: {text}; later steps did not run")),
        environment => environment,
    })
}

/// rustup's minimal profile has neither rustfmt nor clippy.
fn require_components() -> Result<()> {
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(subcommand, _)| {
            let mut cargo: Command = workspace::cargo();
            shell::capture(cargo.args([subcommand, "--version"])).is_none()
        })
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Environment(format!(
        "this Rust toolchain lacks {0}; install with: rustup component add {0}",
        missing.join(" ")
    )))
}
