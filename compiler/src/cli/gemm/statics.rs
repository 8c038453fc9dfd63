//! `mcc gemm static`: static quality of every GEMM configuration, from ptxas and nvdisasm.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mcc_codegen::Codegen;
use mcc_ir::program::Kernel;
use serde_json::json;

use crate::cli::model::bar;
use crate::cli::print_line;
use crate::error::Error;
use crate::gemm::configs;
use crate::gemm::statics::{self, BASELINE, Inspected, Row};
use crate::ptxas::Ptxas;

/// Flags of `mcc gemm static`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Whose GEMMs: anything that `mcc build` takes [default: the checkout's models, the published one, and one
    /// configuration of each kind].
    sources: Vec<PathBuf>,
    /// The GPU that the kernels are chosen for.
    #[arg(long, default_value = "h100")]
    target: String,
    /// The assembler [default: the one that `mcc build` uses].
    #[arg(long)]
    ptxas: Option<PathBuf>,
    /// Only kernels whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Prints the SASS of a turn of each main loop, too.
    #[arg(long)]
    sass: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command; fails when a configuration breaks the bar.
pub fn run(args: &Args) -> Result<(), Error> {
    let ptxas = match &args.ptxas {
        Some(path) => Ptxas::at(path),
        None => Ptxas::find().ok_or_else(|| Error::MissingTool {
            tool: "ptxas",
            how: Ptxas::how_to_get(),
        })?,
    };
    let mut kernels = configs::in_use(&configs::sources(&args.sources)?, &args.target)?;
    if args.sources.is_empty() {
        for kernel in configs::one_of_each() {
            if !kernels.iter().any(|k| k.config == kernel.config) {
                kernels.push(kernel);
            }
        }
    }
    kernels.retain(|k| k.name.contains(&args.only));
    let found = inspect_all(&ptxas, &kernels);

    let mut rows: Vec<Row> = Vec::new();
    let mut failures = Vec::new();
    let mut loops = Vec::new();
    for (kernel, inspected) in kernels.iter().zip(found) {
        match inspected {
            Ok(inspected) => {
                loops.push((kernel.name.clone(), inspected.main_loop));
                rows.push(inspected.row);
            }
            Err(error) => failures.push((kernel.name.clone(), error.to_string())),
        }
    }
    let broken = rows.iter().filter(|r| !r.breaks.is_empty()).count() + failures.len();
    if args.json {
        let failures: Vec<_> = failures
            .iter()
            .map(|(name, why)| json!({"name": name, "why": why}))
            .collect();
        print_line(
            &json!({
                "ptxas": ptxas.path(), "baseline": BASELINE, "kernels": rows, "failures": failures, "broken": broken,
            })
            .to_string(),
        );
    } else {
        print_line(&statics::table(&rows));
        for (name, why) in &failures {
            print_line(&format!("{name}: {why}"));
        }
        if args.sass {
            for (name, text) in &loops {
                print_line(&format!("\n// main loop of {name}\n{text}"));
            }
        }
        print_line(&format!(
            "{} of {} configurations keep the bar; assembled by {}",
            kernels.len() - broken,
            kernels.len(),
            ptxas.path().display()
        ));
    }
    if broken == 0 {
        return Ok(());
    }
    Err(Error::Bar {
        broken,
        all: kernels.len(),
    })
}

/// On all cores: a code generator is one thread's.
fn inspect_all(ptxas: &Ptxas, kernels: &[Kernel]) -> Vec<Result<Inspected, Error>> {
    let bar = bar("compiling");
    bar.set_length(kernels.len() as u64);
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<Inspected, Error>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let codegen = Codegen::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(kernel) = kernels.get(at) else { break };
                    let result = statics::inspect(&codegen, ptxas, kernel);
                    bar.inc(1);
                    if let Ok(mut results) = results.lock() {
                        results.push((at, result));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
