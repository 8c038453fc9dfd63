//! The examples that docs/simulator.md walks through.

use std::path::{Path, PathBuf};

use mcc_sim_run::{LaunchFile, Options, Report, Schedules, run};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples/sim")
}

fn text(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn report(ptx: &str, schedules: u32) -> Report {
    let file = LaunchFile::parse(&text("scale.json")).expect("legal");
    let options = Options {
        schedules: Schedules::Many(schedules),
        ..crate::options()
    };
    run(ptx, &file, &folder(), &options).expect("runs")
}

#[test]
fn the_pipeline_gives_the_same_under_every_schedule() {
    let report = report(&text("scale.ptx"), 32);
    assert!(report.passed(), "{report}");
    assert_eq!(report.expected[0].elements, 64 * 256);
    // Every byte of the matrix comes in and goes out once.
    assert_eq!(report.launches[0].bulk_copy_bytes, 2 * 4 * 64 * 256);
}

#[test]
fn the_race_shows_in_the_result() {
    let report = report(&text("scale_race.ptx"), 2);
    assert!(!report.passed());
    let d = &report.differences[0];
    assert_eq!(d.buffer, "y");
    assert_eq!(d.schedules, ["early".to_owned(), "late".to_owned()]);
}

#[test]
fn the_race_is_one_line() {
    let code = |name: &str| -> Vec<String> {
        let text = text(name);
        let lines = text.lines().filter(|l| !l.starts_with("//"));
        lines.map(str::to_owned).collect()
    };
    let (right, wrong) = (code("scale.ptx"), code("scale_race.ptx"));
    let gone: Vec<&String> = right.iter().filter(|l| !wrong.contains(l)).collect();
    assert_eq!(gone, ["\tcp.async.bulk.wait_group.read 0;"]);
    assert_eq!(right.len(), wrong.len() + 1);
}
