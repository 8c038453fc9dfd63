//! `mcc gemm compile-time`: how long a kernel takes to PTX and to a cubin, beside Triton on the same machine.

use std::path::{Path, PathBuf};

use mcc_ir::program::Kernel;
use serde_json::json;

use crate::cli::model::bar;
use crate::cli::print_line;
use crate::error::Error;
use crate::gemm::{compile_time, configs};
use crate::ptxas::Ptxas;

/// Where `cargo xtask foreign --install` puts a Python with Triton.
const PYTHON: &str = ".tools/foreign/venv/bin/python";

/// Flags of `mcc gemm compile-time`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Whose GEMMs: anything that `mcc build` takes [default: one configuration of each kind].
    sources: Vec<PathBuf>,
    /// The GPU that the kernels are chosen for.
    #[arg(long, default_value = "h100")]
    target: String,
    /// How often each kernel is compiled.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only kernels whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// A Python that has Triton, to compile its kernel of the same product [default: the one that
    /// `cargo xtask foreign --install` makes, when it is there].
    #[arg(long)]
    python: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut kernels: Vec<Kernel> = if args.sources.is_empty() {
        configs::one_of_each()
    } else {
        configs::in_use(&configs::sources(&args.sources)?, &args.target)?
    };
    kernels.retain(|k| k.name.contains(&args.only));
    let ptxas = Ptxas::find();
    let bar = bar("compiling");
    let measured = compile_time::measure(&kernels, args.runs, ptxas.as_ref(), &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let measured = measured?;
    let default = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(PYTHON);
    let python = match &args.python {
        Some(python) => Some(python.clone()),
        None => default.is_file().then_some(default),
    };
    let triton = match &python {
        Some(python) => Some(compile_time::triton(python, args.runs)?),
        None => None,
    };
    if args.json {
        let given: Vec<_> = compile_time::GIVEN
            .iter()
            .map(|(name, seconds)| json!({"name": name, "cubin_s": seconds}))
            .collect();
        print_line(
            &json!({
                "ptxas": ptxas.as_ref().map(Ptxas::path), "measured": measured, "triton": triton, "given": given,
            })
            .to_string(),
        );
        return Ok(());
    }
    print_line(compile_time::table(&measured, triton.as_ref()).trim_end());
    match &ptxas {
        Some(ptxas) => print_line(&format!("assembled by {}", ptxas.path().display())),
        None => print_line(&format!("no cubins: ptxas is {}", Ptxas::how_to_get())),
    }
    if triton.is_none() {
        print_line(
            "Triton was not measured: --python names a Python that has it; `cargo xtask foreign --install` makes one",
        );
    }
    Ok(())
}
