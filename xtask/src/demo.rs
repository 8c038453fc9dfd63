//! `cargo xtask demo`: from a bare clone to generated text.
//!
//! Set-up, release build of `mcc`, then the three commands that a user would
//! type: build a bundle from the example checkpoint, look into it, run it on
//! the simulated device. Every command line is printed before it runs.

use std::process::Command;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::setup::{self, Nvidia};
use crate::{shell, workspace};

const CHECKPOINT: &str = "examples/tiny-v3";
const PROMPT: &str = "In the beginning God created";

#[derive(clap::Args)]
pub struct Args {
    /// Install what is missing without asking
    #[arg(long, short)]
    yes: bool,
    /// The text to continue
    #[arg(long, default_value = PROMPT)]
    prompt: String,
    /// How many tokens to generate
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
}

pub fn main(args: &Args) -> Result<()> {
    let start = Instant::now();
    setup::ensure(args.yes, Nvidia::Any)?;

    shell::run(workspace::cargo().args(["build", "--release", "-p", "mcc"]))?;

    let target_dir = workspace::target_dir()?;
    let mcc = target_dir.join("release/mcc");
    let mcc = workspace::from_root(&mcc);
    let demo_dir = target_dir.join("demo");
    std::fs::create_dir_all(&demo_dir)
        .map_err(|e| Error::Environment(format!("cannot create {}: {e}", demo_dir.display())))?;
    let bundle = demo_dir.join("tiny-v3.mccb");
    let bundle = workspace::from_root(&bundle);

    let command = || {
        let mut command = Command::new(mcc);
        command.current_dir(workspace::root());
        command
    };
    eprintln!("\n-- compile the checkpoint to Hopper PTX");
    shell::run(command().arg("build").arg(CHECKPOINT).arg("-o").arg(bundle))?;
    eprintln!("\n-- what is in the bundle");
    shell::run(command().arg("inspect").arg(bundle))?;
    eprintln!("\n-- generate text by running that PTX on the simulated device");
    shell::run(
        command()
            .arg("run")
            .arg(bundle)
            .args(["--weights", CHECKPOINT, "--prompt", &args.prompt])
            .args(["--max-tokens", &args.max_tokens.to_string(), "--stats"]),
    )?;
    eprintln!("\ndemo finished in {:.0?}", start.elapsed());
    Ok(())
}
