//! The examples that docs/simulator.md walks through.

use std::path::{Path, PathBuf};

use clap::Parser;

use mcc_sim::{ClusterTrace, Completion, TraceEngine, TraceEvent, TraceKind};
use mcc_sim_run::cli::SimFlags;
use mcc_sim_run::{LaunchFile, Options, Report, Schedules, run, timeline_json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples/sim")
}

fn text(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn report(ptx: &str, check: bool, schedules: u32) -> Report {
    let file = LaunchFile::parse(&text("scale.json")).expect("legal");
    let options = Options {
        check,
        schedules: Schedules::Many(schedules),
        ..crate::options()
    };
    run(ptx, &file, &folder(), &options).expect("runs")
}

#[test]
fn the_pipeline_is_clean_under_every_schedule() {
    let report = report(&text("scale.ptx"), true, 32);
    assert!(report.passed(), "{report}");
    assert_eq!(report.expected[0].elements, 64 * 256);
    // Every byte of the matrix comes in and goes out once.
    assert_eq!(report.launches[0].bulk_copy_bytes, 2 * 4 * 64 * 256);
}

#[test]
fn the_race_shows_in_the_result() {
    let report = report(&text("scale_race.ptx"), false, 2);
    assert!(!report.passed());
    let d = &report.differences[0];
    assert_eq!(d.buffer, "y");
    assert_eq!(d.schedules, ["early".to_owned(), "late".to_owned()]);
}

#[test]
fn the_checkers_find_the_race_under_any_schedule() {
    let report = report(&text("scale_race.ptx"), true, 4);
    for run in &report.runs {
        let finding = run.finding.as_ref().unwrap_or_else(|| panic!("{report}"));
        assert_eq!((finding.kind, finding.kernel.as_str()), ("fault", "scale"));
        // What is written and what still reads it.
        for part in [
            "st.shared.v4.f32",
            "cp.async.bulk.tensor.2d.global",
            "wait_group.read",
        ] {
            assert!(
                finding.message.contains(part),
                "{part}: {}",
                finding.message
            );
        }
    }
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

/// Five blocks of K, of which every product is 1/2 and every scale 1/2.
const GEMM: &str = r#"{
    "buffers": {
        "y": {"dtype": "f32", "shape": [64, 192]},
        "a": {"dtype": "e4m3", "shape": [64, 640], "fill": {"constant": 1}},
        "b": {"dtype": "e4m3", "shape": [192, 640], "fill": {"constant": 0.5}},
        "a_scale": {"dtype": "f32", "shape": [64, 5], "fill": {"constant": 2}},
        "b_scale": {"dtype": "f32", "shape": [2, 5], "fill": {"constant": 0.25}}
    },
    "launch": {
        "kernel": "fp8_gemm", "grid": [1, 3], "block": 160, "shared": 50176,
        "args": [
            "y",
            {"tensor_map": {"buffer": "a", "type": "u8", "dims": [640, 64], "box": [128, 64], "swizzle": "128B"}},
            {"tensor_map": {"buffer": "b", "type": "u8", "dims": [640, 192], "box": [128, 64], "swizzle": "128B"}},
            "a_scale", "b_scale", 192, 640
        ]
    },
    "expect": [{"buffer": "y", "fill": {"constant": 160}}]
}"#;

#[test]
fn a_kernel_that_nvcc_made() {
    let ptx = text("../../runtime/sim/tests/foreign/cuda_fp8_gemm.ptx");
    let options = Options {
        schedules: Schedules::Many(4),
        trace: true,
        ..crate::options()
    };
    let file = LaunchFile::parse(GEMM).expect("legal");
    let report = run(&ptx, &file, &folder(), &options).expect("runs");
    assert!(report.passed(), "{report}");
    assert_eq!(report.launches[0].wgmma_multiply_adds, 64 * 192 * 640);
    // A product of 32 of K each, twenty in each of three blocks.
    let products = |c: &ClusterTrace| {
        let is = |e: &&TraceEvent| {
            matches!(
                e.what,
                TraceKind::Async {
                    engine: TraceEngine::Wgmma,
                    warp: 0,
                    ..
                }
            )
        };
        c.events.iter().filter(is).count()
    };
    let clusters = &report.timeline[0].clusters;
    assert_eq!(clusters.iter().map(products).collect::<Vec<_>>(), [20; 3]);
}

/// The command line without the binaries.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: SimFlags,
}

#[test]
fn the_page_shows_what_is_printed() {
    let root = folder().join("../..");
    let page = std::fs::read_to_string(root.join("docs/simulator.md")).expect("the page");
    let mut lines = page.lines().peekable();
    let mut shown = 0;
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("    $ mcc sim ") else {
            continue;
        };
        let mut want = Vec::new();
        while let Some(output) = lines.peek().and_then(|l| l.strip_prefix("    ")) {
            want.push(output);
            lines.next();
        }
        if want.is_empty() {
            continue;
        }
        let here = format!("{}/", folder().display());
        let words = command.replace("examples/sim/", &here);
        let cli = Cli::try_parse_from(std::iter::once("sim").chain(words.split(' ')));
        let answer = cli
            .unwrap_or_else(|e| panic!("{e}"))
            .flags
            .run()
            .expect("runs");
        assert_eq!(answer.passed, want.last() == Some(&"passed"), "{command}");
        // How a race is worded is the checkers' business.
        let plain = |l: &str| l.split("race:").next().map(str::to_owned);
        let got: Vec<_> = answer.text.lines().map(plain).collect();
        assert_eq!(
            got,
            want.iter().map(|l| plain(l)).collect::<Vec<_>>(),
            "{command}"
        );
        shown += 1;
    }
    assert_eq!(shown, 3);
}

#[test]
fn flags_are_schedules_and_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace = dir.path().join("t.json");
    let (ptx, launch) = (folder().join("scale.ptx"), folder().join("scale.json"));
    let parse = |more: &[&str]| {
        let base = [
            "sim",
            ptx.to_str().expect("text"),
            "--launch",
            launch.to_str().expect("text"),
        ];
        Cli::try_parse_from(base.iter().chain(more).copied())
    };
    let to = trace.to_str().expect("text");
    let answer = parse(&["--seed", "late", "--json", "--trace", to]).map(|c| c.flags.run());
    let answer = answer.unwrap_or_else(|e| panic!("{e}")).expect("runs");
    let json: serde_json::Value = serde_json::from_str(&answer.text).expect("JSON");
    assert_eq!(
        (&json["passed"], &json["runs"][0]["schedule"]),
        (&true.into(), &"late".into())
    );
    assert!(
        std::fs::read_to_string(&trace)
            .expect("written")
            .contains("wait: mbarrier")
    );
    for wrong in [
        &["--seed", "soon"][..],
        &["--seeds", "0"],
        &["--seed", "1", "--seeds", "2"],
        &["--memory-limit", "1TB"],
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
    let nowhere = parse(&["--trace", "/no/folder/t.json"]).map(|c| c.flags.run());
    let error = nowhere
        .unwrap_or_else(|e| panic!("{e}"))
        .expect_err("no folder");
    assert!(
        error.to_string().contains("cannot write /no/folder/t.json"),
        "{error}"
    );
}
