//! Pages of made-up runs: what a GPU host and a host without one would leave.

use serde_json::{Value, json};

use super::*;
use crate::results::{RESULTS_FORMAT, StepResult, Verdict};

fn step(id: &str, verdict: Verdict, reason: Option<&str>, data: Value) -> StepResult {
    StepResult {
        id: id.to_owned(),
        title: format!("title of {id}"),
        command: format!("./mcckit {id}"),
        verdict,
        reason: reason.map(str::to_owned),
        seconds: 1.25,
        exit_code: Some(0),
        data,
        log: if verdict == Verdict::Failed {
            "error: it differs".to_owned()
        } else {
            String::new()
        },
    }
}

fn results(steps: Vec<StepResult>) -> Results {
    Results {
        format: RESULTS_FORMAT,
        commit: "0123456789abcdef".to_owned(),
        started: "2026-01-31T12:00:00Z".to_owned(),
        budget_s: 460.0,
        seconds: 321.0,
        complete: true,
        steps,
    }
}

/// A kernel's step as `mccrt bench --json` prints it.
fn entry(
    name: &str,
    kind: &str,
    cold: f64,
    warm: f64,
    flops: u64,
    bytes: u64,
    unit: &str,
) -> Value {
    let figures = |seconds: f64| json!({ "kind": kind, "seconds": seconds });
    json!({
        "entry": name, "dims": { "M": 64 },
        "steps": [
            { "subject": false, "unit": "none", "flops": 0, "bytes": 1, "cold": figures(9.0), "warm": figures(9.0) },
            { "subject": true, "unit": unit, "flops": flops, "bytes": bytes, "cold": figures(cold), "warm": figures(warm) },
        ],
        "whole": { "kind": kind, "launches": 2, "kernels_s": 1.0e-5 },
    })
}

