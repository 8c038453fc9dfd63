//! The hand-written kernels are right and clean under every schedule, and bugs planted into them are found.

use mcc_mutate::judge::schedules;
use mcc_mutate::{Campaign, Setting, handwritten};

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

#[test]
fn a_sample_of_planted_bugs_is_found() {
    let subjects = handwritten::subjects().expect("PTX");
    let campaign = Campaign {
        each: 1,
        ..Campaign::default()
    };
    let report = campaign.run(&subjects, &|_| ()).expect("clean originals");
    let score = report.score(|_| true);
    assert!(score.run > 300, "{score:?}");
    println!("{}", report.markdown());
}
