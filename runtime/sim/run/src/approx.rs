//! The approximate instructions of a kernel, and how far from the simulator's
//! results PTX lets a GPU's be.
//!
//! The simulator rounds each of them correctly; the tables of the hardware are
//! not published. A result that depends on more than these bounds is not
//! known from a simulated run.

use mcc_ptx::{FunctionKind, Inst, Mod, Module, Op, OpcodeText, Type};
use serde::Serialize;

/// One form of an approximate instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approximation {
    pub kernel: String,
    /// With its modifiers: `ex2.approx.ftz.f32`.
    pub instruction: String,
    /// The error that PTX allows.
    pub bound: &'static str,
    /// Lines of the PTX text.
    pub lines: Vec<u32>,
}

/// What `kernel` and the functions of its module use, in the order of the text.
pub fn approximations(module: &Module, kernel: &str) -> Vec<Approximation> {
    let mut out: Vec<Approximation> = Vec::new();
    for function in module.functions() {
        if function.kind == FunctionKind::Entry && function.name != kernel {
            continue;
        }
        for inst in function.body.iter().flat_map(|b| b.insts()) {
            let Some(bound) = bound(inst) else { continue };
            let instruction = OpcodeText(inst).to_string();
            match out.iter_mut().find(|a| a.instruction == instruction) {
                Some(a) => a.lines.push(inst.line),
                None => out.push(Approximation {
                    kernel: kernel.to_owned(),
                    instruction,
                    bound,
                    lines: vec![inst.line],
                }),
            }
        }
    }
    out
}

/// PTX ISA 9.7.3 and 9.7.4, each instruction's section.
fn bound(inst: &Inst) -> Option<&'static str> {
    let full = inst.op == Op::Div && inst.has(Mod::Full);
    if !(full || inst.has(Mod::Approx)) {
        return None;
    }
    Some(match (inst.op, inst.ty(0)) {
        (Op::Div, _) if full => "2 ulp",
        (Op::Div, _) => "2 ulp for divisors from 2^-126 to 2^126",
        (Op::Rcp, Some(Type::F32)) => "1 ulp",
        (Op::Sqrt, _) => "2^-23 relative",
        (Op::Rsqrt, Some(Type::F32)) => "2^-22.9 relative",
        (Op::Sin | Op::Cos, _) => "2^-20.5 absolute from -2 pi to 2 pi",
        (Op::Lg2, _) => "2^-22, absolute from 0.5 to 2, relative elsewhere",
        (Op::Ex2, Some(Type::F32)) => "2 ulp",
        (Op::Ex2, Some(Type::F16 | Type::F16x2)) => "2^-9.9 relative",
        (Op::Ex2, _) => "2^-7 relative",
        (Op::Tanh, Some(Type::F32)) => "2^-11 relative",
        (Op::Tanh, Some(Type::F16 | Type::F16x2)) => "2^-10.987 absolute",
        (Op::Tanh, _) => "2^-8 absolute",
        _ => "no bound",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_listed_with_their_lines() {
        let text = ".version 8.6\n.target sm_90a\n.address_size 64\n\
            .visible .entry other() { .reg .f32 %f<3>; sin.approx.f32 %f1, %f2; ret; }\n\
            .visible .entry k()\n{\n.reg .f32 %f<9>;\n\
            ex2.approx.ftz.f32 %f1, %f2;\nrcp.rn.f32 %f3, %f1;\n\
            div.full.f32 %f4, %f1, %f2;\nex2.approx.ftz.f32 %f5, %f3;\nret;\n}\n";
        let module = mcc_ptx::parse(text).expect("PTX");
        let found = approximations(&module, "k");
        let short: Vec<(&str, &str, &[u32])> = found
            .iter()
            .map(|a| (a.instruction.as_str(), a.bound, &a.lines[..]))
            .collect();
        let want: [(&str, &str, &[u32]); 2] = [
            ("ex2.approx.ftz.f32", "2 ulp", &[8, 11]),
            ("div.full.f32", "2 ulp", &[10]),
        ];
        assert_eq!(short, want);
    }
}