fn gpu_host() -> Results {
    use Verdict::{Failed, Passed, Skipped};
    let facts = json!({
        "kernel": "6.1.0", "libc": "glibc 2.36", "cpu": "Xeon", "cores": 16, "memory_bytes": 128_000_000_000_u64,
        "gpus": [{ "name": "NVIDIA H100 80GB HBM3", "driver_version": "550.54.15", "power.limit": "700.00 W" }],
        "environment": {}, "python": { "torch": "2.9.0", "triton": "3.5.0" }, "missing": ["compute-sanitizer was not found"],
    });
    let text = json!({
        "device": "NVIDIA H100 80GB HBM3", "mismatches": 1, "bit_equal": false, "max_abs_difference": 0.25,
        "prompts": [
            { "text": "In the beginning", "steps": 7, "bit_equal_steps": 6, "max_abs_difference": 0.25,
              "first_mismatch": { "step": 6, "expected": 348, "found": 260, "margin": 0.01 } },
            { "text": "And", "steps": 24, "bit_equal_steps": 24, "max_abs_difference": 0.0 },
        ],
    });
    let check = json!({
        "passed": false, "skipped": [{ "entry": "fp8_gemm_m64" }], "tokens": null,
        "failures": [{ "case": { "entry": "route_t64" }, "error": "the GPU has not finished within 120 s" }],
        "kernels": [
            { "kernel": "gemm_fp8_0", "launches": 8, "elements": 4096, "mismatches": 0, "outside": 0, "first": null },
            { "kernel": "swiglu_0", "launches": 4, "elements": 2048, "mismatches": 9, "outside": 2, "first": {
                "step": "ffn.swiglu", "operand": "y", "dims": { "T": 7 }, "seed": 5, "element": { "index": [3, 17] } } },
            { "kernel": "route_0", "launches": 0, "elements": 0, "mismatches": 0, "outside": 0, "first": null },
        ],
    });
    let vectors = json!({
        "products": { "types": [
            { "instruction": "wgmma e4m3 e4m3 f32", "results": 1000, "mismatches": 0, "classes": [] },
            { "instruction": "wgmma bf16 bf16 f32", "results": 1000, "mismatches": 3, "classes": [
                { "class": "cancellation", "mismatches": 3, "results": 100, "max_ulps": 1 },
                { "class": "narrow", "mismatches": 0, "results": 900, "max_ulps": 0 } ] },
        ], "published": [] },
        "conversions": { "instructions": [
            { "instruction": "ex2.approx.ftz.f32", "exhaustive": false, "results": 4096, "mismatches": 0,
              "error": { "bound": "2 ulp", "max_ulps": 1 } },
            { "instruction": "cvt.rn.f16x2.e4m3x2", "exhaustive": true, "results": 65536, "mismatches": 0, "error": null } ] },
    });
    let machine = json!({ "kind": "measured", "entries": [], "machine": {
        "kind": "measured", "copy_bytes_per_s": 2.8e12, "fp8_flops": 1.5e15, "bf16_flops": 7.5e14,
        "launch_s": 2.0e-6, "sequence_launch_s": 9.0e-7, "round_trip_s": 6.0e-6 } });
    let kernels = json!({ "kind": "measured", "machine": null, "entries": [
        entry("fp8_gemm_m64", "measured", 1.0e-5, 8.0e-6, 1_500_000_000, 14_000_000, "fp8"),
        entry("rms_norm_t64", "measured", 4.0e-6, 2.0e-6, 0, 5_600_000, "none"),
        entry("sample_t1", "prediction", 3.0e-6, 3.0e-6, 0, 517_120, "none"),
    ], "failures": [{ "entry": "combine_t64", "error": "launch refused" }] });
    let tiny = json!({ "kind": "measured", "entries": [{ "entry": "decode", "dims": { "C": 256, "T": 1 }, "steps": [],
        "whole": { "kind": "measured", "launches": 80, "kernels_s": 2.4e-4, "graph_s": 2.6e-4, "stream_s": 4.1e-4,
                   "graph_overhead_s": 2.0e-5, "stream_overhead_s": 1.7e-4 } }] });
    let peer = |entry: &str, peer: &str, cold: f64, warm: f64| json!({ "entry": entry, "peer": peer, "cold_s": cold, "warm_s": warm });
    let absent = json!({ "entry": "fp8_gemm_m64", "peer": "DeepGEMM", "skipped": "No module named 'deep_gemm'" });
    results(vec![
        step("facts", Passed, None, facts),
        step(
            "device",
            Passed,
            None,
            json!({ "props": { "name": "NVIDIA H100 80GB HBM3", "driver": "12.4" } }),
        ),
        step(
            "text-device",
            Failed,
            Some("1 of 2 prompts went on with another token"),
            text,
        ),
        step("check-kernels", Failed, Some("the devices disagree"), check),
        step("vectors", Failed, Some("3 of 2000 products"), vectors),
        step(
            "repeat",
            Passed,
            None,
            json!({ "asked": 1000, "done": 1000, "hashes": [{ "sha256": "ab", "count": 1000 }] }),
        ),
        step("bench-machine", Passed, None, machine),
        step("bench-kernels", Passed, None, kernels),
        step("bench-tiny", Passed, None, tiny),
        step(
            "peers-machine",
            Passed,
            None,
            json!([{ "machine": "fp8", "per_s": 1.4e15 }]),
        ),
        step(
            "peers-gemm",
            Passed,
            None,
            json!([
                absent,
                peer("fp8_gemm_m64", "cuBLASLt", 9.0e-6, 8.8e-6),
                peer("fp8_gemm_m64", "Triton", 1.2e-5, 1.1e-5),
            ]),
        ),
        step(
            "peers-rows",
            Passed,
            None,
            peer("rms_norm_t64", "torch.compile", 6.0e-6, 3.0e-6),
        ),
        step(
            "sanitizer-memcheck",
            Skipped,
            Some("compute-sanitizer was not found"),
            Value::Null,
        ),
    ])
}

fn bare_host() -> Results {
    use Verdict::{Passed, Skipped};
    let text = json!({ "device": "simulated", "mismatches": 0, "bit_equal": true, "max_abs_difference": 0.0,
        "prompts": [{ "text": "And", "steps": 6, "bit_equal_steps": 6, "max_abs_difference": 0.0 }] });
    results(vec![
        step(
            "files",
            Passed,
            None,
            json!({ "files": 20, "bytes": 30_000_000 }),
        ),
        step(
            "device",
            Skipped,
            Some("no NVIDIA driver was found"),
            Value::Null,
        ),
        step("text-sim", Passed, None, text),
        step(
            "bench-kernels",
            Skipped,
            Some("needs `device`, which has not passed"),
            Value::Null,
        ),
    ])
}

#[test]
fn the_page_of_a_gpu_host() {
    let results = gpu_host();
    insta::assert_snapshot!(page(&results, &rows(&results)));
}

