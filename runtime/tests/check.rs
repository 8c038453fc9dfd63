//! Two simulated devices in lockstep: they agree, and every kind of fault that is planted in one of them shows.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/parts.rs"]
mod parts;
#[path = "support/rows.rs"]
mod rows;

use mcc_bundle::Bundle;
use mcc_runtime::{
    Agreement, CheckOptions, CheckReport, DeviceOptions, Model, RuntimeError, SimDevice, cases,
    check,
};
use mcc_sim::{Completion, GpuConfig};

/// The token that the model expects after `tokens`.
fn next(tokens: &[i32]) -> i32 {
    let sum: i32 = tokens
        .iter()
        .zip(1..)
        .map(|(token, place)| token * place)
        .sum();
    sum % counting::VOCAB as i32
}

/// The device that says what is right.
fn reference(bundle: Bundle) -> Model {
    let device = SimDevice::new(&DeviceOptions::default());
    loaded(device, bundle)
}

/// One that differs in all that may not matter.
fn subject(bundle: Bundle) -> Model {
    let device = SimDevice::with_config(GpuConfig {
        sms: 7,
        completion: Completion::Late,
        ..GpuConfig::default()
    });
    loaded(device, bundle)
}

fn loaded(device: SimDevice, bundle: Bundle) -> Model {
    let mut model = Model::load(Box::new(device), bundle).expect("loads");
    model.load_synthetic(5, &mut |_| ()).expect("loads");
    model
}

fn run(good: Bundle, other: Bundle, options: &CheckOptions) -> Result<CheckReport, RuntimeError> {
    let agreements: Vec<_> = good
        .ptx
        .iter()
        .map(|ptx| Agreement::of(ptx, true))
        .collect();
    let (mut reference, mut subject) = (reference(good), subject(other));
    check(
        &mut reference,
        &mut subject,
        &agreements,
        options,
        &mut |_, _, _| (),
    )
}

/// The bundle with a kernel in which `from` is replaced.
fn planted(mut bundle: Bundle, kernel: usize, from: &str, to: &str) -> Bundle {
    assert!(bundle.ptx[kernel].contains(from));
    bundle.ptx[kernel] = bundle.ptx[kernel].replace(from, to);
    bundle
}

fn options() -> CheckOptions {
    CheckOptions {
        seeds: vec![1, 2],
        repeats: 2,
        ..CheckOptions::default()
    }
}

#[test]
fn equal_devices_agree() {
    let report = run(rows::bundle(), rows::bundle(), &options()).expect("runs");
    assert!(report.passed && report.complete, "{report}");
    // 1, 16 (the bound), 7 and 2 rows, with two seeds each; every row is written by both kernels.
    assert_eq!(report.cases.len(), 8);
    assert_eq!(report.elements(), 2 * 2 * 8 * (1 + 16 + 7 + 2));
    // Not the rest of the buffer, which nothing defines.
    assert_eq!(report.weights.bytes, (4 * rows::ROWS * rows::WIDTH) as u64);
    let repeat = report.repeat.as_ref().expect("repeated");
    assert_eq!(
        (repeat.steps, repeat.repeats, repeat.differing.len()),
        (2, 2, 0)
    );
    assert!(report.tokens.is_none(), "it is no text model");
    let json = serde_json::json!(report);
    assert_eq!(json["kernels"][1]["agreement"]["kind"], "exact");
}

#[test]
fn a_text_model_agrees_as_a_whole() {
    let report = run(counting::bundle(), counting::bundle(), &options()).expect("runs");
    assert!(report.passed, "{report}");
    let tokens = report.tokens.as_ref().expect("a text model");
    let generated = tokens.reference.as_ref().expect("generates");
    let mut text = tokens.prompt.clone();
    for token in generated {
        assert_eq!(*token, next(&text));
        text.push(*token);
    }
    assert_eq!(generated.len(), 16);
}

/// One element of one case is off by one bit.
#[test]
fn a_wrong_byte_is_found_and_placed() {
    let bad = planted(
        rows::bundle(),
        1,
        "st.global.f32 [%rd7], %f3;",
        "mov.b32 %r7, %f3;
    setp.eq.u32 %p1, %r6, 13;
    @%p1 xor.b32 %r7, %r7, 1;
    st.global.b32 [%rd7], %r7;",
    );
    let report = run(rows::bundle(), bad, &options()).expect("runs");
    assert!(!report.passed);
    let (gather, add) = (&report.kernels[0], &report.kernels[1]);
    assert_eq!(
        (gather.mismatches, add.mismatches, add.outside),
        (0, 6, 6),
        "{report}"
    );
    assert_eq!(add.max_ulp, 1);
    let first = add.first.as_ref().expect("a fault");
    assert_eq!(
        (first.step.as_str(), first.operand.as_str()),
        ("add", "out")
    );
    assert_eq!(first.element.index, [1, 5]);
    assert!(report.to_string().contains("`out`[1, 5]"), "{report}");
    assert!(report.to_string().contains("FAILED"), "{report}");
}

/// A fault of one step is that step's alone: the next one starts from the right bytes.
#[test]
fn faults_do_not_spread() {
    let bad = planted(
        rows::bundle(),
        0,
        "mul.wide.u32 %rd6, %r5, 4;",
        "mul.wide.u32 %rd6, %r3, 4;",
    );
    let report = run(rows::bundle(), bad, &options()).expect("runs");
    assert!(report.kernels[0].outside > 0, "{report}");
    assert_eq!(report.kernels[1].mismatches, 0, "{report}");
}

