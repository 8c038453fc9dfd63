//! `mcckit run` and `mcckit report`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use mcc_kit::contents::{Kit, RESULTS_DIR};
use mcc_kit::orchestrate::{self, Run};
use mcc_kit::plan::{self, Setting};
use mcc_kit::results::{Results, Verdict};
use mcc_kit::{clock, facts, report as page};

use crate::Failure;

#[derive(ClapArgs)]
pub struct Args {
    /// `cuda`, `cuda:1`; `sim` rehearses the steps, slowly
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Folder of the results [default: results/DATE-GPU-COMMIT in the kit]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seconds for everything
    #[arg(long, default_value_t = 460)]
    budget: u64,
    /// Of the random inputs [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Only steps whose name begins with one of these, and those that they need
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Prints the steps and runs none
    #[arg(long)]
    list: bool,
}

#[derive(ClapArgs)]
pub struct ReportArgs {
    /// Folder with results.json
    dir: PathBuf,
}

pub fn run(kit_dir: &Path, args: &Args) -> Result<u8, Failure> {
    let kit_dir = kit_dir.canonicalize().map_err(Failure::io(kit_dir))?;
    let kit = Kit::read(&kit_dir)?;
    let now = clock::now();
    let setting = Setting {
        kit_dir: kit_dir.clone(),
        device: args.device.clone(),
        seed: args.seed.unwrap_or(now),
        python: facts::find_tool("python3"),
        sanitizer: facts::find_tool("compute-sanitizer"),
    };
    let mut steps = plan::steps(&kit, &setting);
    if !args.only.is_empty() {
        plan::keep(&mut steps, &args.only);
    }
    if args.list {
        for step in &steps {
            println!(
                "{:24} up to {:3} s  {}",
                step.id,
                step.limit.as_secs(),
                step.title
            );
        }
        return Ok(0);
    }
    let unnamed = kit_dir.join(RESULTS_DIR).join(format!("running-{now}"));
    let dir = args.out.clone().unwrap_or_else(|| unnamed.clone());
    std::fs::create_dir_all(&dir).map_err(Failure::io(&dir))?;
    let dir = dir.canonicalize().map_err(Failure::io(&dir))?;
    let plan = Run {
        commit: kit.commit.clone(),
        started: clock::timestamp(now),
        dir: dir.clone(),
        work_dir: kit_dir.clone(),
        budget: Duration::from_secs(args.budget),
    };
    let say = &mut |line: &dyn std::fmt::Display| println!("{line}");
    let results = orchestrate::run(&plan, &steps, say).map_err(Failure::io(&dir))?;
    page::write(&results, &dir).map_err(Failure::io(&dir))?;
    let dir = if args.out.is_some() {
        dir
    } else {
        // What a folder is called depends on the GPU that was found.
        let name = format!(
            "{}-{}-{}",
            clock::date(now),
            page::gpu_slug(&results),
            kit.commit.get(..10).unwrap_or(&kit.commit)
        );
        rename_free(&dir, &kit_dir.join(RESULTS_DIR), &name).map_err(Failure::io(&dir))?
    };
    println!("\n{}", summary(&results));
    println!("results: {}", dir.display());
    Ok(results.exit_code())
}

pub fn report(args: &ReportArgs) -> Result<(), Failure> {
    let results = Results::read(&args.dir).map_err(Failure::io(&args.dir))?;
    page::write(&results, &args.dir).map_err(Failure::io(&args.dir))?;
    println!("{}", args.dir.join(page::PAGE_FILE).display());
    Ok(())
}

/// Renames to the first of `name`, `name-2`, `name-3`, ... that is free.
fn rename_free(from: &Path, into: &Path, name: &str) -> std::io::Result<PathBuf> {
    let mut to = into.join(name);
    let mut number = 2;
    while to.exists() {
        to = into.join(format!("{name}-{number}"));
        number += 1;
    }
    std::fs::rename(from, &to)?;
    Ok(to)
}

fn summary(results: &Results) -> String {
    let count = |verdict| results.with(verdict).count();
    let mut text = format!(
        "{} passed, {} failed, {} skipped in {:.0} s",
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::Skipped),
        results.seconds
    );
    // Steps with one reason share a line.
    let mut groups: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for step in results
        .steps
        .iter()
        .filter(|step| step.verdict != Verdict::Passed)
    {
        let (word, why) = (step.verdict.word(), step.reason.as_deref().unwrap_or(""));
        match groups
            .iter_mut()
            .find(|group| (group.0, group.1) == (word, why))
        {
            Some(group) => group.2.push(&step.id),
            None => groups.push((word, why, vec![&step.id])),
        }
    }
    for (word, why, ids) in groups {
        text += &format!("\n  {word} {}: {why}", ids.join(", "));
    }
    text
}
