//! `mccrt serve`: answers requests of standard input, one a line.

use mcc_runtime::{ServeOptions, serve};

use crate::Failure;
use crate::args::{ModelArgs, ReportArgs};

/// Flags of `mccrt serve`.
#[derive(clap::Args)]
#[command(
    after_help = "A request is a line, either of token ids with commas between them, or JSON:\n\
    {\"id\": 7, \"tokens\": [42, 79], \"max_tokens\": 8, \"temperature\": 0.7, \"top_p\": 0.9, \"seed\": 1}\n\
    Its answer is a line of JSON with `tokens` and `stop`, or with `error`."
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Most tokens to generate where a request does not say.
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// Also writes each token as it comes, in a line of its own.
    #[arg(long)]
    stream: bool,
    /// Computes every prompt from its first token.
    #[arg(long)]
    no_reuse: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut model = args.model.load()?;
    args.report.begin(&mut model)?;
    let options = ServeOptions {
        max_tokens: args.max_tokens,
        chunk: args.model.chunk,
        stream: args.stream,
        reuse: !args.no_reuse,
    };
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    let served = serve(&mut model, &mut input, &mut output, &options)?;
    eprintln!("{} answered, {} refused", served.answers, served.errors);
    args.report.end(&mut model)
}
