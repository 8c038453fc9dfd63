//! Runs the steps of the kit one after the other, come what may.
//!
//! In: steps, a budget. Out: results, written after every step, so that a run that is itself killed leaves what it
//! had. Holds: each step is a process of its own with a limit, so that a hung or poisoned GPU ends one step and not
//! the run; the run ends within its budget and the grace of one kill.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::child::{self, End};
use crate::results::{RESULTS_FORMAT, Results, StepResult, Verdict};

/// More than this is left in the log and not taken into the results.
const MOST_DATA: usize = 4 << 20;
/// Of a failed step's standard error.
const LOG_LINES: usize = 20;

/// A child's code for: this machine lacks what the step needs.
pub const EXIT_ENVIRONMENT: i32 = 2;
/// A child's code for: nothing was wrong, but not all of it was done.
pub const EXIT_SKIPPED: i32 = 3;

/// One thing to do.
#[derive(Clone, Debug)]
pub struct Step {
    /// Unique in a plan.
    pub id: String,
    /// For people.
    pub title: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// When it is killed.
    pub limit: Duration,
    /// It is not begun with less time left.
    pub least: Duration,
    /// Steps that must have passed before.
    pub requires: Vec<String>,
    /// Why it cannot run on this machine, when that is known before.
    pub skip: Option<String>,
    /// Whether [`EXIT_ENVIRONMENT`] means that the machine has no such thing. After a step that has found the thing,
    /// the same code is a failure.
    pub probes: bool,
    /// Looks at what a step that ended well has printed.
    pub review: fn(&Value) -> Option<(Verdict, String)>,
}

/// Takes an exit code of 0 at its word.
#[must_use]
pub fn no_review(_: &Value) -> Option<(Verdict, String)> {
    None
}

/// What a run is called and where it goes.
#[derive(Clone, Debug)]
pub struct Run {
    /// Commit of the kit.
    pub commit: String,
    /// UTC.
    pub started: String,
    /// Folder of the results.
    pub dir: PathBuf,
    /// Folder that the steps run in.
    pub work_dir: PathBuf,
    /// Time for everything.
    pub budget: Duration,
}

/// Runs `steps`; `say` hears one line before and one after each.
///
/// # Errors
/// When the results cannot be written.
pub fn run(
    run: &Run,
    steps: &[Step],
    say: &mut dyn FnMut(&dyn fmt::Display),
) -> io::Result<Results> {
    let start = Instant::now();
    let logs = run.dir.join("logs");
    std::fs::create_dir_all(&logs)?;
    let mut results = Results {
        format: RESULTS_FORMAT,
        commit: run.commit.clone(),
        started: run.started.clone(),
        budget_s: run.budget.as_secs_f64(),
        seconds: 0.0,
        complete: false,
        steps: Vec::with_capacity(steps.len()),
    };
    for (index, step) in steps.iter().enumerate() {
        let left = run.budget.saturating_sub(start.elapsed());
        let result = match cannot_run(step, &results, left) {
            Some(reason) => skipped(step, reason),
            None => {
                say(&format_args!(
                    "[{}/{}] {} ...",
                    index + 1,
                    steps.len(),
                    step.title
                ));
                execute(step, &logs, &run.work_dir, step.limit.min(left))?
            }
        };
        say(&format_args!(
            "[{}/{}] {}: {} ({:.1} s){}",
            index + 1,
            steps.len(),
            step.title,
            result.verdict.word(),
            result.seconds,
            result
                .reason
                .as_ref()
                .map_or_else(String::new, |why| format!(": {why}")),
        ));
        results.steps.push(result);
        results.seconds = start.elapsed().as_secs_f64();
        results.complete = results.steps.len() == steps.len();
        results.write(&run.dir)?;
    }
    Ok(results)
}

