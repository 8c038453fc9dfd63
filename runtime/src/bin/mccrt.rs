//! `mccrt`: runs bundles on hosts that have no compiler. Speaks token ids; `mcc` speaks text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mcc_bundle::{Bundle, BundleError};
use mcc_runtime::{
    DeviceKind, DeviceOptions, GenerateOptions, LogitRows, MemoryPlan, Model, RuntimeError,
    Sampling, evaluate, generate, open_device,
};
use serde_json::json;

/// Runs mcc bundles.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continues a prompt of token ids and prints the ids that follow.
    Run {
        #[command(flatten)]
        model: ModelArgs,
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
        /// Prints times and counts to standard error.
        #[arg(long)]
        stats: bool,
    },
    /// Prints the mean negative log-likelihood of token ids, in nats.
    Eval {
        #[command(flatten)]
        model: ModelArgs,
        /// A file of token ids with commas or white space between them.
        #[arg(long)]
        tokens: PathBuf,
        /// Tokens of a window.
        #[arg(long, default_value_t = 256)]
        context: usize,
    },
    /// Prints what a bundle contains.
    Inspect {
        /// The bundle.
        bundle: PathBuf,
    },
}

#[derive(Args)]
struct ModelArgs {
    /// The bundle.
    bundle: PathBuf,
    /// The checkpoint directory.
    #[arg(long)]
    weights: PathBuf,
    /// `sim` or `cuda`.
    #[arg(long, default_value = "sim")]
    device: String,
    /// Tokens of a prefill step; the largest that the bundle allows when absent.
    #[arg(long)]
    chunk: Option<usize>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot read {}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: `{word}` is not a token id", path.display())]
    BadTokens { path: PathBuf, word: String },
}

impl From<BundleError> for Failure {
    fn from(err: BundleError) -> Self {
        Self::Runtime(err.into())
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run {
            model: args,
            tokens,
            max_tokens,
            temperature,
            top_p,
            seed,
            stats,
        } => {
            let mut model = load(&args)?;
            let eos = model.manifest().tokenizer.eos.clone();
            let sampling = Sampling {
                temperature,
                top_p,
                seed,
            };
            let options = GenerateOptions {
                max_tokens,
                chunk: args.chunk,
                sampling,
                eos,
                prompt_logits: LogitRows::Last,
            };
            let generation = generate(&mut model.session()?, &tokens, &options, &mut |_| ())?;
            println!(
                "{}",
                json!({ "tokens": generation.tokens, "stop": generation.stop })
            );
            if stats {
                eprintln!("{:#}", model.stats().to_json());
            }
        }
        Command::Eval {
            model: args,
            tokens,
            context,
        } => {
            let tokens = read_tokens(&tokens)?;
            let mut model = load(&args)?;
            let report = evaluate(
                &mut model.session()?,
                &tokens,
                context,
                args.chunk,
                &mut |_, _| (),
            )?;
            println!("{}", json!(report));
        }
        Command::Inspect { bundle } => println!("{:#}", summary(&Bundle::read(bundle)?)),
    }
    Ok(())
}

fn load(args: &ModelArgs) -> Result<Model, RuntimeError> {
    let kind: DeviceKind = args.device.parse()?;
    let bundle = Bundle::read(&args.bundle)?;
    let options = DeviceOptions {
        sms: bundle.manifest.target.sms,
        ..DeviceOptions::default()
    };
    let mut model = Model::load(open_device(kind, &options)?, bundle)?;
    model.load_weights(&args.weights, &mut |_| ())?;
    Ok(model)
}

fn read_tokens(path: &Path) -> Result<Vec<i32>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Io {
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

fn summary(bundle: &Bundle) -> serde_json::Value {
    let manifest = &bundle.manifest;
    let kernels: Vec<_> = manifest
        .kernels
        .iter()
        .map(|kernel| {
            json!({
                "name": kernel.name,
                "family": kernel.family,
                "smem_bytes": kernel.launch.smem_bytes,
                "resources": kernel.resources,
                "ptx_sha256": kernel.ptx_sha256,
                "cubin_sha256": kernel.cubin_sha256,
            })
        })
        .collect();
    let entries: Vec<_> = manifest
        .entries
        .iter()
        .map(|entry| json!({ "name": entry.name, "steps": entry.steps.len() }))
        .collect();
    json!({
        "model": manifest.model,
        "compiler": manifest.compiler,
        "target": manifest.target,
        "dims": manifest.dims,
        "memory": MemoryPlan::of(manifest),
        "parameters": manifest.params.len(),
        "kernels": kernels,
        "entries": entries,
        "tokenizer": bundle.tokenizer.is_some(),
    })
}
