//! The simulated device against the arithmetic function, through the same probe that a GPU gets.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mcc_runtime::{DeviceOptions, SimDevice};
use mcc_sim::numerics::wgmma::Element;

use super::form::Layout;
use super::*;

const E4M3: Types = Types::ALL[0];

fn sim() -> SimDevice {
    SimDevice::new(&DeviceOptions::default())
}

#[test]
fn the_simulated_tensor_core_is_the_model() {
    let mut device = sim();
    let free = device.memory().expect("alive").free;
    let options = VectorOptions {
        results: 30_000,
        ..VectorOptions::default()
    };
    let report = run(&mut device, &options).expect("the probe runs");
    assert!(report.passed(), "{report}");
    assert_eq!(report.types.len(), Types::ALL.len());
    for (types, probed) in Types::ALL.into_iter().zip(&report.types) {
        assert!(probed.results >= options.results, "{}", probed.instruction);
        assert_eq!(probed.classes.len(), Class::all(types).len());
        assert!(probed.classes.iter().all(|class| class.results > 0));
    }
    assert_eq!(
        device.memory().expect("alive").free,
        free,
        "all is given back"
    );
    let json = serde_json::to_value(&report).expect("numbers and text");
    assert_eq!(json["types"][0]["classes"][0]["class"], "narrow");
    assert_eq!(json["published"][0]["lines"], 0);
}

/// Few results still reach every form of every type, and more reach every form in every class.
#[test]
fn the_plan_covers_forms_and_classes() {
    for types in Types::ALL {
        let (classes, forms) = (Class::all(types), Form::all(types));
        let few = plan(types, &classes, &forms, 30_000);
        assert!(few.iter().all(|jobs| !jobs.is_empty()), "{}", types.name());
        let many = plan(types, &classes, &forms, VectorOptions::default().results);
        let mut results = 0;
        for (form, jobs) in forms.iter().zip(&many) {
            results += jobs.len() * form.results();
            for (i, class) in classes.iter().enumerate() {
                let there = jobs.iter().any(|job| job.class == i);
                assert_eq!(there, class.takes(*form), "{class:?} {form:?}");
            }
        }
        assert!(results as u64 >= VectorOptions::default().results);
    }
}

/// Operands, accumulators and results have one place each, inside of their image.
#[test]
fn places_are_taken_once() {
    for types in Types::ALL {
        for form in Form::all(types) {
            let mut a = vec![0; form.a_bytes()];
            let mut b = vec![0; form.b_bytes()];
            for step in 0..form.steps {
                for byte in 0..form::K_BYTES {
                    (0..form::M).for_each(|row| a[form.a_place(step, row, byte)] += 1);
                    (0..form.n).for_each(|row| b[form.place(form.n, step, row, byte)] += 1);
                }
            }
            // What pads a span is not used.
            let used = |image: &[i32]| image.iter().filter(|&&uses| uses == 1).count();
            assert!(a.iter().chain(&b).all(|&uses| uses <= 1));
            assert_eq!(used(&a), form.steps * form::K_BYTES * form::M);
            assert_eq!(used(&b), form.steps * form::K_BYTES * form.n);
            let mut c = vec![0; form.results()];
            for row in 0..form::M {
                for column in 0..form.n {
                    c[Form::c_place(types.accumulator, row, column)] += 1;
                }
            }
            assert!(c.iter().all(|&uses| uses == 1));
        }
    }
}

/// Fragments as the PTX ISA's figures have them, by hand: lane 5 of warp 2 holds rows 33 and 41.
#[test]
fn places_are_those_of_the_isa() {
    let f32_at = |row, column| Form::c_place(Accumulator::F32, row, column);
    let thread = 2 * 32 + 5;
    assert_eq!(f32_at(33, 2), thread);
    assert_eq!(f32_at(33, 3), 128 + thread);
    assert_eq!(f32_at(41, 2), 2 * 128 + thread);
    assert_eq!(f32_at(33, 10), 4 * 128 + thread);
    let f16_at = |row, column| Form::c_place(Accumulator::F16, row, column);
    assert_eq!(f16_at(33, 3), 2 * thread + 1);
    assert_eq!(f16_at(41, 10), 2 * (3 * 128 + thread));
    // A: register 1 of step 2 has bytes 4 to 7 of row 41.
    assert_eq!(
        Form::register_place(2, 41, 6),
        ((2 * 4 + 1) * 128 + thread) * 4 + 2
    );
    let form = |layout, steps| Form {
        n: 64,
        steps,
        layout,
        a_in_registers: false,
        scale_d: true,
    };
    // 128-byte spans: row 3 of 8 sends 16-byte unit 1 to unit 2.
    let swizzled = form(Layout::Swizzled(128), 4);
    assert_eq!(swizzled.place(64, 0, 3, 16), 3 * 128 + 2 * 16);
    assert_eq!(swizzled.place(64, 3, 8, 31), 1024 + 127);
    let plain = form(Layout::Plain, 2);
    assert_eq!(plain.place(64, 1, 9, 17), 4 * 128 + 3 * 128 + 16 + 1);
    // N innermost: element 9 of k = 2 is in unit 1, which moves to unit 3.
    let transposed = form(Layout::Transposed, 1);
    assert_eq!(transposed.place(64, 0, 9, 4), 2 * 128 + 3 * 16 + 2);
}