fn cannot_run(step: &Step, results: &Results, left: Duration) -> Option<String> {
    if let Some(reason) = &step.skip {
        return Some(reason.clone());
    }
    for id in &step.requires {
        match results.step(id) {
            Some(needed) if needed.verdict == Verdict::Passed => {}
            Some(needed) => {
                return Some(format!(
                    "needs `{id}`, which {}",
                    match needed.verdict {
                        Verdict::Failed => "has failed",
                        _ => "was skipped",
                    }
                ));
            }
            None => return Some(format!("needs `{id}`, which is not part of this run")),
        }
    }
    (left < step.least).then(|| {
        format!(
            "no time left: it needs {} s, {} s remain",
            step.least.as_secs(),
            left.as_secs()
        )
    })
}

fn skipped(step: &Step, reason: String) -> StepResult {
    StepResult {
        id: step.id.clone(),
        title: step.title.clone(),
        command: step.argv.join(" "),
        verdict: Verdict::Skipped,
        reason: Some(reason),
        seconds: 0.0,
        exit_code: None,
        data: Value::Null,
        log: String::new(),
    }
}

fn execute(step: &Step, logs: &Path, work_dir: &Path, limit: Duration) -> io::Result<StepResult> {
    let start = Instant::now();
    let (out, err) = (
        logs.join(format!("{}.out", step.id)),
        logs.join(format!("{}.err", step.id)),
    );
    let mut command = Command::new(step.argv.first().map_or("", String::as_str));
    command.args(step.argv.iter().skip(1)).current_dir(work_dir);
    let end = child::run(&mut command, &out, &err, limit)?;
    let stdout = std::fs::read(&out)?;
    let stderr = String::from_utf8_lossy(&std::fs::read(&err)?).into_owned();
    let data = parse(&stdout);
    let (verdict, reason) = match (judge(step, &end, &stderr, limit), (step.review)(&data)) {
        ((Verdict::Passed, _), Some((verdict, why))) => (verdict, Some(why)),
        (judged, _) => judged,
    };
    Ok(StepResult {
        seconds: start.elapsed().as_secs_f64(),
        verdict,
        exit_code: match end {
            End::Code(code) => Some(code),
            _ => None,
        },
        data,
        log: if verdict == Verdict::Passed {
            String::new()
        } else {
            tail(&stderr, LOG_LINES)
        },
        reason,
        ..skipped(step, String::new())
    })
}

fn judge(step: &Step, end: &End, stderr: &str, limit: Duration) -> (Verdict, Option<String>) {
    let said = || {
        let line = tail(stderr, 1);
        let line = line.trim().trim_start_matches("error: ");
        (!line.is_empty()).then(|| line.to_owned())
    };
    let failed = |why: String| (Verdict::Failed, Some(why));
    match end {
        End::Code(0) => (Verdict::Passed, None),
        End::Code(EXIT_SKIPPED) => (
            Verdict::Skipped,
            Some(said().unwrap_or_else(|| "it said no reason".to_owned())),
        ),
        End::Code(EXIT_ENVIRONMENT) if step.probes => (
            Verdict::Skipped,
            Some(said().unwrap_or_else(|| "not on this machine".to_owned())),
        ),
        End::Code(code) => failed(said().unwrap_or_else(|| format!("exit code {code}"))),
        End::Signal(signal) => failed(format!("ended by signal {signal}")),
        End::TimedOut { gone: true } => failed(format!(
            "did not end within {:.0} s and was killed",
            limit.as_secs_f64()
        )),
        End::TimedOut { gone: false } => failed(format!(
            "did not end within {:.0} s and could not be killed: it hangs inside of the driver",
            limit.as_secs_f64()
        )),
        End::NotStarted(why) => failed(format!(
            "{} cannot be started: {why}",
            step.argv.first().map_or("", String::as_str)
        )),
    }
}

/// One JSON value, or one a line; other lines are no data.
fn parse(stdout: &[u8]) -> Value {
    if stdout.len() > MOST_DATA {
        return serde_json::json!({ "too_large_bytes": stdout.len() });
    }
    if let Ok(value) = serde_json::from_slice(stdout) {
        return value;
    }
    let lines: Vec<Value> = String::from_utf8_lossy(stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if lines.is_empty() {
        Value::Null
    } else {
        Value::Array(lines)
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
#[path = "orchestrate_tests.rs"]
mod tests;
