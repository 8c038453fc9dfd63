//! Operands of the conversion probe.
//!
//! In: a seed, the instruction's number, an index. Out: three words, the same for the same key.
//! Holds: the first half of FP32 operands walks over every upper 16 bits with lower halves around the rounding
//! points of BF16 and above (all of them where the count suffices); the second half is seeded.

use super::Inputs;
use crate::vectors::random::Random;
use crate::vectors::types::Format;

/// Lower halves: ends, and around the tie of BF16.
const LOW: [u32; 6] = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
/// Number of structured FP32 operands.
const STRUCTURED: usize = LOW.len() << 16;

/// Operands number `i` of `total`.
pub(super) fn operands(inputs: Inputs, seed: u64, key: usize, i: usize, total: usize) -> [u32; 3] {
    let mut random = Random::new(seed, &[0xc0, key as u64, i as u64]);
    match inputs {
        Inputs::All16 => [i as u32, 0, 0],
        // An odd factor permutes the patterns, so both halves see all of them.
        Inputs::AllHalves => [((i as u32 * 40503) & 0xffff) << 16 | i as u32, 0, 0],
        Inputs::F32 if i < total / 2 => {
            [40_503, 25_173, 7_919].map(|step| structured(i * step + step / 3))
        }
        Inputs::F32 => seeded(&mut random),
        Inputs::Int => {
            // Every magnitude, and neighbours of powers of two.
            let bits = random.below(33);
            let value = (u64::from(random.bits()) >> (32 - bits)) as u32;
            let edge = (1u64 << bits) as u32;
            let near = edge.wrapping_add(random.below(5)).wrapping_sub(2);
            let x = if random.one_in(4) { near } else { value };
            [if random.sign() { x } else { x.wrapping_neg() }, 0, 0]
        }
    }
}

/// One of the structured operands; neighbours differ in the upper half.
const fn structured(i: usize) -> u32 {
    let i = i % STRUCTURED;
    (i as u32 & 0xffff) << 16 | LOW[i >> 16]
}

fn seeded(r: &mut Random) -> [u32; 3] {
    let f = Format::F32;
    let exponent = |bits: u32| (bits >> 23 & 0xff) as i32 - f.bias;
    match r.below(4) {
        // What kernels see: moderate numbers.
        0 => [(); 3].map(|()| r.normal(f, -20, 12)),
        // Exponents close to each other, so that sums round and cancel.
        1 => {
            let x = r.normal(f, -60, 60);
            let e = exponent(x);
            let y = r.normal(f, e - 26, e + 26);
            let p = e + exponent(y);
            [x, y, r.normal(f, p - 26, p + 26)]
        }
        // Results near the ends of the range.
        2 => {
            let x = r.normal(f, -126, 127);
            let low = r.sign();
            let e = if low { -150 } else { 126 } - exponent(x);
            [x, r.normal(f, e - 3, e + 3), r.subnormal(f)]
        }
        _ => [(); 3].map(|()| r.bits()),
    }
}
