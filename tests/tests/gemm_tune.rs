//! Predicted times beside published ones, and the tuning database's way: a bundle of candidates, a report of their
//! times, the winners in the database, the build that takes them.

use mcc::gemm::{predict, problems, tune};
use mcc_bundle::DimValues;
use mcc_ir::kernel::GemmForm;
use mcc_ir::types::DType;
use mcc_passes::heuristics::gemm::{Database, GemmProblem, choose, choose_with};
use mcc_passes::target::Target;
use mcc_runtime::bench::{self, Kind, REPORT_VERSION, Report};

fn target() -> Target {
    Target::load("h100").expect("a known target")
}

fn problem(rows: u64) -> problems::Named {
    problems::Named {
        name: format!("product_m{rows}"),
        problem: GemmProblem::new(DType::E4M3, DType::BF16, GemmForm::Dense, rows, 256, 512),
        published: None,
    }
}

/// What `mccrt bench` prints for a bundle without a GPU.
fn predictions(bundle: &mcc_bundle::Bundle) -> Report {
    let manifest = &bundle.manifest;
    let cases = bench::cases(manifest, None, &DimValues::default()).expect("cases");
    let entries = cases.iter().map(|case| bench::predict(manifest, case, &[]));
    Report {
        version: REPORT_VERSION,
        kind: Kind::Prediction,
        device: "simulated".to_owned(),
        driver: String::new(),
        sms: 132,
        target: manifest.target.name.clone(),
        model: manifest.model.clone(),
        machine: None,
        entries: entries.collect::<Result<_, _>>().expect("predictions"),
        failures: Vec::new(),
    }
}

/// The report as a GPU would have written it, with these times of entries, in microseconds.
fn measured(mut report: Report, us: impl Fn(&str) -> f64) -> Report {
    report.kind = Kind::Measured;
    for entry in &mut report.entries {
        let seconds = us(&entry.entry) * 1e-6;
        for step in &mut entry.steps {
            for figures in [&mut step.cold, &mut step.warm] {
                figures.kind = Kind::Measured;
                figures.seconds = seconds;
            }
        }
    }
    report
}

#[test]
fn the_fastest_candidate_of_a_report_is_what_the_next_build_takes() {
    let target = target();
    let named = [problem(16), problem(1024)];
    let bundle = tune::bundle(&named, &target, 3, false, &mut |_, _, _| {}).expect("a bundle");
    assert_eq!(bundle.manifest.entries.len(), 6);
    // The model's second is the winner of one, its third of the other.
    let report = measured(predictions(&bundle), |entry| match entry {
        "product_m16.1" | "product_m1024.2" => 5.0,
        _ => 7.5,
    });
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("report.json");
    std::fs::write(&path, serde_json::to_string(&report).expect("JSON")).expect("written");
    let report = predict::read_measured(&path, &target).expect("a measured report");

    let mut database = Database::empty("h100");
    let changes = tune::record(&mut database, &named, &report, &target, "a test");
    let winners: Vec<_> = changes
        .winners
        .iter()
        .map(|(n, at, ns)| (&**n, *at, *ns))
        .collect();
    assert_eq!(
        winners,
        [("product_m16", 1, 5000), ("product_m1024", 2, 5000)]
    );
    assert!(changes.unknown.is_empty(), "{:?}", changes.unknown);
    assert_eq!(changes.measured.len(), 6);

    // Through the text that is committed.
    let text = database.to_json().expect("JSON");
    let database = Database::parse("h100", &text).expect("what was written reads back");
    for (named, place) in named.iter().zip([1, 2]) {
        let by_model = choose(named.problem, &target);
        let tuned = choose_with(named.problem, &target, &database);
        assert_ne!(by_model.best(), tuned.best());
        assert_eq!(tuned.best(), Some(by_model.candidates[place].tile));
    }
}

#[test]
fn predictions_and_other_targets_are_no_measurements() {
    let target = target();
    let bundle = tune::bundle(&[problem(16)], &target, 1, false, &mut |_, _, _| {});
    let report = predictions(&bundle.expect("a bundle"));
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("report.json");
    let refused = |report: &Report| {
        std::fs::write(&path, serde_json::to_string(report).expect("JSON")).expect("written");
        let error = predict::read_measured(&path, &target).expect_err("is refused");
        error.to_string()
    };
    assert!(
        refused(&report).contains("predictions"),
        "{}",
        refused(&report)
    );
    let mut other = measured(report, |_| 1.0);
    other.target = "h200".to_owned();
    assert!(refused(&other).contains("h200"), "{}", refused(&other));
    // Predictions under a head that says measured.
    other.target = "h100".to_owned();
    other.entries[0].steps[0].cold.kind = Kind::Prediction;
    assert!(
        refused(&other).contains("predictions"),
        "{}",
        refused(&other)
    );
}

#[test]
fn a_kernel_of_another_compiler_is_named_and_left_out() {
    let target = target();
    let named = [problem(16)];
    let bundle = tune::bundle(&named, &target, 2, false, &mut |_, _, _| {}).expect("a bundle");
    let mut report = measured(predictions(&bundle), |_| 3.0);
    report.entries[0].steps[0].kernel = "gemm_of_yesterday".to_owned();
    let mut database = Database::empty("h100");
    let changes = tune::record(&mut database, &named, &report, &target, "a test");
    assert_eq!(changes.unknown, ["product_m16.0"]);
    assert_eq!(changes.winners, [("product_m16".to_owned(), 1, 3000)]);
}

/// Every shape of the benchmarks has a prediction that no limit of the machine forbids, and the figures that others
/// published belong to shapes that there are.
#[test]
fn every_benchmark_shape_has_a_prediction_and_published_figures_have_a_shape() {
    let target = target();
    let shapes = problems::shapes(None).expect("bench/shapes.json");
    let rows = predict::rows(&shapes, &target, None).expect("predictions");
    assert_eq!(rows.len(), shapes.len());
    for row in &rows {
        assert!(
            row.limit_us > 0.0 && row.limit_us <= row.cold_us,
            "{}: {} us, the data sheet allows {}",
            row.name,
            row.cold_us,
            row.limit_us
        );
        assert!(row.warm_us <= row.cold_us, "{}", row.name);
    }
    let text = include_str!("../../bench/published.json");
    let published: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let figures = published["rows"].as_array().map_or(0, Vec::len);
    let with = rows.iter().filter(|row| row.published.is_some()).count();
    assert!(
        figures > 0 && with == figures,
        "{with} of {figures} have a shape"
    );
    for row in rows.iter().filter_map(|row| Some((row, row.published?))) {
        let (row, published) = row;
        // No figure is above the data sheet's FP8 peak.
        assert!(
            published.least > 0.0 && published.least <= published.most,
            "{}",
            row.name
        );
        assert!(
            published.most < target.fp8_flops as f64 / 1e12,
            "{}",
            row.name
        );
    }
}
