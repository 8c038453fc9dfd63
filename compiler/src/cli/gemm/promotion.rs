//! `mcc gemm promotion`: error of FP8 products against K and the promotion interval, run on the simulated device.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::build::write_whole;
use crate::cli::model::bar;
use crate::cli::print_line;
use crate::error::Error;
use crate::gemm::{promotion, promotion_plot};

/// Depths that a plot has beside those of the table.
const PLOTTED: [u32; 6] = [512, 1024, 2048, 4096, 8192, 16384];

/// Flags of `mcc gemm promotion`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Depths of the table.
    #[arg(long, value_delimiter = ',', default_values_t = [4096, 16384])]
    k: Vec<u32>,
    /// Promotion intervals; 0 is none.
    #[arg(long, value_delimiter = ',', default_values_t = promotion::INTERVALS)]
    promote: Vec<u32>,
    /// Draws error against K, from 512 to 16384, into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut ks = args.k.clone();
    if args.svg.is_some() {
        ks.extend(PLOTTED);
    }
    ks.sort_unstable();
    ks.dedup();
    let bar = bar("running kernels");
    let points = promotion::measure(&ks, &args.promote, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let points = points?;
    if let Some(path) = &args.svg {
        let svg = promotion_plot::svg(&points).unwrap_or_default();
        write_whole(path, svg.as_bytes())?;
    }
    if args.json {
        print_line(&json!({"side": promotion::SIDE, "points": points}).to_string());
    } else {
        print_line(promotion::table(&points, &args.k).trim_end());
    }
    Ok(())
}
