//! `mccrt eval`: how well a model predicts token ids.

use std::path::{Path, PathBuf};

use mcc_runtime::{evaluate, evaluate_on_ranks};
use serde_json::json;

use crate::args::{ModelArgs, RankArgs, ReportArgs};
use crate::{Failure, print_line};

/// Flags of `mccrt eval`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    ranks: RankArgs,
    /// A file of token ids with commas or white space between them.
    #[arg(long)]
    tokens: PathBuf,
    /// Tokens of a window.
    #[arg(long, default_value_t = 256)]
    context: usize,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    let tokens = read_tokens(&args.tokens)?;
    if let Some(cluster) = args.model.cluster(&args.ranks)? {
        args.report.check_ranks()?;
        let load = |rank, device| args.model.load_rank(rank, device, &cluster);
        let (context, chunk) = (args.context, args.model.chunk);
        let (report, ranks) = evaluate_on_ranks(&cluster.ranks, load, &tokens, context, chunk)?;
        print_line(&json!(report).to_string());
        args.report.end_ranks(&ranks);
        return Ok(());
    }
    let mut model = args.model.load()?;
    args.report.begin(&mut model)?;
    let report = evaluate(
        &mut model.session()?,
        &tokens,
        args.context,
        args.model.chunk,
        &mut |_, _| (),
    )?;
    print_line(&json!(report).to_string());
    args.report.end(&mut model)
}

fn read_tokens(path: &Path) -> Result<Vec<i32>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    })?;
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse().map_err(|_| Failure::BadTokens {
                path: path.to_owned(),
                word: word.to_owned(),
            })
        })
        .collect()
}
