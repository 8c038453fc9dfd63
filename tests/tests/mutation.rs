//! The trained checkpoint's kernels are clean under the simulator's checkers whatever the schedule, and bugs that are
//! planted into them are found.
//!
//! `cargo xtask mutate` runs all kinds in all kernels and prints the whole report.

use std::sync::OnceLock;
use std::time::Duration;

use mcc::pack::pack;
use mcc_mutate::kinds::Class;
use mcc_mutate::{Campaign, RecordOptions, Subject, Verdict, record};

use crate::sources::tiny_built;

/// Kernels with recorded launches.
fn subjects() -> &'static [Subject] {
    static SUBJECTS: OnceLock<Vec<Subject>> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let (source, built) = tiny_built();
        let bundle = pack(source, built).expect("packs");
        let options = RecordOptions {
            sms: vec![3],
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

/// A sample, the same in every run but for where the time limit cuts it off.
#[test]
fn planted_bugs_are_found() {
    let campaign = Campaign {
        each: 1,
        limit: Some(Duration::from_secs(60)),
        ..Campaign::default()
    };
    let report = campaign
        .run(subjects(), &|_| ())
        .unwrap_or_else(|e| panic!("{e}"));
    let page = report.markdown();
    let all = report.score(|_| true);
    assert!(all.run >= 50, "a sample of {} says little", all.run);
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
