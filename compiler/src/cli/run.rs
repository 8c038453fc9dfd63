//! `mcc run`: continues prompts on a device, printing text as it comes, or on several ranks.

use std::io::Write;
use std::path::{Path, PathBuf};

use mcc_runtime::{GenerateOptions, Generation, LogitRows, Sampling, generate, generate_on_ranks};
use serde_json::json;

use super::model::{
    Loaded, ModelArgs, Ranks, Ready, decode, encode, load, one_rank, print_rank_stats, print_stats,
};
use super::print_line;
use crate::error::Error;

/// Flags of `mcc run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue. Several are continued one by one, or by several ranks in turn.
    #[arg(long, required = true)]
    prompt: Vec<String>,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// Divides the logits before sampling; 0 takes the most probable token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Probability mass that may be chosen from, most probable tokens first.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Of the random numbers: the same seed gives the same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Writes `logits`, f32 [prompt tokens, vocab], and `tokens`, i64 [prompt and generated tokens], as safetensors.
    #[arg(long)]
    logits: Option<PathBuf>,
    /// Prints one JSON object in place of the text.
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
    if let Some(path) = &args.logits {
        if args.prompt.len() > 1 {
            return Err(Error::Usage("--logits takes one --prompt".to_owned()));
        }
        check_writable(path)?;
    }
    match load(&args.model)? {
        Ready::One(loaded) => on_one(args, *loaded),
        Ready::Ranks(ranks) => on_ranks(args, &ranks),
    }
}

fn options(args: &Args, eos: &[i32]) -> GenerateOptions {
    GenerateOptions {
        max_tokens: args.max_tokens,
        chunk: args.model.chunk,
        sampling: Sampling {
            temperature: args.temperature,
            top_p: args.top_p,
            seed: args.seed,
        },
        eos: eos.to_vec(),
        prompt_logits: if args.logits.is_some() {
            LogitRows::All
        } else {
            LogitRows::Last
        },
    }
}

/// Text comes as it is generated.
fn on_one(args: &Args, mut loaded: Loaded) -> Result<(), Error> {
    let options = options(args, &loaded.eos);
    if let Some(path) = &args.trace {
        loaded.model.start_trace_to(path)?;
    }
    let mut done = Vec::new();
    let vocab;
    {
        let tokenizer = &loaded.tokenizer;
        let mut session = loaded.model.session()?;
        vocab = session.vocab();
        for text in &args.prompt {
            let prompt = encode(tokenizer, text)?;
            let mut printer = Printer {
                shown: 0,
                tokens: Vec::new(),
            };
            let streams = !args.json;
            if streams {
                print_raw(text);
            }
            session.reset()?;
            let generation = generate(&mut session, &prompt, &options, &mut |token| {
                if streams {
                    printer.push(tokenizer, token);
                }
            })?;
            if streams {
                print_line("");
            }
            done.push((prompt, generation));
        }
    }
    if args.json {
        let mut stats = args.stats.then(|| {
            let mut stats = loaded.model.stats().to_json();
            stats["build_seconds"] = json!(loaded.build.map(|t| t.as_secs_f64()));
            stats
        });
        for (i, (prompt, generation)) in done.iter().enumerate() {
            // Those of the whole run stand in the last line.
            let stats = if i + 1 == done.len() {
                stats.take()
            } else {
                None
            };
            print_json(&loaded.tokenizer, prompt, generation, stats)?;
        }
    }
    if let (Some(path), [(prompt, generation)]) = (&args.logits, &done[..]) {
        write_logits(path, prompt, generation, vocab)?;
    }
    if let Some(path) = &args.trace {
        loaded.model.write_trace(path)?;
    }
    if args.stats && !args.json {
        print_stats(&loaded);
    }
    Ok(())
}

/// Text comes when all ranks are done, in the order of the prompts.
fn on_ranks(args: &Args, ranks: &Ranks) -> Result<(), Error> {
    one_rank("--trace", args.trace.is_some())?;
    let options = options(args, &ranks.eos);
    let prompts: Vec<Vec<i32>> = args
        .prompt
        .iter()
        .map(|text| encode(&ranks.tokenizer, text))
        .collect::<Result<_, _>>()?;
    let load = |rank, device| ranks.load(rank, device);
    let (done, report) = generate_on_ranks(&ranks.cluster, load, &prompts, &options)?;
    let mut stats = args.stats.then(|| {
        let mut stats = report.to_json();
        stats["build_seconds"] = json!(ranks.build.map(|t| t.as_secs_f64()));
        stats
    });
    for (i, ((text, prompt), generation)) in args.prompt.iter().zip(&prompts).zip(&done).enumerate()
    {
        if args.json {
            let stats = if i + 1 == done.len() {
                stats.take()
            } else {
                None
            };
            print_json(&ranks.tokenizer, prompt, generation, stats)?;
        } else {
            print_line(&format!(
                "{text}{}",
                decode(&ranks.tokenizer, &generation.tokens)?
            ));
        }
    }
    if let (Some(path), [prompt], [generation]) = (&args.logits, &prompts[..], &done[..]) {
        let vocab = generation.prompt_logits.len() / prompt.len().max(1);
        write_logits(path, prompt, generation, vocab as u64)?;
    }
    if args.stats && !args.json {
        print_rank_stats(ranks.build, &report);
    }
    Ok(())
}

fn print_json(
    tokenizer: &tokenizers::Tokenizer,
    prompt: &[i32],
    generation: &Generation,
    stats: Option<serde_json::Value>,
) -> Result<(), Error> {
    let text = decode(tokenizer, &generation.tokens)?;
    print_line(&json!({
        "prompt_tokens": prompt, "tokens": generation.tokens, "text": text, "stop": generation.stop, "stats": stats,
    }).to_string());
    Ok(())
}

/// Prints tokens as text; a character whose bytes are not complete yet waits.
struct Printer {
    shown: usize,
    tokens: Vec<i32>,
}

impl Printer {
    fn push(&mut self, tokenizer: &tokenizers::Tokenizer, token: i32) {
        self.tokens.push(token);
        let Ok(text) = decode(tokenizer, &self.tokens) else {
            return;
        };
        if text.ends_with('\u{fffd}') {
            return;
        }
        if let Some(new) = text.get(self.shown..) {
            print_raw(new);
            self.shown = text.len();
        }
    }
}

fn print_raw(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Better before an hour of work than after it.
fn check_writable(path: &Path) -> Result<(), Error> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    tempfile::NamedTempFile::new_in(dir)
        .map(drop)
        .map_err(Error::io("write", path))
}

fn write_logits(
    path: &Path,
    prompt: &[i32],
    generation: &Generation,
    vocab: u64,
) -> Result<(), Error> {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    let bug = |e: safetensors::SafeTensorError| Error::Manifest(format!("logits: {e}"));
    let logits: Vec<u8> = generation
        .prompt_logits
        .iter()
        .flat_map(|l| l.to_le_bytes())
        .collect();
    let tokens: Vec<i64> = prompt
        .iter()
        .chain(&generation.tokens)
        .map(|t| i64::from(*t))
        .collect();
    let token_bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let vocab = usize::try_from(vocab).unwrap_or(usize::MAX);
    let views = [
        (
            "logits",
            TensorView::new(Dtype::F32, vec![prompt.len(), vocab], &logits).map_err(bug)?,
        ),
        (
            "tokens",
            TensorView::new(Dtype::I64, vec![tokens.len()], &token_bytes).map_err(bug)?,
        ),
    ];
    let bytes = safetensors::serialize(views, None).map_err(bug)?;
    super::build::write_whole(path, &bytes)
}
