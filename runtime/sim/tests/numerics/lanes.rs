//! One PTX instruction on many inputs, and the inputs worth trying.
//!
//! In: an instruction with `{d}`, `{x}`, `{y}`, `{z}` in place of registers,
//! the widths of its result and operands, and operands. Out: results, from a
//! launch with one thread for each.

use mcc_sim::{Completion, Gpu, LaunchConfig, Module};

use crate::common::{HEADER, download, gpu, load, upload};

/// Threads of a block.
const BLOCK: usize = 256;

/// An instruction ready to run.
pub struct Lanes {
    gpu: Gpu,
    module: Module,
    /// Bytes of the result and of each operand.
    result: usize,
    operands: Vec<usize>,
}

impl Lanes {
    /// `instruction` as PTX without its semicolon; widths in bits.
    pub fn new(instruction: &str, result: usize, operands: &[usize]) -> Lanes {
        let reg = |width: usize, name: &str| {
            // Types of one byte live in 16-bit registers.
            format!(".reg .b{} %{name};\n", width.max(16))
        };
        let names = ["x", "y", "z"];
        let mut text = format!("{HEADER}.visible .entry k(.param .u64 pd");
        for name in &names[..operands.len()] {
            text += &format!(", .param .u64 p{name}");
        }
        text += ") {\n.reg .b32 %r<3>;\n.reg .b64 %at, %i;\n";
        text += &reg(result, "d");
        text += "mov.u32 %r0, %ctaid.x;\nmov.u32 %r1, %tid.x;\n";
        text += &format!("mad.lo.u32 %r2, %r0, {BLOCK}, %r1;\n");
        let mut body = instruction.replace("{d}", "%d");
        for (name, &bits) in names.iter().zip(operands) {
            text += &reg(bits, name);
            text += &format!(
                "ld.param.u64 %at, [p{name}];\nmul.wide.u32 %i, %r2, {};\nadd.s64 %at, %at, %i;\n\
                 ld.global.b{bits} %{name}, [%at];\n",
                bits / 8
            );
            body = body.replace(&format!("{{{name}}}"), &format!("%{name}"));
        }
        text += &format!(
            "{body};\nld.param.u64 %at, [pd];\nmul.wide.u32 %i, %r2, {};\nadd.s64 %at, %at, %i;\n\
             st.global.b{result} [%at], %d;\nret;\n}}\n",
            result / 8
        );
        let gpu = gpu(Completion::Early);
        Lanes {
            module: load(&gpu, &text),
            gpu,
            result: result / 8,
            operands: operands.iter().map(|b| b / 8).collect(),
        }
    }

    /// Runs it on `inputs`, whose unused operands are ignored.
    pub fn run(&self, inputs: &[[u64; 3]]) -> Vec<u64> {
        let count = inputs.len().next_multiple_of(BLOCK);
        let out = self
            .gpu
            .alloc((count * self.result) as u64, 256)
            .expect("memory");
        let mut params = out.to_le_bytes().to_vec();
        let mut used = vec![out];
        for (which, &bytes) in self.operands.iter().enumerate() {
            let mut data = vec![0; count * bytes];
            for (to, from) in data.chunks_exact_mut(bytes).zip(inputs) {
                to.copy_from_slice(&from[which].to_le_bytes()[..bytes]);
            }
            let at = upload(&self.gpu, &data);
            params.extend(at.to_le_bytes());
            used.push(at);
        }
        let cfg = LaunchConfig::new((count / BLOCK) as u32, BLOCK as u32);
        self.gpu
            .launch(&self.module, "k", &cfg, &params)
            .expect("a kernel without faults");
        let bytes = download(&self.gpu, out, inputs.len() * self.result);
        for at in used {
            self.gpu.free(at).expect("allocated");
        }
        let word = |c: &[u8]| {
            let mut w = [0; 8];
            w[..c.len()].copy_from_slice(c);
            u64::from_le_bytes(w)
        };
        bytes.chunks_exact(self.result).map(word).collect()
    }

