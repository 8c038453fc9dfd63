//! `mccrt run`: continues a prompt.

use mcc_runtime::{GenerateOptions, LogitRows, Sampling, generate};
use serde_json::json;

use crate::args::{ModelArgs, ReportArgs};
use crate::{Failure, print_line};

/// Flags of `mccrt run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// The prompt, e.g. `42,79,260`.
    #[arg(long, value_delimiter = ',', required = true)]
    tokens: Vec<i32>,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// 0 takes the most probable token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Probability mass to choose from.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Of the random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut model = args.model.load()?;
    args.report.begin(&mut model)?;
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        chunk: args.model.chunk,
        sampling: Sampling {
            temperature: args.temperature,
            top_p: args.top_p,
            seed: args.seed,
        },
        eos: model.manifest().tokenizer.eos.clone(),
        prompt_logits: LogitRows::Last,
    };
    let generation = generate(&mut model.session()?, &args.tokens, &options, &mut |_| ())?;
    print_line(&json!({ "tokens": generation.tokens, "stop": generation.stop }).to_string());
    args.report.end(&mut model)
}
