//! `mcc eval`: mean negative log-likelihood of a text, in windows.

use std::path::PathBuf;

use mcc_runtime::{EvalReport, evaluate, evaluate_on_ranks};
use serde_json::json;

use super::model::{
    ModelArgs, Ranks, Ready, bar, encode, load, one_rank, print_rank_stats, print_stats,
};
use super::print_line;
use crate::error::Error;

/// Flags of `mcc eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text file, UTF-8; tokenised without special tokens.
    #[arg(long)]
    text: PathBuf,
    /// Tokens of a window. Windows follow each other; a window's tokens predict its next ones, the last one
    /// the first of the following window.
    #[arg(long, default_value_t = 256)]
    context: usize,
    /// Prints `{"nll": …, "tokens": …}`.
    #[arg(long)]
    json: bool,
    /// Prints times, memory and launches to standard error.
    #[arg(long)]
    stats: bool,
    /// Writes a time line for Perfetto (ui.perfetto.dev). Launches are timed one by one, without graphs.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let text = std::fs::read_to_string(&args.text).map_err(Error::io("read", &args.text))?;
    let mut loaded = match load(&args.model)? {
        Ready::One(loaded) => *loaded,
        Ready::Ranks(ranks) => return on_ranks(args, &ranks, &text),
    };
    let tokens = encode(&loaded.tokenizer, &text)?;
    if let Some(path) = &args.trace {
        loaded.model.start_trace_to(path)?;
    }
    let bar = bar("tokens scored");
    let report = evaluate(
        &mut loaded.model.session()?,
        &tokens,
        args.context,
        args.model.chunk,
        &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        },
    );
    bar.finish_and_clear();
    let report = report?;
    print_report(args, &report);
    if let Some(path) = &args.trace {
        loaded.model.write_trace(path)?;
    }
    if args.stats {
        print_stats(&loaded);
    }
    Ok(())
}

fn on_ranks(args: &Args, ranks: &Ranks, text: &str) -> Result<(), Error> {
    one_rank("--trace", args.trace.is_some())?;
    let tokens = encode(&ranks.tokenizer, text)?;
    let load = |rank, device| ranks.load(rank, device);
    let (context, chunk) = (args.context, args.model.chunk);
    let (report, all) = evaluate_on_ranks(&ranks.cluster, load, &tokens, context, chunk)?;
    print_report(args, &report);
    if args.stats {
        print_rank_stats(ranks.build, &all);
    }
    Ok(())
}

fn print_report(args: &Args, report: &EvalReport) {
    if args.json {
        print_line(&json!(report).to_string());
    } else {
        print_line(&format!(
            "mean negative log-likelihood {:.5} nats over {} tokens",
            report.nll, report.tokens
        ));
    }
}
