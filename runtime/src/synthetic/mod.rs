//! Weights, caches and inputs that are made up, so that any bundle runs without its checkpoint.
//!
//! In: a manifest and a seed. Out: bytes for every weight buffer, for a cache, for an entry's inputs.
//! Holds: the same bytes on every machine, because all arithmetic is on integers or correctly rounded; every
//! value is finite, every index names something that is there, and weights are so scaled that activations keep
//! their magnitude from layer to layer.
//!
//! Speed: a buffer is a [`tile::Tile`] of about a million elements over and over, begun at a place of its own. The
//! tile's length is a prime, so that no two rows of a matrix are equal.

mod inputs;
mod tile;

use std::time::Instant;

use mcc_bundle::{BufferId, DType, DimValues, Manifest, ParamSource, WeightParam};

pub use inputs::inputs;
pub(crate) use inputs::state_bytes;

use crate::device::Device;
use crate::error::{DeviceError, RuntimeError, WeightError};
use crate::model::Model;
use crate::sampling::SplitMix64;
use crate::weights::{LoadProgress, rope_rows};
use tile::{Fill, Tiles};

impl Model {
    /// Fills the weight buffers with values that `seed` makes, in place of [`Model::load_weights`].
    ///
    /// # Errors
    /// When a parameter's size is not fixed, or the device fails.
    pub fn load_synthetic(
        &mut self,
        seed: u64,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<(), RuntimeError> {
        let start = Instant::now();
        let mut writer = Writer {
            device: self.device.as_mut(),
            bytes: 0,
        };
        let mut tiles = Tiles::new(seed);
        let total = self.manifest.params.len();
        for (done, param) in self.manifest.params.iter().enumerate() {
            progress(LoadProgress {
                param: &param.name,
                done,
                total,
                bytes: writer.bytes,
            });
            let address = |id: BufferId| self.addresses[id.0 as usize];
            let (elements, scales) = extents(param)?;
            // A rotary table needs no checkpoint.
            if let ParamSource::RopeTable {
                dim,
                theta,
                positions,
                yarn,
            } = &param.source
            {
                let mut sink = writer.at(address(param.data));
                rope_rows(*dim, *theta, *positions, yarn.as_ref(), &mut sink)?;
            } else {
                let fill = weight_fill(&self.manifest, param);
                let mut sink = writer.at(address(param.data));
                tiles.write(fill, stream(&param.name), elements, &mut sink)?;
            }
            if let (Some(id), Some(elements)) = (param.scales, scales) {
                let fill = Fill::Scales(width(param));
                tiles.write(
                    fill,
                    stream(&param.name),
                    elements,
                    &mut writer.at(address(id)),
                )?;
            }
        }
        progress(LoadProgress {
            param: "",
            done: total,
            total,
            bytes: writer.bytes,
        });
        self.stats.weight_bytes = writer.bytes;
        self.stats.weights = start.elapsed();
        self.weights_began = Some(start);
        self.weights_loaded = true;
        Ok(())
    }
}

/// Writes pieces one after the other and counts them.
struct Writer<'d> {
    device: &'d mut dyn Device,
    bytes: u64,
}

impl Writer<'_> {
    fn at(&mut self, mut address: u64) -> impl FnMut(&[u8]) -> Result<(), DeviceError> {
        move |piece| {
            self.device.write(address, piece)?;
            address += piece.len() as u64;
            self.bytes += piece.len() as u64;
            Ok(())
        }
    }
}

/// Elements of the values and of the scales.
fn extents(param: &WeightParam) -> Result<(u64, Option<u64>), WeightError> {
    let none = DimValues::new();
    let product = |extents: Vec<u64>| extents.iter().try_fold(1_u64, |acc, n| acc.checked_mul(*n));
    let elements = param.ty.extents(&none).and_then(product);
    let elements = elements.ok_or_else(|| WeightError::Recipe {
        param: param.name.clone(),
        what: format!("a parameter of type {} has no fixed size", param.ty),
    })?;
    Ok((elements, param.ty.scale_extents(&none).and_then(product)))
}

/// What suits the parameter's place in the model: a product's sum over K keeps the magnitude of its input when
/// weights have the variance 1/K; a norm's weights are about 1; a bias is about 0.
fn weight_fill(manifest: &Manifest, param: &WeightParam) -> Fill {
    match (param.ty.dtype, param.ty.shape.len()) {
        (DType::E4m3, _) => Fill::Codes,
        (DType::I32, _) => Fill::Zeros,
        (dtype, 0 | 1) if operand_names(manifest, param.data).any(|name| name == "bias") => {
            Fill::Normal(dtype, 1)
        }
        (dtype, 0 | 1) => Fill::AboutOne(dtype),
        (dtype, _) => Fill::Normal(dtype, width(param)),
    }
}

/// K: the innermost extent.
fn width(param: &WeightParam) -> u64 {
    let extents = param.ty.extents(&DimValues::new()).unwrap_or_default();
    extents.last().copied().unwrap_or(1).max(1)
}

/// What kernels call a buffer.
fn operand_names(manifest: &Manifest, id: BufferId) -> impl Iterator<Item = &str> {
    let steps = manifest.entries.iter().flat_map(|entry| &entry.steps);
    steps.flat_map(move |step| {
        let kernel = &manifest.kernels[step.kernel.0 as usize];
        step.operands
            .iter()
            .zip(&kernel.operands)
            .filter(move |(view, _)| view.buffer == id)
            .map(|(_, operand)| operand.name.as_str())
    })
}

/// A number for a name, the same on every machine (FNV-1a, 64 bits).
fn stream(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    SplitMix64::new(hash).bits(0)
}
