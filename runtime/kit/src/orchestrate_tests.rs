//! Fake steps: shell scripts that pass, fail, hang, and find that something is not there.

use super::*;

fn step(id: &str, script: &str) -> Step {
    Step {
        id: id.to_owned(),
        title: id.to_owned(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        limit: Duration::from_secs(20),
        least: Duration::from_millis(1),
        requires: Vec::new(),
        skip: None,
        probes: false,
        review: no_review,
    }
}

fn all(budget: Duration, steps: &[Step]) -> (Results, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let plan = Run {
        commit: "0123456".to_owned(),
        started: "2026-01-31T12:00:00Z".to_owned(),
        dir: dir.path().to_owned(),
        work_dir: dir.path().to_owned(),
        budget,
    };
    let results = run(&plan, steps, &mut |_| ()).unwrap();
    (results, dir)
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_hanging_step_is_killed_and_the_next_one_runs() {
    let mut hangs = step("hangs", "echo '{\"half\": 1}'; sleep 60");
    hangs.limit = Duration::from_millis(300);
    let (results, _dir) = all(LONG, &[hangs, step("next", "echo '{\"x\": 1}'")]);
    assert_eq!(results.steps[0].verdict, Verdict::Failed);
    let reason = results.steps[0].reason.as_deref().unwrap();
    assert!(reason.contains("was killed"), "{reason}");
    // What it had said is kept.
    assert_eq!(results.steps[0].data["half"], 1);
    assert_eq!(results.steps[1].verdict, Verdict::Passed);
    assert_eq!(results.exit_code(), 1);
}

#[test]
fn a_failing_step_is_recorded_with_what_it_said() {
    let script =
        "echo '{\"mismatches\": 2}'; echo noise >&2; echo 'error: kernel gemm differs' >&2; exit 1";
    let (results, _dir) = all(
        LONG,
        &[step("fails", script), step("dies", "kill -SEGV $$")],
    );
    let fails = &results.steps[0];
    assert_eq!(fails.verdict, Verdict::Failed);
    assert_eq!(fails.reason.as_deref(), Some("kernel gemm differs"));
    assert_eq!(fails.exit_code, Some(1));
    assert_eq!(fails.data["mismatches"], 2);
    assert!(fails.log.contains("noise"));
    assert_eq!(
        results.steps[1].reason.as_deref(),
        Some("ended by signal 11")
    );
}

#[test]
fn the_budget_is_kept_and_what_it_cuts_off_is_named() {
    let mut long = step("long", "sleep 60");
    long.limit = Duration::from_secs(50);
    let mut late = step("late", "echo 1");
    late.least = Duration::from_secs(5);
    let start = Instant::now();
    let (results, _dir) = all(Duration::from_secs(1), &[long, late]);
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(results.steps[0].verdict, Verdict::Failed);
    assert_eq!(results.steps[1].verdict, Verdict::Skipped);
    let reason = results.steps[1].reason.as_deref().unwrap();
    assert!(reason.starts_with("no time left"), "{reason}");
    assert!(results.complete);
}

#[test]
fn a_missing_device_skips_what_needs_it_and_only_that() {
    let mut probe = step(
        "device",
        "echo 'error: no NVIDIA driver was found' >&2; exit 2",
    );
    probe.probes = true;
    let mut gpu = step("gpu", "exit 0");
    gpu.requires = vec!["device".to_owned()];
    let mut impossible = step("impossible", "exit 0");
    impossible.skip = Some("python3 was not found".to_owned());
    let (results, _dir) = all(LONG, &[probe, gpu, step("cpu", "exit 0"), impossible]);
    let verdicts: Vec<_> = results.steps.iter().map(|step| step.verdict).collect();
    use Verdict::{Passed, Skipped};
    assert_eq!(verdicts, [Skipped, Skipped, Passed, Skipped]);
    assert_eq!(
        results.steps[1].reason.as_deref(),
        Some("needs `device`, which was skipped")
    );
    assert_eq!(results.exit_code(), 3);
}

#[test]
fn losing_the_device_after_it_was_found_is_a_failure() {
    let (results, _dir) = all(LONG, &[step("run", "echo 'error: no GPU' >&2; exit 2")]);
    assert_eq!(results.steps[0].verdict, Verdict::Failed);
}

#[test]
fn partial_work_is_skipped_with_its_reason() {
    let script = "echo '{\"done\": 640}'; echo '640 of 1000 repeats in the time' >&2; exit 3";
    let (results, _dir) = all(LONG, &[step("repeat", script)]);
    assert_eq!(results.steps[0].verdict, Verdict::Skipped);
    assert_eq!(results.steps[0].data["done"], 640);
    assert_eq!(results.exit_code(), 3);
}

#[test]
fn results_survive_a_round_trip_and_lines_of_json_become_an_array() {
    let (results, dir) = all(
        LONG,
        &[step(
            "lines",
            "echo '{\"a\":1}'; echo warning; echo '{\"a\":2}'",
        )],
    );
    assert_eq!(results.steps[0].data[1]["a"], 2);
    assert_eq!(results.exit_code(), 0);
    let read = Results::read(dir.path()).unwrap();
    assert_eq!(read.steps.len(), 1);
    assert_eq!(read.steps[0], results.steps[0]);
}

#[test]
fn a_run_that_was_cut_off_is_not_a_pass() {
    let (mut results, _dir) = all(LONG, &[step("one", "exit 0")]);
    results.complete = false;
    assert_eq!(results.exit_code(), 3);
}

#[test]
fn a_step_that_ended_well_may_have_said_otherwise() {
    let mut partial = step("partial", "echo '{\"left\": 2}'");
    partial.review = |data| {
        let left = data["left"].as_u64()?;
        (left > 0).then(|| (Verdict::Skipped, format!("{left} left")))
    };
    let mut whole = step("whole", "echo '{\"left\": 0}'");
    whole.review = partial.review;
    let mut failed = step("failed", "echo '{\"left\": 2}'; exit 1");
    failed.review = partial.review;
    let (results, _dir) = all(LONG, &[partial, whole, failed]);
    let verdicts: Vec<_> = results.steps.iter().map(|step| step.verdict).collect();
    assert_eq!(
        verdicts,
        [Verdict::Skipped, Verdict::Passed, Verdict::Failed]
    );
    assert_eq!(results.steps[0].reason.as_deref(), Some("2 left"));
}
