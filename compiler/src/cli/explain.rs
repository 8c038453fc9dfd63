//! `mcc explain`: why the compiler chooses what it chooses: the graph of a model, or the tiles of one matrix product.

use std::path::{Path, PathBuf};

use mcc_ir::{Mesh, Module};
use mcc_passes::egraph;
use mcc_passes::egraph::explain::{self, Question};
use mcc_passes::heuristics::gemm::choose;
use mcc_passes::select::DimHint;
use mcc_passes::target::Target;
use serde_json::json;

use super::build::write_whole;
use super::print_line;
use crate::error::Error;
use crate::gemm::problems::ProblemFlags;
use crate::import::LimitOptions;
use crate::source;
use crate::stages;

/// Flags of `mcc explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model: anything that `mcc build` takes.
    #[arg(conflicts_with = "gemm")]
    source: Option<PathBuf>,
    #[command(flatten)]
    problem: ProblemFlags,
    /// The GPU to choose for: h800, h100 or h200; or a target file, its name ending in .json.
    #[arg(long, default_value = "h100")]
    target: String,
    /// Lays a mesh over the model, e.g. nodes=4,gpus=8,ep=32: costs are those of one of its ranks.
    #[arg(long, requires = "source")]
    mesh: Option<Mesh>,
    /// Extents to count costs at, e.g. T=4096,C=4096,decode.T=32 [default: the upper bounds; one token in decode].
    #[arg(long, requires = "source", value_delimiter = ',')]
    dims: Vec<String>,
    /// Only this entry, e.g. decode.
    #[arg(long, requires = "source")]
    entry: Option<String>,
    /// Only layers like this one, e.g. layers.3.
    #[arg(long, requires = "source")]
    layer: Option<String>,
    /// Says where a rewrite rule matched and why it was not taken, instead of what was.
    #[arg(
        long,
        requires = "source",
        conflicts_with = "layer",
        value_name = "RULE"
    )]
    why_not: Option<String>,
    /// Prints what each set of rules is worth, and where a layer's time goes, instead.
    #[arg(long, requires = "source")]
    table: bool,
    /// Draws what could compute each value, and what does, as a Graphviz file.
    #[arg(long, requires = "source", value_name = "FILE")]
    dot: Option<PathBuf>,
    /// Writes a page to look at in a browser.
    #[arg(long, requires = "source", value_name = "FILE")]
    html: Option<PathBuf>,
    /// Tokens of the largest step of a checkpoint's model.
    #[arg(long, requires = "source")]
    max_step_tokens: Option<u64>,
    /// Positions of its KV cache.
    #[arg(long, requires = "source")]
    max_context: Option<u64>,
    /// With --gemm: lists every candidate, not only the best twelve.
    #[arg(long)]
    all: bool,
    /// Prints JSON: everything, with all terms.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let target = target(&args.target)?;
    match &args.source {
        Some(source) => graph(args, source, &target),
        None => gemm(args, &target),
    }
}

/// A target by name, or of a file.
fn target(name: &str) -> Result<Target, Error> {
    let path = Path::new(name);
    if path.extension().is_some_and(|ending| ending == "json") {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        return Ok(Target::parse(name, &text)?);
    }
    Ok(Target::load(name)?)
}

fn graph(args: &Args, path: &Path, target: &Target) -> Result<(), Error> {
    let limits = LimitOptions {
        max_step_tokens: args.max_step_tokens,
        max_context: args.max_context,
        promote: Some(target.promote),
    };
    let source = source::read(path, limits)?;
    for warning in &source.warnings {
        eprintln!("warning: {warning}");
    }
    let mut module = source.module;
    module.mesh = args.mesh.or(module.mesh);
    stages::verify(&module)?;
    let options = egraph::Options {
        usual: usual(&module, &args.dims)?,
        ..egraph::Options::default()
    };
    if args.table {
        let table = explain::table(&module, target, &options)?;
        print_line(&if args.json {
            json!(table).to_string()
        } else {
            table.to_string().trim_end().to_owned()
        });
        return Ok(());
    }
    let question = Question {
        entry: args.entry.clone(),
        layer: args.layer.clone(),
        why_not: args.why_not.clone(),
    };
    let explanation = explain::explain(&module, target, &options, &question)?;
    for (path, text) in [
        (&args.dot, explain::dot as fn(&_) -> String),
        (&args.html, explain::html),
    ] {
        if let Some(path) = path {
            write_whole(path, text(&explanation).as_bytes())?;
        }
    }
    if args.json {
        print_line(&json!(explanation).to_string());
    } else if args.dot.is_none() && args.html.is_none() {
        print_line(explanation.to_string().trim_end());
    }
    Ok(())
}

/// The extents that the user gives, before those that are usual.
fn usual(module: &Module, dims: &[String]) -> Result<Vec<DimHint>, Error> {
    let wrong = |text: &str, why: &str| Error::Usage(format!("--dims {text}: {why}"));
    let mut hints = Vec::new();
    for text in dims {
        let (name, extent) = text
            .split_once('=')
            .ok_or_else(|| wrong(text, "write a dim and its extent, for example T=4096"))?;
        let usual: u64 = extent
            .trim()
            .parse()
            .map_err(|_| wrong(text, "the extent is no number"))?;
        let (entry, dim) = match name.trim().split_once('.') {
            Some((entry, dim)) => (Some(entry), dim),
            None => (None, name.trim()),
        };
        let Some(declared) = module.dim(dim) else {
            let known: Vec<&str> = module.dims.iter().map(|dim| dim.name.as_str()).collect();
            return Err(wrong(
                text,
                &format!("the model's dims are {}", known.join(", ")),
            ));
        };
        if !(declared.min..=declared.max).contains(&usual) {
            let bounds = format!("`{dim}` lies in {}..={}", declared.min, declared.max);
            return Err(wrong(text, &bounds));
        }
        let entries = module.entries.iter().map(|graph| graph.name.as_str());
        let of: Vec<&str> = entries
            .filter(|name| entry.is_none_or(|entry| entry == *name))
            .collect();
        if of.is_empty() {
            return Err(wrong(text, "the model has no such entry"));
        }
        hints.extend(of.into_iter().map(|entry| DimHint {
            entry: entry.to_owned(),
            dim: dim.to_owned(),
            usual,
        }));
    }
    // Of several for one dim the first counts, and of the user's the last.
    hints.reverse();
    hints.extend(stages::hints(module));
    Ok(hints)
}

fn gemm(args: &Args, target: &Target) -> Result<(), Error> {
    let problem = args.problem.problem()?.ok_or_else(|| {
        Error::Usage(
            "name what to explain: a model, or a matrix product, for example --gemm 64,7168,2048"
                .to_owned(),
        )
    })?;
    let choice = choose(problem, target);
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
