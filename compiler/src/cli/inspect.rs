//! `mcc inspect`: what is in a bundle; `--extract` writes it as files.

use std::path::{Path, PathBuf};

use mcc_bundle::Bundle;
use mcc_runtime::MemoryPlan;
use serde_json::json;

use super::print_line;
use crate::error::Error;

/// Flags of `mcc inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The bundle.
    bundle: PathBuf,
    /// Writes manifest, graph, program, PTX and cubins as files into this folder.
    #[arg(long)]
    extract: Option<PathBuf>,
    /// Prints the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let bundle = Bundle::read(&args.bundle).map_err(Error::bundle(&args.bundle))?;
    if let Some(dir) = &args.extract {
        extract(&bundle, &args.bundle, dir)?;
    }
    let m = &bundle.manifest;
    let plan = MemoryPlan::of(m);
    if args.json {
        let kernels: Vec<_> = m
            .kernels
            .iter()
            .map(|k| json!({
                "name": k.name, "family": k.family, "config": k.config, "block": k.launch.block,
                "smem_bytes": k.launch.smem_bytes, "resources": k.resources, "ptx_sha256": k.ptx_sha256,
                "cubin_sha256": k.cubin_sha256,
            }))
            .collect();
        let entries: Vec<_> = m
            .entries
            .iter()
            .map(|e| json!({"name": e.name, "launches": e.steps.len()}))
            .collect();
        print_line(&json!({
            "model": m.model, "compiler": m.compiler, "schema": m.schema, "target": m.target, "dims": m.dims,
            "parameters": m.params.len(), "memory": plan, "kernels": kernels, "entries": entries,
            "tokenizer": bundle.tokenizer.is_some(),
        }).to_string());
        return Ok(());
    }
    let mb = |bytes: u64| format!("{:.2} MB", bytes as f64 / 1e6);
    print_line(&format!(
        "{}: {} for {} ({}, PTX {}), by {}",
        args.bundle.display(),
        m.model,
        m.target.name,
        m.target.arch,
        m.target.ptx_isa,
        m.compiler
    ));
    for d in &m.dims {
        print_line(&format!("  dim {}: {}..={}", d.name, d.min, d.max));
    }
    print_line(&format!(
        "  memory: weights {} in {} parameters, states {}, inputs and outputs {}, arena {}",
        mb(plan.weights),
        m.params.len(),
        mb(plan.states),
        mb(plan.ports),
        mb(plan.arena)
    ));
    for e in &m.entries {
        print_line(&format!("  entry {}: {} launches", e.name, e.steps.len()));
    }
    print_line(&format!(
        "  {} kernels: threads, dynamic shared memory, registers, spilled bytes",
        m.kernels.len()
    ));
    for k in &m.kernels {
        let resources = k.resources.map_or_else(
            || "   –    –".to_owned(),
            |r| format!("{:>4} {:>4}", r.registers, r.spill_bytes),
        );
        print_line(&format!(
            "    {:>4} {:>7} {resources}  {}",
            k.launch.block, k.launch.smem_bytes, k.name
        ));
    }
    Ok(())
}

/// Writes every section under its name.
fn extract(bundle: &Bundle, from: &Path, dir: &Path) -> Result<(), Error> {
    let sections = bundle.sections().map_err(Error::bundle(from))?;
    for section in sections {
        let path = dir.join(&section.name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        std::fs::write(&path, &section.bytes).map_err(Error::io("write", &path))?;
    }
    Ok(())
}
