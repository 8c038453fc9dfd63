//! `mcc-mutate`: plants bugs into the kernels of a bundle and prints how many the simulator reports.
//!
//! In: a bundle and what to try. Out: a report; exit code 1 when an original is not clean or the score is too low.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use mcc_bundle::Bundle;
use mcc_mutate::{Campaign, RecordOptions, handwritten, record};

/// Plants bugs into kernels' PTX and counts those that the simulator reports.
#[derive(Parser)]
#[command(name = "mcc-mutate", version)]
struct Args {
    /// Bundle whose kernels are mutated; without one only the hand-written kernels are
    bundle: Option<PathBuf>,
    /// Kernels whose names contain one of these words
    #[arg(long, value_delimiter = ',')]
    kernels: Vec<String>,
    /// Kinds of bugs
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Mutants of one kind in one kernel, at most; 0 for all
    #[arg(long, default_value_t = 2)]
    each: usize,
    /// Launches of a kernel that are run
    #[arg(long, default_value_t = 4)]
    launches: usize,
    /// Draws the sample
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// SMs of the device that launches are recorded on: few make every block work through several tiles
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3])]
    sms: Vec<u32>,
    /// Random schedules for `--originals`
    #[arg(long, default_value_t = 30)]
    seeds: u64,
    /// Mutants in all, at most; 0 for all
    #[arg(long, default_value_t = 0)]
    most: usize,
    /// Seconds after which no mutant begins
    #[arg(long)]
    limit: Option<u64>,
    /// Only run the unchanged kernels, under the extreme and the random schedules
    #[arg(long)]
    originals: bool,
    /// Leave the simulator's checkers off
    #[arg(long)]
    no_check: bool,
    /// Leave the hand-written kernels out
    #[arg(long)]
    no_handwritten: bool,
    /// The share of mutants that must be found, in percent
    #[arg(long, default_value_t = 0.0)]
    least: f64,
    /// Where the report goes as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the report goes as Markdown; else it is printed
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Print every mutant
    #[arg(long, short)]
    verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    let began = Instant::now();
    let mut subjects = if args.no_handwritten {
        Vec::new()
    } else {
        handwritten::subjects()?
    };
    if let Some(path) = &args.bundle {
        let bundle = Bundle::read(path)?;
        let options = RecordOptions {
            sms: args.sms.clone(),
            ..RecordOptions::default()
        };
        subjects.extend(record(&bundle, &options)?);
    }
    let launches: usize = subjects.iter().map(|s| s.cases.len()).sum();
    eprintln!(
        "{} kernels, {launches} launches recorded in {:.1} s",
        subjects.len(),
        began.elapsed().as_secs_f64()
    );
    let campaign = Campaign {
        kernels: args.kernels.clone(),
        kinds: args.kinds.clone(),
        each: args.each,
        launches: args.launches,
        seeds: args.seeds,
        seed: args.seed,
        most: args.most,
        limit: args.limit.map(Duration::from_secs),
        check: !args.no_check,
    };
    if args.originals {
        return match campaign.originals(&subjects, &|kernel| eprintln!("clean: {kernel}")) {
            Ok(runs) => {
                println!(
                    "{runs} runs of unchanged kernels under {} schedules: no report",
                    args.seeds + 2
                );
                Ok(true)
            }
            Err(alarms) => {
                for alarm in alarms {
                    println!("{alarm}");
                }
                Ok(false)
            }
        };
    }
    let count = AtomicUsize::new(0);
    let report = campaign.run(&subjects, &|done| {
        let n = count.fetch_add(1, Ordering::Relaxed) + 1;
        if args.verbose {
            let kind = mcc_mutate::kinds::all()[done.kind].name;
            eprintln!(
                "{kind} {} line {} `{}` {}: {:?}",
                done.kernel, done.line, done.text, done.note, done.verdict
            );
        } else if n.is_multiple_of(200) {
            eprintln!("{n} mutants");
        }
    })?;
    let page = report.markdown();
    match &args.markdown {
        Some(path) => std::fs::write(path, page)?,
        None => println!("{page}"),
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report.json())?)?;
    }
    let found = report.score(|_| true).found() * 100.0;
    eprintln!("{found:.1} % found, in {:.1} s", report.seconds);
    Ok(found >= args.least)
}