#[test]
fn the_page_of_a_host_without_a_gpu_claims_no_measurement() {
    let results = bare_host();
    insta::assert_snapshot!(page(&results, &rows(&results)));
    assert_eq!(peers_plot(&rows(&results)), None);
}

#[test]
fn the_fastest_peer_and_the_nearest_limit_are_taken() {
    let rows = rows(&gpu_host());
    let gemm = &rows[0];
    assert_eq!(
        gemm.peer.as_ref().map(|peer| peer.name.as_str()),
        Some("cuBLASLt")
    );
    assert!((gemm.speed_up().unwrap() - 0.9).abs() < 1e-9);
    // 1.4 TB/s are half of the copy's bandwidth; 150 TFLOP/s are a tenth of the FP8 peak.
    let (fraction, limit) = gemm.of_limit.unwrap();
    assert!((fraction - 0.5).abs() < 1e-9, "{fraction}");
    assert_eq!(limit.name(), "of copy bandwidth");
    // A prediction stays one.
    assert!(rows[2].prediction && !rows[0].prediction);
    assert_eq!(rows[2].peer, None);
}

#[test]
fn products_are_held_against_every_peer() {
    let mut results = gpu_host();
    let kernels = results
        .steps
        .iter_mut()
        .find(|step| step.id == "bench-kernels")
        .unwrap();
    let more = entry("fp8_gemm_m128", "measured", 2.0e-5, 1.0e-5, 1, 1, "fp8");
    kernels.data["entries"].as_array_mut().unwrap().push(more);
    let peers = results
        .steps
        .iter_mut()
        .find(|step| step.id == "peers-gemm")
        .unwrap();
    let more =
        json!({ "entry": "fp8_gemm_m128", "peer": "Triton", "cold_s": 6.0e-5, "warm_s": 2.2e-5 });
    peers.data.as_array_mut().unwrap().push(more);
    let all = ratios(&rows(&results));
    let names: Vec<&str> = all.iter().map(|r| r.peer.as_str()).collect();
    assert_eq!(names, ["cuBLASLt", "Triton"]);
    // 1.2 and 3.0 cold; 1.375 and 2.2 warm.
    let (cold, warm) = all[1].means();
    assert!((cold.unwrap() - 3.6_f64.sqrt()).abs() < 1e-9, "{cold:?}");
    assert!((warm.unwrap() - 3.025_f64.sqrt()).abs() < 1e-9, "{warm:?}");
    assert!(
        page(&results, &rows(&results))
            .contains("| geometric mean | 0.900 | 1.100 | 1.897 | 1.739 |")
    );
}

#[test]
fn plots_have_a_bar_a_row() {
    let rows = rows(&gpu_host());
    let peers = peers_plot(&rows).unwrap();
    assert_eq!(peers.matches("text-anchor").count(), 2);
    let limits = limits_plot(&rows).unwrap();
    assert_eq!(limits.matches("text-anchor").count(), 2);
    assert_eq!(limits.matches("(prediction)").count(), 0);
    assert!(limits.ends_with("</svg>\n"));
}

#[test]
fn a_prediction_is_held_against_the_data_sheet_and_a_time_against_what_was_measured() {
    let mut results = gpu_host();
    assert_eq!(rows(&results)[2].of_limit, None);
    let machine = results
        .steps
        .iter_mut()
        .find(|step| step.id == "bench-machine")
        .unwrap();
    machine.data["machine"]["kind"] = json!("prediction");
    let rows = rows(&results);
    assert!(rows[2].of_limit.is_some());
    // Only torch has measured this machine then, and it has not measured copies.
    assert_eq!(rows[1].of_limit, None);
    assert_eq!(
        limits_plot(&rows).unwrap().matches("(prediction)").count(),
        1
    );
}

#[test]
fn a_folder_is_written_and_written_again() {
    let dir = tempfile::tempdir().unwrap();
    gpu_host().write(dir.path()).unwrap();
    let read = Results::read(dir.path()).unwrap();
    assert_eq!(read, gpu_host());
    write(&read, dir.path()).unwrap();
    for name in [PAGE_FILE, PEERS_PLOT, LIMITS_PLOT] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
}

#[test]
fn a_folder_is_called_after_its_gpu() {
    assert_eq!(gpu_slug(&gpu_host()), "h100-80gb-hbm3");
    assert_eq!(gpu_slug(&bare_host()), "no-gpu");
}
