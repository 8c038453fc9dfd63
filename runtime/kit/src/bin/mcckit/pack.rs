//! `mcckit pack`: completes the folder of a kit.
//!
//! In: a folder with bundles, a checkpoint and programs; prompts as token ids. Out: `expected/` and `kit.json`.
//! Holds: the expectations come from the simulated device on this host, with the very bundle that is packed.

use std::path::{Path, PathBuf};

use mcc_kit::contents::Kit;
use mcc_kit::expected;
use mcc_runtime::{DeviceKind, DeviceOptions, open_device};
use serde::Deserialize;
use serde_json::json;

use crate::model::{load, text_bundle};
use crate::{Failure, print_json};

#[derive(clap::Args)]
pub struct Args {
    /// The commit that the kit is made from
    #[arg(long)]
    commit: String,
    /// JSON with `prompts`, each with a `text` and its `ids`
    #[arg(long)]
    prompts: PathBuf,
    /// Tokens to generate after each prompt
    #[arg(long, default_value_t = 24)]
    steps: usize,
}

#[derive(Deserialize)]
struct Prompts {
    prompts: Vec<PromptIds>,
}

#[derive(Deserialize)]
struct PromptIds {
    text: String,
    ids: Vec<i32>,
}

pub fn pack(dir: &Path, args: &Args) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.prompts).map_err(Failure::io(&args.prompts))?;
    let prompts: Prompts = serde_json::from_str(&text)
        .map_err(std::io::Error::other)
        .map_err(Failure::io(&args.prompts))?;
    let prompts: Vec<_> = prompts
        .prompts
        .into_iter()
        .map(|p| (p.text, p.ids))
        .collect();
    // The first list finds the bundles; the last one contains what was expected of them.
    let kit = Kit::seal(dir, &args.commit)?;
    let name = text_bundle(&kit)?.name.clone();
    let device = open_device(DeviceKind::Sim, &DeviceOptions::default())?;
    let mut model = load(dir, &name, device)?;
    let expected = expected::record(dir, &name, &mut model, &prompts, args.steps)?;
    let kit = Kit::seal(dir, &args.commit)?;
    print_json(&json!({
        "bundles": kit.bundles,
        "prompts": expected.prompts.len(),
        "files": kit.files.len(),
        "bytes": kit.bytes(),
    }))
}
