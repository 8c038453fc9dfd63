//! `cargo xtask bench`: how fast the parts of the project are on this machine.
//!
//! In: which part. Out: its figures on the terminal, beside their aims. They
//! are measured, not judged: a machine with other work is slower.

use clap::ValueEnum;

use crate::error::Result;
use crate::{shell, workspace};

#[derive(clap::Args)]
pub struct Args {
    part: Part,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// The simulated device: instructions, tensor cores, scaling, checkers
    Sim,
}

pub fn main(args: &Args) -> Result<()> {
    match args.part {
        Part::Sim => shell::run(workspace::cargo().args([
            "run",
            "--release",
            "--quiet",
            "-p",
            "mcc-sim",
            "--example",
            "speed",
        ])),
    }
}
