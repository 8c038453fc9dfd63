//! `mcc explain`: why the compiler chooses what it chooses.

use mcc_passes::heuristics::gemm::choose;
use mcc_passes::target::Target;
use serde_json::json;

use super::print_line;
use crate::error::Error;
use crate::gemm::problems::ProblemFlags;

/// Flags of `mcc explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    problem: ProblemFlags,
    /// The GPU to choose for: h800, h100 or h200.
    #[arg(long, default_value = "h100")]
    target: String,
    /// Lists every candidate, not only the best twelve.
    #[arg(long)]
    all: bool,
    /// Prints JSON: all candidates with all terms.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let problem = args.problem.problem()?.ok_or_else(|| {
        Error::Usage("name what to explain, for example --gemm 64,7168,2048".to_owned())
    })?;
    let target = Target::load(&args.target)?;
    let choice = choose(problem, &target);
    if args.json {
        let candidates: Vec<_> = choice
            .candidates
            .iter()
            .map(|e| json!({"estimate": e, "microseconds": choice.microseconds(e.cycles)}))
            .collect();
        print_line(
            &json!({
                "problem": choice.problem, "target": choice.target, "clock_hz": choice.clock_hz,
                "chosen": choice.best(), "tuned": choice.tuned, "tuned_is_used": choice.tuned_fits,
                "reason": choice.reason(), "candidates": candidates,
            })
            .to_string(),
        );
    } else if args.all {
        print_line(choice.table(usize::MAX).trim_end());
    } else {
        print_line(choice.to_string().trim_end());
    }
    Ok(())
}
