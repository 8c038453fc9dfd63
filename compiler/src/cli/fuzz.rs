//! `mcc fuzz`: random models through the optimiser, code generation and the simulated device, against the evaluator.

use super::print_line;
use crate::error::Error;
use crate::fuzz::{Fuzzer, Outcome};

/// Flags of `mcc fuzz`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How many models.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Seed of the first; the others follow.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Models that are checked at once; 0 for one on each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let seeds = args.seed..args.seed.saturating_add(args.count);
    let mut wrong = Vec::new();
    Fuzzer::default().check_all(seeds, args.threads, |seed, outcome| {
        match &outcome {
            Ok(outcome) => print_line(&outcome.to_string()),
            Err(refused) => print_line(&format!("seed {seed}: {refused}")),
        }
        if !matches!(outcome, Ok(Outcome { wrong: None, .. })) {
            wrong.push(seed);
        }
    });
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.sort_unstable();
    let seeds = wrong.iter().map(u64::to_string).collect::<Vec<_>>();
    Err(Error::Fuzz {
        seeds: seeds.join(", "),
    })
}
