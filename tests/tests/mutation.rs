//! The trained checkpoint's kernels are clean under the simulator's checkers whatever the schedule, and bugs that are
//! planted into them are found.
//!
//! `cargo xtask mutate` runs all kinds in all kernels and prints the whole report.

use std::sync::OnceLock;

use mcc::pack::pack;
use mcc_mutate::kinds::Class;
use mcc_mutate::{Campaign, RecordOptions, Subject, Verdict, record};

use crate::sources::tiny_built;

/// Mutants of the sample: a minute on two cores.
const SAMPLE: usize = 200;

/// Kernels with recorded launches.
fn subjects() -> &'static [Subject] {
    static SUBJECTS: OnceLock<Vec<Subject>> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let (source, built) = tiny_built();
        let bundle = pack(source, built).expect("packs");
        let options = RecordOptions {
            sms: vec![3],
            context: None,
            ..RecordOptions::default()
        };
        let subjects = record(&bundle, &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            subjects.len(),
            bundle.manifest.kernels.len(),
            "every kernel is launched"
        );
        subjects
    })
}

/// No false alarm: as early as possible, as late as allowed, and 30 schedules in between.
#[test]
fn every_kernel_is_clean_under_every_schedule() {
    let campaign = Campaign {
        seeds: 30,
        launches: 1,
        ..Campaign::default()
    };
    let runs = campaign
        .originals(subjects(), &|_| ())
        .unwrap_or_else(|alarms| {
            let alarms: Vec<String> = alarms.iter().map(ToString::to_string).collect();
            panic!("{}", alarms.join("\n"))
        });
    assert_eq!(runs, 32 * subjects().len() as u64);
}

/// A sample, the same in every run.
#[test]
fn planted_bugs_are_found() {
    let campaign = Campaign {
        each: 1,
        launches: 2,
        most: SAMPLE,
        ..Campaign::default()
    };
    let report = campaign
        .run(subjects(), &|_| ())
        .unwrap_or_else(|e| panic!("{e}"));
    let page = report.markdown();
    let all = report.score(|_| true);
    assert_eq!(all.run, SAMPLE, "{page}");
    assert!(
        !report
            .done
            .iter()
            .any(|d| matches!(d.verdict, Verdict::Panicked(_))),
        "{page}"
    );
    assert!(all.found() >= 0.95, "{page}");
    // Races, missing fences and waits are the checkers' business, without a look at results.
    assert!(report.class(Class::Order).by_simulator() >= 0.9, "{page}");
}
