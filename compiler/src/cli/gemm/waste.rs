//! `mcc gemm waste`: rows that grouped products compute in vain, beside those of groups padded to 128 rows.

use mcc_ir::kernel::GemmForm;
use mcc_ir::types::DType;
use mcc_passes::heuristics::gemm::GemmProblem;
use mcc_passes::heuristics::gemm::waste::{self, Experts, Routing, Waste};
use mcc_passes::target::Target;
use serde_json::json;

use crate::cli::print_line;
use crate::error::Error;

/// Flags of `mcc gemm waste`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The GPU to choose tiles for: h800, h100 or h200.
    #[arg(long, default_value = "h100")]
    target: String,
    /// Routed experts.
    #[arg(long, default_value_t = 256)]
    experts: u32,
    /// Experts that a token takes.
    #[arg(long, default_value_t = 8)]
    top: u32,
    /// Columns and depth of the product.
    #[arg(long, value_name = "N,K", value_delimiter = ',', default_values_t = [4096, 7168])]
    shape: Vec<u64>,
    /// Numbers of tokens.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64, 256, 1024, 4096, 16384])]
    tokens: Vec<u64>,
    /// Of the routings.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let target = Target::load(&args.target)?;
    let [n, k] = args.shape[..] else {
        return Err(Error::Usage("--shape takes columns and depth".to_owned()));
    };
    let bounds = [
        (u64::from(args.experts), 1..=4096, "--experts"),
        (u64::from(args.top), 1..=u64::from(args.experts), "--top"),
        (
            n / 16 * u64::from(n % 16 == 0),
            1..=1 << 20,
            "--shape N / 16",
        ),
        (
            k / 16 * u64::from(k % 16 == 0),
            1..=1 << 20,
            "--shape K / 16",
        ),
        (
            args.tokens.iter().copied().max().unwrap_or(0),
            1..=1 << 20,
            "--tokens",
        ),
    ];
    for (value, range, flag) in bounds {
        if !range.contains(&value) {
            return Err(Error::Usage(format!(
                "{flag} is a whole number from {} to {}",
                range.start(),
                range.end()
            )));
        }
    }
    let experts = Experts {
        count: args.experts,
        top: args.top,
    };
    let form = GemmForm::Grouped {
        groups: args.experts,
    };
    let problem = GemmProblem::new(DType::E4M3, DType::BF16, form, 0, n, k);
    let rows = waste::table(&problem, experts, &args.tokens, args.seed, &target);
    if args.json {
        print_line(
            &json!({
                "target": target.name, "clock_hz": target.sustained_clock_hz, "experts": args.experts,
                "top": args.top, "n": n, "k": k, "seed": args.seed, "rows": rows,
            })
            .to_string(),
        );
        return Ok(());
    }
    print_line(&format!(
        "{} experts, {} a token, n {n}, k {k}; rows computed over rows asked for, and predicted time on {}",
        args.experts, args.top, target.name
    ));
    print_line(
        "routing   tokens     rows  busy  tile              ours  padded to 128       us  padded  of padded",
    );
    for w in &rows {
        print_line(&line(w, &target));
    }
    Ok(())
}

fn line(w: &Waste, target: &Target) -> String {
    let us = |cycles: u64| cycles as f64 * 1e6 / target.sustained_clock_hz.max(1) as f64;
    let rows = w.rows.max(1) as f64;
    let tile = format!(
        "{}x{} {}",
        w.tile.m,
        w.tile.n,
        mcc_passes::heuristics::gemm::how(w.tile)
    );
    format!(
        "{:<8} {:>7} {:>8} {:>5}  {tile:<16} {:>5.2} {:>14.2} {:>8.1} {:>7.1} {:>10.2}",
        match w.routing {
            Routing::Uniform => "uniform",
            Routing::Skewed => "skewed",
        },
        w.tokens,
        w.rows,
        w.busy,
        w.computed as f64 / rows,
        w.padded as f64 / rows,
        us(w.cycles),
        us(w.padded_cycles),
        w.cycles as f64 / w.padded_cycles.max(1) as f64
    )
}