    /// Runs it and compares every result with `want`; `same` may forgive.
    pub fn compare(
        &self,
        name: &str,
        inputs: &[[u64; 3]],
        mut want: impl FnMut([u64; 3]) -> u64,
        same: impl Fn(u64, u64) -> bool,
    ) {
        for (input, got) in inputs.iter().zip(self.run(inputs)) {
            let want = want(*input);
            assert!(
                got == want || same(got, want),
                "{name} of {input:x?} gives {got:#x} and not {want:#x}"
            );
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Three numbers of a format with `exp_bits` and `man_bits`: of any bits,
    /// of near exponents, such that the product nearly cancels the third, at
    /// both ends of the range, with few bits set, or special.
    pub fn floats(&mut self, exp_bits: u32, man_bits: u32) -> [u64; 3] {
        let (top, bias) = ((1i64 << exp_bits) - 1, (1i64 << (exp_bits - 1)) - 1);
        let sign_at = exp_bits + man_bits;
        let mut with = |exponent: i64| {
            let r = self.next();
            let fraction = match r >> 60 {
                // Few bits, at either end: ties and exact results.
                0..=3 => ((r & 7) << (man_bits - 3)) | (r >> 3 & 3),
                4 => (1 << man_bits) - 1,
                _ => r & ((1 << man_bits) - 1),
            };
            let e = exponent.clamp(0, top - 1) as u64;
            (r >> 59 & 1) << sign_at | e << man_bits | fraction
        };
        let special = |r: u64| {
            let inf = (top as u64) << man_bits;
            let sign = (r & 1) << sign_at;
            sign | [0, inf, inf | 1, inf | 1 << (man_bits - 1), 1, inf - 1][(r >> 8) as usize % 6]
        };
        let any = |r: u64| (r >> 7) as i64 & top;
        let near = man_bits as i64 + 4;
        let r = with(0) ^ with(0).rotate_left(17);
        let spread = |r: u64, by: i64| (r % (2 * by as u64 + 1)) as i64 - by;
        match r % 16 {
            0..=3 => {
                let x = any(r.rotate_left(40));
                let y = any(r.rotate_left(51) >> 7);
                [with(x), with(y), with(any(r >> 3))]
            }
            4..=8 => {
                let x = bias + spread(r >> 8, 60.min(bias - 2));
                let y = bias + spread(r >> 20, near);
                let z = x + y - bias + spread(r >> 32, near);
                [with(x), with(y), with(z)]
            }
            9 | 10 => {
                // Products and quotients about the smallest normal number.
                let x = any(r.rotate_left(33));
                [
                    with(x),
                    with(bias - x + 1 + spread(r >> 8, near)),
                    with((r >> 40) as i64 % 4),
                ]
            }
            11 | 12 => {
                // And about the largest.
                let x = any(r.rotate_left(33));
                [
                    with(x),
                    with(top + bias - x + spread(r >> 8, 3)),
                    with(top - 1 - (r >> 40) as i64 % 3),
                ]
            }
            13 => {
                let e = any(r.rotate_left(21));
                let x = with(e);
                // Neighbours of opposite sign: cancellation.
                [x, (x ^ 1 << sign_at).wrapping_add(r >> 8 & 1), with(e)]
            }
            14 => [special(r >> 7), special(r >> 21), special(r >> 35)],
            _ => [with(any(r >> 9)), special(r >> 21), with(bias)],
        }
    }

    pub fn f64s(&mut self) -> [u64; 3] {
        self.floats(11, 52)
    }
}

/// `f32` patterns: every upper half. Beside magnitudes that `f16` can hold, with
/// lower halves at and beside every multiple of 2^12, where the ties of `f16`
/// and its subnormals lie; elsewhere with those of `bf16` (bit 15) and `tf32`
/// (bit 12). The ties of FP8 are in the upper half.
pub fn f32_patterns() -> Vec<u64> {
    let beside = |k: u64| [k << 12, (k << 12) + 1, (k << 12) + 0xfff];
    let dense: Vec<u64> = (0..16).flat_map(beside).collect();
    let coarse: Vec<u64> = [0, 1, 7, 8, 15].into_iter().flat_map(beside).collect();
    (0..1u64 << 16)
        .flat_map(|hi| {
            let low = match hi >> 7 & 0xff {
                100..=144 => &dense,
                _ => &coarse,
            };
            low.iter().map(move |lo| hi << 16 | lo)
        })
        .collect()
}
