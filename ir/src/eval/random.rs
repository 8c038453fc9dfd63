//! Random tensors for tests: seeded, the same on every machine.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014), small and good enough for test data; it is not for cryptography.

use super::tensor::{Tensor, TensorError};
use crate::types::{DType, ScaleBlock};

/// A source of reproducible numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of that seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, on a grid of 2^-24 so that `f32` holds it.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// About normal with deviation 1: a centred sum of twelve uniform numbers, so that it stays
    /// within +-6.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    /// Normal FP32 values of that deviation.
    pub fn f32(&mut self, shape: &[usize], deviation: f32) -> Result<Tensor, TensorError> {
        Tensor::f32(shape, self.normals(shape, deviation))
    }

    /// Normal BF16 values of that deviation.
    pub fn bf16(&mut self, shape: &[usize], deviation: f32) -> Result<Tensor, TensorError> {
        Tensor::bf16(shape, self.normals(shape, deviation))
    }

    /// Integers below `n`.
    pub fn i32(&mut self, shape: &[usize], n: usize) -> Result<Tensor, TensorError> {
        let count = shape.iter().product();
        Tensor::i32(shape, (0..count).map(|_| self.below(n) as i32).collect())
    }

    /// Quantised activations: normal rows with a scale per 128 channels.
    pub fn activation(&mut self, shape: &[usize], deviation: f32) -> Result<Tensor, TensorError> {
        let x = Tensor::bf16(shape, self.normals(shape, deviation))?;
        Tensor::quantized(shape, x.as_float().unwrap_or_default())
    }

    /// Quantised weights: normal matrices with a scale per 128x128 block.
    pub fn weight(&mut self, shape: &[usize], deviation: f32) -> Result<Tensor, TensorError> {
        Tensor::quantized_weight(shape, &self.normals(shape, deviation))
    }

    /// A value of any type; integers are below `int_limit`.
    pub fn tensor(
        &mut self,
        dtype: DType,
        shape: &[usize],
        block: Option<ScaleBlock>,
        int_limit: usize,
    ) -> Result<Tensor, TensorError> {
        match (dtype, block) {
            (DType::F32, _) => self.f32(shape, 1.0),
            (DType::BF16, _) => self.bf16(shape, 1.0),
            (DType::I32, _) => self.i32(shape, int_limit),
            (DType::E4M3, None | Some(ScaleBlock::ACTIVATION)) => self.activation(shape, 1.0),
            (DType::E4M3, Some(block)) => {
                Tensor::quantized_blocks(shape, &self.normals(shape, 1.0), block)
            }
        }
    }

    fn normals(&mut self, shape: &[usize], deviation: f32) -> Vec<f32> {
        (0..shape.iter().product())
            .map(|_| self.normal() * deviation)
            .collect()
    }
}
