//! `mccrt run`: continues prompts.

use mcc_runtime::{GenerateOptions, Generation, LogitRows, Sampling, generate, generate_on_ranks};
use serde_json::json;

use crate::args::{ModelArgs, RankArgs, ReportArgs};
use crate::{Failure, print_line};

/// Flags of `mccrt run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    ranks: RankArgs,
    /// A prompt, e.g. `42,79,260`. Several are continued one by one, or by several ranks in turn; each gives a line.
    #[arg(long, value_name = "IDS", required = true)]
    tokens: Vec<String>,
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
    let prompts: Vec<Vec<i32>> = args
        .tokens
        .iter()
        .map(|text| prompt(text))
        .collect::<Result<_, _>>()?;
    let options = |eos: &[i32]| GenerateOptions {
        max_tokens: args.max_tokens,
        chunk: args.model.chunk,
        sampling: Sampling {
            temperature: args.temperature,
            top_p: args.top_p,
            seed: args.seed,
        },
        eos: eos.to_vec(),
        prompt_logits: LogitRows::Last,
    };
    let show = |done: &Generation| {
        print_line(&json!({ "tokens": done.tokens, "stop": done.stop }).to_string());
    };
    if let Some(cluster) = args.model.cluster(&args.ranks)? {
        args.report.check_ranks()?;
        let load = |rank, device| args.model.load_rank(rank, device, &cluster);
        let options = options(&cluster.bundle.manifest.tokenizer.eos);
        let (done, report) = generate_on_ranks(&cluster.ranks, load, &prompts, &options)?;
        done.iter().for_each(show);
        args.report.end_ranks(&report);
        return Ok(());
    }
    let mut model = args.model.load()?;
    args.report.begin(&mut model)?;
    let options = options(&model.manifest().tokenizer.eos);
    let mut session = model.session()?;
    for prompt in &prompts {
        session.reset()?;
        show(&generate(&mut session, prompt, &options, &mut |_| ())?);
    }
    args.report.end(&mut model)
}

fn prompt(text: &str) -> Result<Vec<i32>, Failure> {
    let ids = text.split(',').map(str::trim);
    ids.map(|id| {
        id.parse()
            .map_err(|_| Failure::Usage(format!("--tokens {text}: `{id}` is not a token id")))
    })
    .collect()
}