/// A kernel that writes what another step owns.
#[test]
fn a_stray_write_is_found() {
    let bad = planted(
        rows::bundle(),
        1,
        "st.global.f32 [%rd7], %f3;",
        "st.global.f32 [%rd7], %f3;
    st.global.f32 [%rd1], %f3;",
    );
    let report = run(rows::bundle(), bad, &options()).expect("runs");
    assert!(!report.passed);
    let failure = report.failures.first().expect("a failure");
    assert!(failure.error.contains("buffer `rows`"), "{}", failure.error);
}

#[test]
fn a_kernel_that_faults_is_reported_and_the_rest_goes_on() {
    let bad = planted(
        rows::bundle(),
        1,
        "ld.global.f32 %f1, [%rd5];",
        "ld.global.f32 %f1, [%rd4];",
    );
    let report = run(rows::bundle(), bad, &options()).expect("runs");
    assert!(!report.passed);
    assert_eq!(report.failures.len(), 8);
    assert!(
        report.failures[0].error.contains("`add`"),
        "{}",
        report.failures[0].error
    );
    assert_eq!(report.kernels[0].launches, 8);
}

/// A kernel that adds to what it wrote before.
#[test]
fn a_result_that_changes_with_repetition_is_found() {
    let bad = |bundle| {
        planted(
            bundle,
            1,
            "ld.global.f32 %f1, [%rd5];",
            "ld.global.f32 %f1, [%rd7];",
        )
    };
    let report = run(bad(rows::bundle()), bad(rows::bundle()), &options()).expect("runs");
    assert!(!report.passed);
    let repeat = report.repeat.expect("repeated");
    assert_eq!(
        repeat.differing,
        [("lookup".to_owned(), "add".to_owned(), 1)]
    );
    assert!(report.kernels.iter().all(|kernel| kernel.outside == 0));
}

#[test]
fn weights_that_differ_are_named() {
    let bundle = rows::bundle();
    let agreements: Vec<_> = bundle
        .ptx
        .iter()
        .map(|ptx| Agreement::of(ptx, true))
        .collect();
    let mut reference = reference(bundle.clone());
    let mut other = subject(bundle);
    other.load_synthetic(6, &mut |_| ()).expect("loads");
    let report = check(
        &mut reference,
        &mut other,
        &agreements,
        &CheckOptions::default(),
        &mut |_, _, _| (),
    );
    let report = report.expect("runs");
    assert_eq!(report.weights.differing, ["table"]);
    assert!(!report.passed);
}

#[test]
fn different_texts_are_found() {
    // Only with many tokens: no single step of the chosen sizes sees it.
    let bad = planted(
        counting::bundle(),
        1,
        "and.b32 %r8, %r6, 31;",
        "setp.eq.u32 %p3, %r4, 73;
    @%p3 add.s32 %r6, %r6, 1;
    and.b32 %r8, %r6, 31;",
    );
    let only = CheckOptions {
        dims: vec![
            [("T", 1), ("C", 1), ("R", 1)]
                .map(|(n, v)| (n.to_owned(), v))
                .into(),
        ],
        ..options()
    };
    let report = run(counting::bundle(), bad, &only).expect("runs");
    assert!(
        report.kernels.iter().all(|kernel| kernel.outside == 0),
        "{report}"
    );
    let tokens = report.tokens.as_ref().expect("a text model");
    // The prompt has 70 tokens; the one after position 73 is the fifth.
    assert_eq!((tokens.equal, tokens.first_difference), (false, Some(4)));
    assert!(!report.passed);
}

#[test]
fn cases_stay_in_bounds() {
    let bundle = counting::bundle();
    let manifest = &bundle.manifest;
    let cases = cases(manifest, &manifest.entries[0]);
    for case in &cases {
        for dim in &manifest.dims {
            assert!((dim.min..=dim.max).contains(&case[&dim.name]), "{case:?}");
        }
        assert!(case["T"] <= case["C"], "{case:?}");
    }
    let tokens: std::collections::BTreeSet<u64> = cases.iter().map(|case| case["T"]).collect();
    assert_eq!(
        tokens.into_iter().collect::<Vec<_>>(),
        [1, 2, 7, 63, 64, 65, 128]
    );
    assert_eq!(cases.len(), 14);
}

#[test]
fn unknown_entries_and_sizes_are_refused() {
    let with = |change: fn(&mut CheckOptions)| {
        let mut options = options();
        change(&mut options);
        run(rows::bundle(), rows::bundle(), &options).err()
    };
    let entry = with(|options| options.entries = vec!["decode".to_owned()]);
    assert!(matches!(entry, Some(RuntimeError::NoEntry { .. })));
    let dims = with(|options| options.dims = vec![[("R".to_owned(), 17)].into()]);
    assert!(matches!(dims, Some(RuntimeError::DimOutOfRange { .. })));
    // No time, no cases: that is no pass.
    let mut none = options();
    none.limit = Some(std::time::Duration::ZERO);
    let report = run(rows::bundle(), rows::bundle(), &none).expect("runs");
    assert_eq!((report.passed, report.complete), (false, false));
    assert_eq!(report.skipped.len(), 8);
    assert!(
        report
            .to_string()
            .contains("never launched: gather_rows, add_rows")
    );
}
