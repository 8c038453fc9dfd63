//! `cargo xtask mutate`: plants bugs into the kernels of the example checkpoint and counts what the simulator reports.
//!
//! In: the options of `mcc-mutate`, which are handed on. Out: its report.
//! Holds: the bundle is built by the `mcc` of this checkout, which is built first when it is not there.

use std::path::PathBuf;

use crate::error::Result;
use crate::{shell, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// A bundle to take kernels from, in place of the example checkpoint's
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// Options of `mcc-mutate`: --kernels, --kinds, --each, --seeds, --limit, --originals, --json, --markdown, ...
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn main(args: &Args) -> Result<()> {
    let bundle = match &args.bundle {
        Some(path) => path.clone(),
        None => example()?,
    };
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "-p", "mcc-mutate", "--"]);
    shell::run(cargo.arg(bundle).args(&args.rest))
}

/// The bundle of the example checkpoint, built anew.
fn example() -> Result<PathBuf> {
    let bundle = workspace::target_dir()?.join("mutate.mccb");
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "-p", "mcc", "--", "build", "--no-cubin"]);
    shell::run(cargo.arg("examples/tiny-v3").arg("-o").arg(&bundle))?;
    Ok(bundle)
}
