//! `mcc gemm predict`: predicted times of the benchmark's GEMMs, beside published and measured ones.

use std::path::PathBuf;

use mcc_passes::target::Target;
use serde_json::json;

use crate::cli::print_line;
use crate::error::Error;
use crate::gemm::{predict, problems};

/// Flags of `mcc gemm predict`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The GPU to predict for: h800, h100 or h200.
    #[arg(long, default_value = "h100")]
    target: String,
    /// Shapes, in the format of bench/shapes.json [default: these].
    #[arg(long)]
    shapes: Option<PathBuf>,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// A report of `mcc bench --json` on a GPU: measured beside predicted, and the model fitted to it.
    #[arg(long)]
    measured: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let target = Target::load(&args.target)?;
    let mut named = problems::shapes(args.shapes.as_deref())?;
    named.retain(|n| n.name.contains(&args.only));
    let report = match &args.measured {
        Some(path) => Some(predict::read_measured(path, &target)?),
        None => None,
    };
    let rows = predict::rows(&named, &target, report.as_ref())?;
    let fit = report.as_ref().and_then(|report| {
        predict::fitted(&predict::measurements(&named, report, &target), &target)
    });
    let source = problems::source_of_published()?;
    if args.json {
        let fit = fit.map(|f| {
            json!({"params": f.params, "used": f.used, "rms_log_before": f.before, "rms_log_after": f.after})
        });
        print_line(
            &json!({
                "kind": "prediction", "target": target.name, "clock_hz": target.sustained_clock_hz,
                "published": source, "geometric_mean": predict::mean_ratio(&rows), "rows": rows, "fit": fit,
            })
            .to_string(),
        );
        return Ok(());
    }
    print_line(predict::table(&rows, &target, &source).trim_end());
    match (fit, report) {
        (Some(f), _) => print_line(&format!(
            "fitted to {} measured times: {:.1} % off before, {:.1} % after (root mean square); {:?}",
            f.used,
            100.0 * f.before,
            100.0 * f.after,
            f.params
        )),
        (None, Some(_)) => print_line("nothing measured is of a kernel that the model knows"),
        (None, None) => {}
    }
    Ok(())
}
