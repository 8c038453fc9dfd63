//! What `mcc explain --gemm` prints: the table of candidates, and the reason.
//!
//! Snapshots, so that a change of the model shows what it does to choices; `cargo xtask bless -p mcc-passes` accepts
//! them. That the choices are good ones is tested beside the model.

use mcc_ir::kernel::{Epilogue, GemmForm};
use mcc_ir::types::DType;
use mcc_passes::heuristics::gemm::{GemmProblem, choose};
use mcc_passes::target::Target;

fn explained(problem: GemmProblem) -> String {
    choose(problem, &Target::load("h100").unwrap()).to_string()
}

fn fp8(form: GemmForm, rows: u64, n: u64, k: u64) -> GemmProblem {
    GemmProblem::new(DType::E4M3, DType::BF16, form, rows, n, k)
}

#[test]
fn few_rows() {
    insta::assert_snapshot!(explained(fp8(GemmForm::Dense, 1, 7168, 2048)));
}

#[test]
fn many_rows() {
    insta::assert_snapshot!(explained(fp8(GemmForm::Dense, 4096, 7168, 16384)));
}

#[test]
fn experts() {
    insta::assert_snapshot!(explained(fp8(
        GemmForm::Grouped { groups: 256 },
        8192,
        4096,
        7168
    )));
}

#[test]
fn weight_gradients() {
    insta::assert_snapshot!(explained(GemmProblem {
        out: DType::F32,
        epilogue: Epilogue::Accumulate,
        ..fp8(GemmForm::KGrouped { groups: 4 }, 4096, 7168, 16384)
    }));
}
