//! The hand-written kernels are right and clean under every schedule, and bugs planted into them are found.

use mcc_mutate::judge::schedules;
use mcc_mutate::kinds::Class;
use mcc_mutate::{Campaign, Done, Setting, Verdict, handwritten};

/// What the tests of this crate ask for: two extreme schedules and so many random ones.
const SEEDS: u64 = 30;

#[test]
fn the_originals_are_right_under_every_schedule() {
    for known in handwritten::known().expect("PTX") {
        let subject = &known.subject;
        for completion in schedules(SEEDS) {
            let setting = Setting {
                completion,
                check: true,
                limit: Some(1_000_000),
                map: None,
            };
            let left = subject.cases[0]
                .run(&subject.kernel, &subject.ptx, &setting)
                .unwrap_or_else(|e| panic!("{completion:?}: {e}"));
            for (region, want) in &known.results {
                assert_eq!(
                    &left.memory[*region], want,
                    "{} {completion:?} region {region}",
                    subject.kernel
                );
            }
        }
    }
}

/// All of them, not a sample: the kernels are small.
#[test]
fn planted_bugs_are_found() {
    let subjects = handwritten::subjects().expect("PTX");
    let campaign = Campaign {
        each: 0,
        ..Campaign::default()
    };
    let report = campaign.run(&subjects, &|_| ()).expect("clean originals");
    let page = report.markdown();
    let all = report.score(|_| true);
    assert!(all.run > 1000, "{page}");
    assert!(all.found() >= 0.97, "{page}");
    assert!(all.strict() >= 0.95, "{page}");
    assert!(report.class(Class::Order).by_simulator() >= 0.95, "{page}");
    let panicked = |d: &Done| matches!(d.verdict, Verdict::Panicked(_));
    assert!(!report.done.iter().any(panicked), "{page}");
}

/// Without the checkers most missing fences go unseen: the score measures what it should.
#[test]
fn the_checkers_are_what_finds_them() {
    let subjects = handwritten::subjects().expect("PTX");
    let score = |check| {
        let campaign = Campaign {
            each: 0,
            check,
            ..Campaign::default()
        };
        let report = campaign.run(&subjects, &|_| ()).expect("clean originals");
        report.class(Class::Order).by_simulator()
    };
    assert!(score(false) < 0.6);
    assert!(score(true) > 0.9);
}