#[test]
fn tiles_depend_on_their_key_alone() {
    let form = Form::all(E4M3)[0];
    let tile = |seed, number| Tile::new(seed, E4M3, form, Class::Narrow, number);
    assert_eq!(tile(1, 5), tile(1, 5));
    assert_ne!(tile(1, 5), tile(2, 5));
    assert_ne!(tile(1, 5), tile(1, 6));
}

/// Classes find what they are for: with one property of the model changed, results of the class differ.
#[test]
fn classes_reach_what_they_name() {
    let share = |types: Types, class: Class, of: &dyn Fn(u32) -> bool| {
        let mut device = sim();
        let form = Form::all(types)[0];
        let probe = Probe::load(&mut device, types, form).expect("loads");
        let (mut hits, mut all) = (0, 0);
        for number in 0..12 {
            let results = probe.model(&Tile::new(3, types, form, class, number));
            hits += results.iter().filter(|&&bits| of(bits)).count();
            all += results.len();
        }
        hits as f64 / f64::from(all as u32)
    };
    let nan = |bits: u32| bits & 0x7fff_ffff > 0x7f80_0000;
    let infinite = |bits: u32| bits & 0x7fff_ffff == 0x7f80_0000;
    let zero = |bits: u32| bits == 0;
    let subnormal = |bits: u32| bits & 0x7f80_0000 == 0 && bits != 0;
    let bf16 = Types::ALL[1];
    let e5m2 = Types::ALL[2];
    let middle = |x: f64| (0.05..0.95).contains(&x);
    for types in [E4M3, bf16, e5m2] {
        assert!(middle(share(types, Class::NanPayload, &nan)));
        assert!(share(types, Class::Narrow, &nan) == 0.0);
        assert!(share(types, Class::CNegativeZero, &zero) > 0.2);
    }
    assert!(middle(share(e5m2, Class::Infinity, &infinite)));
    assert!(middle(share(e5m2, Class::Infinity, &nan)));
    assert!(share(bf16, Class::Saturated, &infinite) > 0.2);
    assert!(share(bf16, Class::CSubnormal, &subnormal) > 0.05);
    // Cancelled sums are often zero, and often a small rest.
    assert!(middle(share(E4M3, Class::Cancellation, &zero)));
}

/// The accumulator's low bits, and products below the 13th bit, decide results in the classes made for them.
#[test]
fn the_cut_off_decides() {
    let form = Form::all(E4M3)[0];
    let mut device = sim();
    let probe = Probe::load(&mut device, E4M3, form).expect("loads");
    let tile = Tile::new(1, E4M3, form, Class::CutOff, 0);
    let exact = |i: usize| {
        let value = |codes: &[u8], row: usize| -> Vec<f64> {
            codes[row * 32..(row + 1) * 32]
                .iter()
                .map(|&code| {
                    mcc_sim::numerics::convert::decode(
                        code.into(),
                        mcc_sim::numerics::convert::E4M3,
                    )
                })
                .collect()
        };
        let (a, b) = (value(&tile.a, i / form.n), value(&tile.b, i % form.n));
        let products: f64 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
        products + f64::from(f32::from_bits(tile.c[i]))
    };
    let truncated = probe
        .model(&tile)
        .iter()
        .enumerate()
        .filter(|&(i, &bits)| f64::from(f32::from_bits(bits)) != exact(i))
        .count();
    assert!(truncated > form.results() / 2, "{truncated}");
}

