//! `mccrt inspect`: what is in a bundle, as JSON.

use std::path::PathBuf;

use mcc_bundle::Bundle;
use mcc_runtime::MemoryPlan;
use serde_json::json;

use crate::{Failure, print_line};

/// Flags of `mccrt inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// The bundle.
    bundle: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    print_line(&format!("{:#}", summary(&Bundle::read(&args.bundle)?)));
    Ok(())
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
