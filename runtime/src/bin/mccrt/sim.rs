//! `mccrt sim`: one kernel of any compiler on the simulated device.

use mcc_sim_run::cli::{EXIT_CODES, SimFlags};

use crate::{Failure, print_line};

/// Flags of `mccrt sim`.
#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    flags: SimFlags,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    let answer = args.flags.run()?;
    print_line(answer.text.trim_end());
    if answer.passed {
        Ok(())
    } else {
        Err(Failure::Kernel)
    }
}
