//! How far two devices must agree on a kernel, read off its PTX.
//!
//! In: PTX text. Out: [`Agreement`]: bit for bit, or within a bound that the kernel's own instructions give.
//! Holds: a kernel without approximate instructions and without floating-point atomics must agree bit for bit,
//! because PTX defines every bit of what is left, and the simulator's tensor core adds up as the hardware's does.

use std::collections::BTreeSet;

use serde::Serialize;

/// A value's path through a kernel meets at most as many approximate results: a sigmoid has two (`ex2`, `rcp`), a
/// normalised softmax four. Factors that rescale a running sum and its normaliser alike cancel.
const PATH: f64 = 8.0;

/// Relative error of the order of additions: atomics of up to 2^8 terms, each rounded to 2^-24.
const ATOMIC_ORDER: f64 = 1.0 / 65_536.0;

/// What the simulator's own result, rounded once from FP64, is away from the true one.
const SIMULATED: f64 = 1.0 / 16_777_216.0;

/// How far two devices must agree on what a kernel writes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Agreement {
    /// Bit for bit.
    Exact,
    /// Within a relative error, as `check/compare.rs` has it for each type.
    Within {
        /// Of FP32 results.
        relative: f64,
        /// The instructions that leave bits open.
        because: Vec<String>,
    },
}

impl Agreement {
    /// Reads a kernel's PTX. `same_functions` says that both devices compute the approximate functions alike, as
    /// two simulated ones do; then only floating-point atomics leave bits open.
    #[must_use]
    pub fn of(ptx: &str, same_functions: bool) -> Self {
        let mut because = BTreeSet::new();
        let mut error = 0.0;
        for instruction in instructions(ptx) {
            let bound = if is_float_atomic(instruction) {
                Some(ATOMIC_ORDER)
            } else if same_functions {
                None
            } else {
                approximation(instruction).map(|bound| bound + SIMULATED)
            };
            if let Some(bound) = bound
                && because.insert(instruction.to_owned())
            {
                error += bound;
            }
        }
        if because.is_empty() {
            return Self::Exact;
        }
        Self::Within {
            relative: PATH * error,
            because: because.into_iter().collect(),
        }
    }
}

/// Mnemonics with their modifiers, e.g. `ex2.approx.ftz.f32`.
fn instructions(ptx: &str) -> impl Iterator<Item = &str> {
    let lines = ptx
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines
        .flat_map(|line| line.split([';', '{', '}']))
        .filter_map(|statement| {
            let mut words = statement.split_whitespace();
            let word = words.next()?;
            let word = if word.starts_with('@') {
                words.next()?
            } else {
                word
            };
            (word.contains('.') && !word.starts_with('.')).then_some(word)
        })
}

/// Largest relative error of an approximate instruction over the inputs that kernels give it; `None` when PTX
/// defines its result. PTX ISA, "Floating Point Instructions" and "Half Precision Floating Point Instructions".
fn approximation(instruction: &str) -> Option<f64> {
    // One unit in the last place is at most 2^-23 of an FP32 value.
    const ULP: f64 = 1.0 / 8_388_608.0;
    let mut parts = instruction.split('.');
    let op = parts.next()?;
    let parts: Vec<&str> = parts.collect();
    let approximate = parts.contains(&"approx") || op == "div" && parts.contains(&"full");
    if !approximate {
        return None;
    }
    if parts.iter().any(|part| part.contains("f16")) {
        // `tanh` and `ex2` of 16-bit types: 2^-9 of F16 and 2^-7 of BF16 cover both.
        return Some(1.0 / 128.0);
    }
    Some(match op {
        "rcp" | "sqrt" => ULP,
        // 2^-22.9.
        "rsqrt" => 1.1 * ULP,
        "ex2" | "div" | "lg2" => 2.0 * ULP,
        // Absolute 2^-20.5 near zero; relative to results of magnitude 1.
        "sin" | "cos" => 8.0 * ULP,
        // 2^-11, and whatever is not in this list.
        _ => 1.0 / 2048.0,
    })
}

/// Additions whose order the device chooses: PTX ISA `atom`, `red`, `cp.reduce.async.bulk`.
fn is_float_atomic(instruction: &str) -> bool {
    let mut parts = instruction.split('.');
    let op = parts.next();
    let atomic = matches!(op, Some("atom" | "red" | "multimem"))
        || instruction.starts_with("cp.reduce.async");
    let adds = instruction.split('.').any(|part| part == "add");
    let float =
        parts.any(|part| matches!(part, "f32" | "f64" | "f16" | "f16x2" | "bf16" | "bf16x2"));
    // A tensor reduction has its type in the tensor map: it may be a floating-point one.
    atomic && adds && (float || instruction.starts_with("cp.reduce.async.bulk.tensor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn because(ptx: &str, same_functions: bool) -> Vec<String> {
        match Agreement::of(ptx, same_functions) {
            Agreement::Exact => Vec::new(),
            Agreement::Within { because, .. } => because,
        }
    }

    #[test]
    fn exact_kernels() {
        let ptx = "
            .version 8.0
            // ex2.approx.f32 in a comment
            div.rn.f32 %f1, %f2, %f3;
            sqrt.rn.f32 %f1, %f2; cvt.rn.bf16x2.f32 %r1, %f1, %f2;
            atom.global.add.u32 %r1, [%rd1], 1;
            red.global.add.s32 [%rd1], 1;
            wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0}, %rd1, %rd2, 1, 1, 1, 0, 0;
        ";
        assert_eq!(Agreement::of(ptx, false), Agreement::Exact);
    }

    #[test]
    fn inexact_kernels() {
        let ptx = "
            @%p1 ex2.approx.ftz.f32 %f1, %f2;
            { rcp.approx.f32 %f3, %f4; }
            ex2.approx.ftz.f32 %f5, %f6;
            div.full.f32 %f7, %f8, %f9;
            atom.global.add.f32 %f1, [%rd1], %f2;
            red.async.relaxed.cluster.global.add.bf16x2 [%rd1], %r1;
            cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%rd1, {%r1, %r2}], [%r3];
        ";
        let all = because(ptx, false);
        assert_eq!(all.len(), 6, "{all:?}");
        let atomics = because(ptx, true);
        assert_eq!(atomics.len(), 3, "{atomics:?}");
        // 8 * (2 + 1/2 ulp) for one `ex2`.
        match Agreement::of("ex2.approx.f32 %f1, %f2;", false) {
            Agreement::Within { relative, .. } => {
                assert!((relative * 8_388_608.0 - 20.0).abs() < 1e-9, "{relative}");
            }
            Agreement::Exact => panic!("ex2 is approximate"),
        }
    }
}
