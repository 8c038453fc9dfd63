//! `mcc gemm tune`: writes a bundle of candidates to measure, and the tuning database from what was measured.

use std::path::{Path, PathBuf};

use mcc_passes::heuristics::gemm::Database;
use mcc_passes::target::Target;

use crate::cli::build::write_whole;
use crate::cli::model::bar;
use crate::cli::print_line;
use crate::error::Error;
use crate::gemm::problems::{self, Named, ProblemFlags};
use crate::gemm::{predict, tune};

/// Flags of `mcc gemm tune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The GPU to tune for: h800, h100 or h200.
    #[arg(long, default_value = "h100")]
    target: String,
    /// Shapes, in the format of bench/shapes.json [default: these, unless --gemm names one].
    #[arg(long, conflicts_with = "gemm")]
    shapes: Option<PathBuf>,
    #[command(flatten)]
    problem: ProblemFlags,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Candidates of each problem.
    #[arg(long, default_value_t = 8)]
    candidates: usize,
    /// The bundle to write, for `mccrt bench BUNDLE --device cuda --json`.
    #[arg(short, long, required_unless_present = "read")]
    output: Option<PathBuf>,
    /// Packs PTX only.
    #[arg(long)]
    no_cubin: bool,
    /// What that measured.
    #[arg(long, conflicts_with = "output", requires = "write")]
    read: Option<PathBuf>,
    /// The database to write: its entries of other problems stay.
    #[arg(long, requires = "read")]
    write: Option<PathBuf>,
    /// Fits the model to what was measured, too.
    #[arg(long, requires = "read")]
    calibrate: bool,
    /// Machine and date, for the entries [default: the report's device and driver].
    #[arg(long)]
    source: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let target = Target::load(&args.target)?;
    let mut named = match args.problem.problem()? {
        Some(problem) => vec![Named {
            name: format!("gemm_m{}", problem.rows),
            problem,
            published: None,
        }],
        None => problems::shapes(args.shapes.as_deref())?,
    };
    named.retain(|n| n.name.contains(&args.only));
    if named.is_empty() {
        return Err(Error::Usage(format!(
            "no shape's name contains `{}`",
            args.only
        )));
    }
    match (&args.output, &args.read, &args.write) {
        (Some(out), _, _) => write_bundle(args, &named, &target, out),
        (None, Some(read), Some(write)) => read_report(args, &named, &target, read, write),
        _ => Err(Error::Usage(
            "--output writes the bundle to measure, --read with --write takes what was measured"
                .to_owned(),
        )),
    }
}

fn write_bundle(args: &Args, named: &[Named], target: &Target, out: &PathBuf) -> Result<(), Error> {
    let bar = bar("compiling");
    let bundle = tune::bundle(
        named,
        target,
        args.candidates.max(1),
        !args.no_cubin,
        &mut |name, done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(name.to_owned());
        },
    );
    bar.finish_and_clear();
    let bundle = bundle?;
    bundle.write(out).map_err(Error::bundle(out))?;
    print_line(&format!(
        "{}: {} candidates of {} products; measure them with `mccrt bench {} --device cuda --json`",
        out.display(),
        bundle.manifest.entries.len(),
        named.len(),
        out.display()
    ));
    Ok(())
}

fn read_report(
    args: &Args,
    named: &[Named],
    target: &Target,
    read: &Path,
    write: &PathBuf,
) -> Result<(), Error> {
    let report = predict::read_measured(read, target)?;
    let refuse = |e: mcc_passes::heuristics::gemm::TuningError| {
        Error::Usage(format!("{}: {e}", write.display()))
    };
    let mut database = match std::fs::read_to_string(write) {
        Ok(text) => Database::parse(&target.name, &text).map_err(refuse)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Database::empty(&target.name),
        Err(e) => return Err(Error::io("read", write)(e)),
    };
    let source = args
        .source
        .clone()
        .unwrap_or_else(|| format!("{}, driver {}", report.device, report.driver));
    let changes = tune::record(&mut database, named, &report, target, &source);
    if changes.winners.is_empty() {
        return Err(Error::Usage(format!(
            "{}: nothing in it is a candidate of these shapes",
            read.display()
        )));
    }
    for (name, place, ns) in &changes.winners {
        print_line(&format!(
            "{name}: {:.1} us, the model's number {}",
            *ns as f64 / 1e3,
            place + 1
        ));
    }
    for name in &changes.unknown {
        print_line(&format!(
            "{name}: a kernel that this compiler does not build; left out"
        ));
    }
    if args.calibrate
        && let Some(fit) = predict::fitted(&changes.measured, target)
    {
        print_line(&format!(
            "model fitted to {} times: {:.1} % off before, {:.1} % after (root mean square)",
            fit.used,
            100.0 * fit.before,
            100.0 * fit.after
        ));
        database.calibration = Some(fit.params);
    }
    let text = database.to_json().map_err(refuse)?;
    write_whole(write, text.as_bytes())
}
