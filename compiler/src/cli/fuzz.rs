//! `mcc fuzz`: random models through the optimiser, code generation and the simulated device, against the evaluator.

use super::print_line;
use crate::error::Error;
use crate::fuzz::check;

/// Flags of `mcc fuzz`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How many models.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Seed of the first; the others follow.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut wrong = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.count) {
        let outcome = check(seed)?;
        print_line(&outcome.to_string());
        if outcome.wrong.is_some() {
            wrong.push(seed.to_string());
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let seeds = wrong.join(", ");
    Err(Error::Fuzz { seeds })
}
