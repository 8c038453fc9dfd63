//! Schedules, limits, findings, and what the report says of them.

use std::path::Path;

use mcc_sim::Completion;
use mcc_sim_run::{LaunchFile, Options, Report, Schedules, run};

use crate::{increment, kernel, options};

fn report(ptx: &str, file: &str, options: &Options) -> Report {
    let file = LaunchFile::parse(file).expect("legal");
    run(ptx, &file, Path::new(""), options).expect("runs")
}

const ONE: &str = r#"{"buffers": {"x": {"dtype": "u32", "shape": [32], "fill": "zeros"}},
    "launch": {"grid": 1, "block": 32, "args": ["x"]}}"#;

#[test]
fn schedules_are_the_extremes_and_then_seeds() {
    let names = |schedules| -> Vec<String> {
        let options = Options {
            schedules,
            ..options()
        };
        let runs = report(&increment(), ONE, &options).runs;
        runs.into_iter().map(|r| r.schedule).collect()
    };
    assert_eq!(
        names(Schedules::Many(4)),
        ["early", "late", "seed 1", "seed 2"]
    );
    assert_eq!(names(Schedules::Many(1)), ["early"]);
    assert_eq!(names(Schedules::One(Completion::Random(9))), ["seed 9"]);
}

#[test]
fn every_run_begins_anew() {
    // A second run on what the first one left would give 2.
    let expect = r#"{"expect": [{"buffer": "x", "fill": {"constant": 1}}], "#;
    let file = ONE.replacen('{', expect, 1);
    let options = Options {
        schedules: Schedules::Many(5),
        ..options()
    };
    let report = report(&increment(), &file, &options);
    assert!(report.passed(), "{report}\n{file}");
    assert!(
        report.to_string().contains("the same bits in every buffer"),
        "{report}"
    );
}

#[test]
fn faults_are_findings_and_are_told_once() {
    let file = ONE.replace("[32]", "[16]");
    let options = Options {
        schedules: Schedules::Many(3),
        ..options()
    };
    let report = report(&increment(), &file, &options);
    assert!(!report.passed());
    let finding = report.runs[0].finding.as_ref().expect("out of bounds");
    // The kernel's text begins on line 4, its body on line 6.
    assert_eq!(
        (finding.kind, finding.kernel.as_str(), finding.line),
        ("fault", "k", 8)
    );
    let text = report.to_string();
    assert!(
        text.contains("early, late, seed 1: kernel `k`, PTX line 8"),
        "{text}"
    );
    assert_eq!(text.matches("out of bounds").count(), 1, "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
    assert_eq!(json["passed"], false);
    assert_eq!(json["runs"][2]["finding"]["line"], 8);
}

#[test]
fn dead_locks_and_endless_loops_end() {
    let stuck = kernel(
        ".param .u64 x",
        ".reg .pred %p<2>; .reg .b32 %r<2>; mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0;
        @%p1 bra OUT; bar.sync 1, 64; OUT: ret;",
    );
    let file = ONE.replace("\"block\": 32", "\"block\": 64");
    let r = report(&stuck, &file, &options());
    assert!(!r.passed(), "{r}");
    let endless = kernel(".param .u64 x", "LOOP: bra LOOP;");
    let options = Options {
        instruction_limit: 100_000,
        ..options()
    };
    let r = report(&endless, ONE, &options);
    let finding = r.runs[0].finding.as_ref().expect("endless");
    assert!(
        finding
            .message
            .contains("more than 100000 warp instructions"),
        "{r}"
    );
    // Many blocks that end soon are bounded, too.
    let many = ONE.replace("\"grid\": 1", "\"grid\": 2147483647");
    let r = report(&kernel(".param .u64 x", "ret;"), &many, &options);
    assert!(r.runs[0].finding.is_some(), "{r}");
}

#[test]
fn approximate_instructions_are_named() {
    let ptx = kernel(
        ".param .u64 x",
        ".reg .f32 %f<3>; .reg .b64 %rd<2>; ld.param.u64 %rd1, [x];
        ld.global.f32 %f1, [%rd1];
        ex2.approx.ftz.f32 %f2, %f1;
        st.global.f32 [%rd1], %f2; ret;",
    );
    let file = ONE.replace("\"u32\"", "\"f32\"");
    let r = report(&ptx, &file, &options());
    let line = "approximate: ex2.approx.ftz.f32 (`k`, PTX line 8): rounded correctly here; a GPU may differ by 2 ulp";
    assert!(r.to_string().contains(line), "{r}");
}

#[test]
fn what_nothing_has_written_is_unknown() {
    let empty = ONE.replace(r#", "fill": "zeros""#, "");
    let with = |check, file: &str| {
        let options = Options { check, ..options() };
        report(&increment(), file, &options)
    };
    assert!(with(true, ONE).passed());
    assert!(with(false, &empty).passed());
    let r = with(true, &empty);
    let finding = r.runs[0]
        .finding
        .as_ref()
        .expect("read before it is written");
    assert_eq!(
        (finding.line, finding.text.as_str()),
        (
            8,
            "add.s64 %rd1, %rd1, %rd2; ld.global.u32 %r2, [%rd1]; add.u32 %r2, %r2, 1;"
        )
    );
}
