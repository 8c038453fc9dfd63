//! The examples that docs/simulator.md walks through.

use std::path::{Path, PathBuf};

use mcc_sim::Completion;
use mcc_sim_run::{LaunchFile, Options, Report, Schedules, run, timeline_json};

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

/// The trace of the pipeline, as JSON.
fn timeline(completion: Completion) -> serde_json::Value {
    let (ptx, file) = (text("scale.ptx"), LaunchFile::parse(&text("scale.json")));
    let options = Options {
        schedules: Schedules::One(completion),
        trace: true,
        ..crate::options()
    };
    let report = run(&ptx, &file.expect("legal"), &folder(), &options).expect("runs");
    assert!(report.passed() && report.notes.is_empty(), "{report}");
    serde_json::from_str(&timeline_json(&report.timeline, &ptx)).expect("JSON")
}

#[test]
fn the_time_line_shows_the_pipeline() {
    let json = timeline(Completion::Late);
    let events = json["traceEvents"].as_array().expect("a list");
    let text = |e: &serde_json::Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
    let named = |kind: &str| -> Vec<String> {
        let all = events.iter().filter(|e| e["name"] == kind && e["pid"] == 1);
        all.map(|e| text(&e["args"], "name")).collect()
    };
    assert_eq!(named("process_name"), ["launch 0 `scale`, block (0, 0, 0)"]);
    let tracks = named("thread_name");
    for track in [
        "warp 0",
        "warp 4",
        "barrier 1",
        "TMA load",
        "TMA load (2)",
        "TMA store",
    ] {
        assert!(tracks.iter().any(|t| t == track), "{track} in {tracks:?}");
    }
    // Eight loads and eight stores a block, of two kilobytes each.
    let spans: Vec<_> = events
        .iter()
        .filter(|e| e["ph"] == "X" && e["pid"] == 1)
        .collect();
    for engine in ["TMA load", "TMA store"] {
        let all: Vec<_> = spans.iter().filter(|e| e["name"] == engine).collect();
        assert_eq!(all.len(), 8, "{engine}");
        assert!(all.iter().all(|e| e["args"]["bytes"] == 2048));
        assert!(text(&all[0]["args"], "ptx").starts_with("cp.async.bulk.tensor.2d"));
    }
    // On one track spans follow each other.
    for track in 1..=tracks.len() {
        let mut on: Vec<(f64, f64)> = spans
            .iter()
            .filter(|e| e["tid"] == track)
            .map(|e| {
                (
                    e["ts"].as_f64().expect("time"),
                    e["dur"].as_f64().expect("time"),
                )
            })
            .collect();
        on.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(!on.is_empty());
        assert!(
            on.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0 + 1e-9),
            "{track}: {on:?}"
        );
    }
    // With loads that take time the consumers wait for them.
    assert!(
        spans
            .iter()
            .any(|e| text(e, "name").starts_with("wait: mbarrier"))
    );
    assert_eq!(json, timeline(Completion::Late), "it repeats");
}
