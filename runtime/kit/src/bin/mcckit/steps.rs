//! The commands that are one step of a run each.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use mcc_kit::contents::Kit;
use mcc_kit::expected::Expected;
use mcc_kit::vectors::conversions::{self, ConversionOptions};
use mcc_kit::vectors::{self, VectorOptions};
use mcc_kit::{facts, repeat as repeats, sanitize as sanitizer};
use serde_json::json;

use crate::model::{DeviceArgs, load, text_bundle};
use crate::{Failure, print_json};

pub fn facts() -> Result<(), Failure> {
    print_json(&facts::gather())
}

pub fn files(kit: &Path) -> Result<(), Failure> {
    let (files, bytes) = Kit::read(kit)?.verify(kit)?;
    print_json(&json!({ "files": files, "bytes": bytes }))
}

#[derive(Args)]
pub struct TextArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// How many of the prompts
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    prompts: usize,
    /// Tokens of each, where as many are expected
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    steps: usize,
}

pub fn text(kit_dir: &Path, args: &TextArgs) -> Result<(), Failure> {
    let expected = Expected::read(kit_dir)?;
    let device = args.device.open()?;
    let name = device.props().name.clone();
    let mut model = load(kit_dir, &expected.bundle, device)?;
    let compared = expected.compare(kit_dir, &name, &mut model, args.prompts, args.steps)?;
    print_json(&compared)?;
    if compared.mismatches > 0 {
        return Err(Failure::Wrong(format!(
            "{} of {} prompts went on with another token than the simulated device's",
            compared.mismatches,
            compared.prompts.len()
        )));
    }
    if args.device.device == "sim" && !compared.bit_equal {
        return Err(Failure::Wrong(format!(
            "the simulated device is deterministic, but its logits differ by up to {} from those of the packing host",
            compared.max_abs_difference
        )));
    }
    Ok(())
}

#[derive(Args)]
pub struct VectorsArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Of the inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Results to compare for each combination of types, at least; conversions of 32-bit inputs get four times as many
    #[arg(long, default_value_t = 1 << 20)]
    results: u64,
    /// Folder with published vectors
    #[arg(long)]
    published: Option<PathBuf>,
}

/// Mismatches of one class or instruction that are kept with their inputs.
const KEPT: usize = 2;

pub fn vectors(args: &VectorsArgs) -> Result<(), Failure> {
    let mut device = args.device.open()?;
    let options = VectorOptions {
        seed: args.seed,
        results: args.results,
        published: args.published.clone(),
        keep: KEPT,
    };
    let products = vectors::run(device.as_mut(), &options)?;
    let options = ConversionOptions {
        seed: args.seed,
        inputs: args.results.saturating_mul(4),
        keep: KEPT,
    };
    let conversions = conversions::run(device.as_mut(), &options)?;
    print_json(&json!({ "products": products, "conversions": conversions }))?;
    if products.passed() && conversions.passed() {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "{} of {} products and {} of {} conversions are not those of the simulator's arithmetic",
        products.mismatches, products.results, conversions.mismatches, conversions.results
    )))
}

#[derive(Args)]
pub struct RepeatArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// How often
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Tokens generated in each
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// No repeat begins after this time
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub fn repeat(kit_dir: &Path, args: &RepeatArgs) -> Result<(), Failure> {
    let expected = Expected::read(kit_dir)?;
    let longest = expected
        .prompts
        .iter()
        .max_by_key(|prompt| prompt.tokens.len());
    let Some(prompt) = longest else {
        return Err(Failure::Wrong("the kit expects no text".to_owned()));
    };
    let mut model = load(kit_dir, &expected.bundle, args.device.open()?)?;
    let limit = Duration::from_secs(args.seconds);
    let seen = repeats::run(&mut model, &prompt.tokens, args.steps, args.count, limit)?;
    print_json(&seen)?;
    if seen.hashes.len() > 1 {
        return Err(Failure::Wrong(format!(
            "{} different results in {} repeats",
            seen.hashes.len(),
            seen.done
        )));
    }
    if seen.done < seen.asked {
        return Err(Failure::Partial(format!(
            "{} of {} repeats in {} s, all with one hash",
            seen.done, seen.asked, args.seconds
        )));
    }
    Ok(())
}

#[derive(Args)]
pub struct SanitizeArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// memcheck, initcheck, synccheck or racecheck
    #[arg(long)]
    tool: String,
    /// Text model of the kit [default: the one with a checkpoint]
    #[arg(long)]
    bundle: Option<String>,
}

/// `compute-sanitizer` over `mccrt run`; both inherit this process's group, and end with it.
pub fn sanitize(kit_dir: &Path, args: &SanitizeArgs) -> Result<(), Failure> {
    let kit = Kit::read(kit_dir)?;
    let bundle = match &args.bundle {
        Some(name) => name.clone(),
        None => text_bundle(&kit)?.name.clone(),
    };
    let program = facts::find_tool("compute-sanitizer")
        .ok_or_else(|| Failure::Environment("compute-sanitizer was not found".to_owned()))?;
    let expected = Expected::read(kit_dir)?;
    let Some(prompt) = expected.prompts.first() else {
        return Err(Failure::Wrong("the kit expects no text".to_owned()));
    };
    let tokens: Vec<String> = prompt.tokens.iter().map(i32::to_string).collect();
    let output = Command::new(&program)
        .args(["--tool", &args.tool])
        .arg(kit_dir.join("mccrt"))
        .arg("run")
        .arg(kit_dir.join("bundles").join(format!("{bundle}.mccb")))
        .arg("--weights")
        .arg(kit_dir.join("weights").join(&bundle))
        .args([
            "--device",
            &args.device.device,
            "--max-tokens",
            "3",
            "--tokens",
        ])
        .arg(tokens.join(","))
        .stdin(Stdio::null())
        .output()
        .map_err(Failure::io(&program))?;
    // The tool writes its report among the program's output.
    let text = [&output.stdout[..], b"\n", &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let found = sanitizer::read(&args.tool, &text);
    print_json(&found)?;
    match found.errors {
        Some(0) if output.status.success() => Ok(()),
        Some(0) => Err(Failure::Wrong(format!(
            "mccrt failed under {} ({}): {}",
            args.tool,
            output.status,
            last_line(&text)
        ))),
        Some(errors) => Err(Failure::Wrong(format!(
            "{} found {errors} errors: {}",
            args.tool,
            found.lines.first().map_or("", String::as_str)
        ))),
        None => Err(Failure::Wrong(format!(
            "compute-sanitizer gave no summary ({}): {}",
            output.status,
            last_line(&text)
        ))),
    }
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("")
}