/// A device with another arithmetic is told by class, form, inputs and distance.
#[test]
fn wrong_results_are_found() {
    let mut device = sim();
    let form = Form::all(E4M3)[3];
    let probe = Probe::load(&mut device, E4M3, form).expect("loads");
    let tile = Tile::new(1, E4M3, form, Class::Narrow, 0);
    let mut results = probe
        .run(&mut device, std::slice::from_ref(&tile))
        .expect("runs");
    results[0][form.n + 2] ^= 1 << 10;
    results[0][form.n + 3] = 0x7fc0_0000;
    let job = Job {
        class: 0,
        number: 0,
    };
    let found = compare(&probe, &tile, job, &results[0], false, 1);
    assert_eq!((found.mismatches, found.max_ulps), (2, 1 << 10));
    let first = &found.first[0];
    assert_eq!(found.first.len(), 1);
    assert_eq!((first.row, first.column, first.ulps), (1, 2, Some(1 << 10)));
    assert_eq!((first.a.len(), first.a[0].len()), (form.steps, 64));
    assert_eq!(first.a[0][..2], format!("{:02x}", tile.a[32]));
    // Alternatives are tried on tiles with mismatches, and on none where there are none.
    assert_eq!(found.at, [form.n + 2, form.n + 3]);
    let tiles = [tile];
    let tried = samples(&[job], &tiles, &results, std::slice::from_ref(&found));
    assert_eq!(tried.len(), 1);
    assert!(samples(&[job], &tiles, &results, &[Found::default()]).is_empty());
    let mut report = ClassReport {
        class: "narrow",
        what: "",
        results: 0,
        mismatches: 0,
        forms: Vec::new(),
        max_ulps: 0,
        first: Vec::new(),
    };
    found.count(&mut report, "one", form.results(), 4);
    assert_eq!((report.mismatches, report.forms[0].mismatches), (2, 2));
    // NaN patterns count in the payload class alone.
    assert!(probe.agrees(0x7fc0_0000, 0x7fff_ffff, false));
    assert!(!probe.agrees(0x7fc0_0000, 0x7fff_ffff, true));
}

fn beside() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors")
}

/// The published H100 results, each through a `wgmma`. They are not part of the project: skipped where absent.
#[test]
fn published_results_through_wgmma() {
    let reports = published::run(&mut sim(), Some(&beside()), 4).expect("runs");
    assert_eq!(reports.len(), 4);
    for report in reports {
        if let Some(why) = report.skipped {
            println!("skipped: {why}");
            continue;
        }
        assert!(report.lines > 1000, "{}", report.file);
        assert_eq!(report.mismatches, 0, "{:?}", report.first);
    }
}

#[test]
fn published_files_are_read_with_care() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("h100_wgmma_e4m3_k32.txt");
    let ones = "38".repeat(32);
    let run = |text: &str| {
        std::fs::write(&file, text).expect("written");
        published::run(&mut sim(), Some(dir.path()), 4)
            .expect("runs")
            .remove(0)
    };
    let good = run(&format!(
        "{ones} {ones} 3f800000 42040000\n\n{ones} {ones} 0 42000001\n"
    ));
    assert_eq!((good.lines, good.mismatches), (2, 1));
    assert_eq!(good.first[0].device, "42000000");
    assert_eq!(good.first[0].model, "42000001");
    for bad in [
        "38 38 0 0",
        &format!("{ones} {ones} 0"),
        &format!("{ones} {ones} 0 0 0"),
        "é",
    ] {
        assert!(run(bad).skipped.is_some(), "{bad}");
    }
}

/// Every probe kernel is taken by the assemblers that are there, without a word of serialised `wgmma`.
#[test]
fn ptxas_takes_the_probes() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools");
    let dir = tempfile::tempdir().expect("a folder");
    let mut seen = std::collections::HashSet::new();
    let header = "\n.visible .entry probe(";
    let mut text = String::new();
    for types in Types::ALL {
        for form in Form::all(types) {
            let one = form.ptx(types);
            let (head, body) = one.split_once(header).expect("an entry");
            if text.is_empty() {
                text.push_str(head);
            }
            // `scale-d` is a parameter: forms may share a kernel.
            if seen.insert(body.to_owned()) {
                let _ = write!(text, "\n.visible .entry probe{}({body}", seen.len());
            }
        }
    }
    let source = dir.path().join("probes.ptx");
    std::fs::write(&source, text).expect("written");
    for version in ["cuda-12.9", "cuda-13"] {
        let ptxas = tools.join(version).join("bin/ptxas");
        if !ptxas.is_file() {
            println!("skipped: no {}", ptxas.display());
            continue;
        }
        let output = Command::new(ptxas)
            .args(["-arch=sm_90a", "-o", "/dev/null"])
            .arg(&source)
            .output()
            .expect("ptxas starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{version}: {said}"
        );
    }
}

/// The types are those of the ISA: equal K on both sides, no FP16 accumulators for BF16 and TF32.
#[test]
fn types_are_legal() {
    for types in Types::ALL {
        assert_eq!(types.a.k(), types.b.k());
        let wide = matches!(types.a, Element::Bf16 | Element::Tf32);
        assert!(!wide || types.accumulator == Accumulator::F32);
    }
}
