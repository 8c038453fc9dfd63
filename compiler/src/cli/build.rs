//! `mcc build`: source to bundle, or to the text of a stage.

use std::path::{Path, PathBuf};
use std::time::Instant;

use mcc_codegen::{Intermediate, KernelCode};
use mcc_ir::Mesh;
use mcc_passes::distribute;
use serde_json::json;

use super::compile::{self, compile};
use super::print_line;
use crate::error::Error;
use crate::import::LimitOptions;
use crate::ptxas;
use crate::stages::{self, BuildOptions, Built, Emit};

/// Flags of `mcc build`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A checkpoint directory (config.json, safetensors), a .mir file, a Rust model file or crate.
    source: PathBuf,
    /// The GPU to compile for: h800, h100 or h200.
    #[arg(long, default_value = "h100")]
    target: String,
    /// The bundle to write [default: <name>.mccb]; with --emit the text file [default: standard output].
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Stops at a stage and writes its text.
    #[arg(long, value_enum)]
    emit: Option<Emit>,
    /// Keeps the text of every stage in this folder.
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Tokens of the largest step [default: 256, or the context when that is shorter].
    #[arg(long)]
    max_step_tokens: Option<u64>,
    /// Positions of the KV cache [default: the model's max_position_embeddings].
    #[arg(long)]
    max_context: Option<u64>,
    /// Elements of K between promotions of a checkpoint's FP8 products: 32, 64 or 128 [default: the target's, 128].
    #[arg(long, value_parser = promote)]
    promote: Option<u32>,
    /// Builds for a mesh of ranks, e.g. nodes=4,gpus=8,ep=32: one bundle, which every rank runs.
    #[arg(long)]
    mesh: Option<Mesh>,
    /// How rows travel to experts on other ranks: two-hop, direct or auto.
    #[arg(long, default_value_t, value_name = "KIND")]
    ep_kind: distribute::Kind,
    /// Rows from other ranks that two hops have room for [default: as many as can ever come].
    #[arg(long, value_name = "ROWS")]
    ep_capacity: Option<u32>,
    /// Thread blocks that move rows in two hops.
    #[arg(long, value_name = "BLOCKS", default_value_t = distribute::Options::default().channels)]
    ep_channels: u32,
    /// Leaves the graph as written. Some graphs need fused ops and are then refused.
    #[arg(long)]
    no_optimize: bool,
    /// Packs PTX only; the bundle's bytes then do not depend on which ptxas is installed.
    #[arg(long)]
    no_cubin: bool,
    /// Prints a summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Reads an interval that goes with the scale groups of 128 that checkpoints have.
fn promote(text: &str) -> Result<u32, String> {
    match text {
        "32" | "64" | "128" => text.parse().map_err(|e| format!("{e}")),
        _ => Err("supported are 32, 64 and 128".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let start = Instant::now();
    let limits = LimitOptions {
        max_step_tokens: args.max_step_tokens,
        max_context: args.max_context,
        promote: args.promote,
    };
    let options = BuildOptions {
        target: args.target.clone(),
        mesh: args.mesh,
        ranks: distribute::Options {
            kind: args.ep_kind,
            capacity: args.ep_capacity,
            channels: args.ep_channels,
        },
        optimize: !args.no_optimize,
        cubins: !args.no_cubin,
        dump: args.dump.clone(),
    };
    let (source, built) = compile(&args.source, limits, &options, args.emit)?;

    if let Some(emit) = args.emit {
        let text = text(&built, emit)?;
        return match &args.output {
            Some(path) => write_whole(path, text.as_bytes()),
            None => {
                print_line(text.trim_end());
                Ok(())
            }
        };
    }

    let path = args
        .output
        .clone()
        .unwrap_or_else(|| format!("{}.mccb", built.graph.name).into());
    let bundle = compile::bundle(&source, &built)?;
    bundle.write(&path).map_err(Error::bundle(&path))?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&path)
        .map_err(Error::io("read", &path))?
        .len();
    let launches: Vec<_> = bundle
        .manifest
        .entries
        .iter()
        .map(|e| (e.name.clone(), e.steps.len()))
        .collect();
    if args.json {
        let stages: serde_json::Map<_, _> = built
            .times
            .iter()
            .map(|(name, t)| ((*name).to_owned(), json!(t.as_secs_f64())))
            .collect();
        print_line(&json!({
            "bundle": path, "bytes": bytes, "target": built.target.name, "kernels": built.kernels.len(),
            "cubins": built.assembled.iter().flatten().count(), "seconds": seconds, "stages": stages,
            "launches": launches.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        }).to_string());
        return Ok(());
    }
    let entries: Vec<String> = launches
        .iter()
        .map(|(name, n)| format!("{name} {n} launches"))
        .collect();
    let machine_code = match built.assembled.iter().flatten().count() {
        0 => "PTX only",
        _ if built
            .assembled
            .iter()
            .flatten()
            .any(|a| a.resources.spill_bytes > 0) =>
        {
            "PTX and cubins, no spills but with NVSHMEM's code"
        }
        _ => "PTX and cubins, no spills",
    };
    let unlinked = built.kernels.iter().zip(&built.assembled);
    let unlinked = unlinked.filter(|(kernel, code)| kernel.calls_nvshmem && code.is_none());
    let unlinked = unlinked.count();
    if unlinked > 0 && !args.no_cubin {
        eprintln!(
            "note: {unlinked} kernels that reach other nodes have no cubins, and no GPU runs them: NVSHMEM's device library is \
             not here; `cargo xtask setup --nvshmem` installs it"
        );
    }
    print_line(&format!(
        "{}: {} kernels for {} ({machine_code}); {}; {:.1} MB; {seconds:.1} s",
        path.display(),
        built.kernels.len(),
        built.target.name,
        entries.join(", "),
        bytes as f64 / 1e6
    ));
    Ok(())
}

/// The text of a stage.
fn text(built: &Built, emit: Emit) -> Result<String, Error> {
    let kernels = |get: &dyn Fn(usize) -> Result<String, Error>| {
        let mut all = String::new();
        for (i, kernel) in built.kernels.iter().enumerate() {
            all.push_str(&format!(
                "// kernel {}\n{}\n",
                kernel.name,
                get(i)?.trim_end()
            ));
        }
        Ok(all)
    };
    match emit {
        Emit::Graph => Ok(built.graph.to_string()),
        Emit::Program => {
            let program = built
                .program
                .as_ref()
                .ok_or_else(|| Error::Manifest("no program".to_owned()))?;
            stages::json(program)
        }
        Emit::Mlir => kernels(&|i| on_the_way(&built.kernels[i], |texts| &texts.mlir)),
        Emit::Llvm => kernels(&|i| on_the_way(&built.kernels[i], |texts| &texts.llvm)),
        Emit::Ptx => kernels(&|i| Ok(built.kernels[i].ptx.clone())),
        Emit::Sass => kernels(&|i| match &built.assembled[i] {
            Some(a) => ptxas::disassemble(&built.kernels[i].name, &a.cubin),
            None => Err(Error::MissingTool {
                tool: "ptxas",
                how: ptxas::Ptxas::how_to_get(),
            }),
        }),
    }
}

/// A text that builds up to these stages keep.
fn on_the_way(code: &KernelCode, get: impl Fn(&Intermediate) -> &String) -> Result<String, Error> {
    let texts = code.intermediate.as_ref();
    texts
        .map(|texts| get(texts).clone())
        .ok_or_else(|| Error::Manifest(format!("{}: no text before PTX was kept", code.name)))
}

/// Writes a file so that a reader sees all of it or nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(Error::io("create", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.persist(path)
        .map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}
