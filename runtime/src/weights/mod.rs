//! From a checkpoint directory into the weight buffers of a device.
//!
//! ```text
//! checkpoint   the directory: index, shards, headers (memory-mapped)
//! recipe       a parameter's recipe: checked, then streamed
//! convert      element types          rope   rotary tables
//! share        which experts this rank holds
//! ```
//!
//! In: the manifest's weight map. Out: every weight buffer filled.
//! Holds: all recipes are checked against the headers before the first byte is written; host memory holds one
//! intermediate matrix at most, never a whole checkpoint.

mod checkpoint;
mod convert;
mod recipe;
mod rope;
mod share;

use std::path::Path;

use mcc_bundle::{BufferId, DType, DimValues, Manifest, Type, WeightParam};

pub use checkpoint::Checkpoint;
pub use convert::e4m3_to_f32;
pub(crate) use convert::{e4m3_nearest, push_bf16};
pub use rope::rope_table;
pub(crate) use rope::rows as rope_rows;
pub use share::Share;

use crate::error::{DeviceError, WeightError};
use recipe::{Part, Plan, Sink, WEIGHT_BLOCK, plan};

/// Where loading stands; given before each parameter and once at the end.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress<'a> {
    /// The parameter that comes next; empty at the end.
    pub param: &'a str,
    /// Parameters done.
    pub done: usize,
    /// Parameters altogether.
    pub total: usize,
    /// Bytes written to the device so far.
    pub bytes: u64,
}

/// Bytes that are converted at a time; a multiple of every element size.
const CONVERT_BYTES: usize = 1 << 20;

/// Writes bytes to a device address.
pub(crate) type WriteTo<'a> = dyn FnMut(u64, &[u8]) -> Result<(), DeviceError> + 'a;

/// Fills all weight buffers of `manifest`, whose device addresses are given, with what `share` says
/// of experts, and returns the bytes written.
pub(crate) fn load(
    manifest: &Manifest,
    address: &dyn Fn(BufferId) -> u64,
    write_to_device: &mut WriteTo<'_>,
    checkpoint: &Checkpoint,
    share: &Share,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Result<u64, WeightError> {
    let plans = plans(checkpoint, &manifest.params, Some(share))?;
    let total = plans.len();
    let mut bytes = 0;
    for (done, (param, plan)) in manifest.params.iter().zip(&plans).enumerate() {
        progress(LoadProgress {
            param: &param.name,
            done,
            total,
            bytes,
        });
        let mut write_to = |id: BufferId, part: Part| {
            let start = address(id);
            let mut at = start;
            let mut write = |piece: &[u8]| {
                write_to_device(at, piece)?;
                at += piece.len() as u64;
                Ok(())
            };
            match (part, plan.layout.dtype, param.ty.dtype) {
                (Part::Data, DType::F32, DType::Bf16) => {
                    emit_converted(plan, convert::f32_to_bf16, &mut write)?;
                }
                (Part::Data, DType::Bf16, DType::F32) => {
                    emit_converted(plan, convert::bf16_to_f32, &mut write)?;
                }
                _ => plan.emit(part, &mut write)?,
            }
            Ok::<u64, WeightError>(at - start)
        };
        bytes += write_to(param.data, Part::Data)?;
        if let Some(scales) = param.scales {
            bytes += write_to(scales, Part::Scales)?;
        }
    }
    progress(LoadProgress {
        param: "",
        done: total,
        total,
        bytes,
    });
    Ok(bytes)
}

/// Streams a value through an element conversion.
fn emit_converted(
    plan: &Plan<'_>,
    convert: fn(&[u8], &mut Vec<u8>),
    sink: &mut Sink<'_>,
) -> Result<(), WeightError> {
    let mut converted = Vec::new();
    plan.emit(Part::Data, &mut |piece| {
        piece.chunks(CONVERT_BYTES).try_for_each(|chunk| {
            convert(chunk, &mut converted);
            sink(&converted)
        })
    })
}

impl Checkpoint {
    /// Checks that every recipe fits the headers of this checkpoint, for all ranks; reads no weights.
    ///
    /// # Errors
    /// When a tensor is missing, or not of the type that the bundle wants.
    pub fn check(&self, params: &[WeightParam]) -> Result<(), WeightError> {
        plans(self, params, None).map(drop)
    }
}

fn plans<'a>(
    checkpoint: &'a Checkpoint,
    params: &[WeightParam],
    share: Option<&Share>,
) -> Result<Vec<Plan<'a>>, WeightError> {
    params
        .iter()
        .map(|param| {
            let plan = plan(checkpoint, &param.name, &param.source, share)?;
            check_type(param, &plan, checkpoint.dir())?;
            Ok(plan)
        })
        .collect()
}

/// What the recipe makes must be what the bundle wants, but for a conversion between F32 and BF16.
fn check_type(param: &WeightParam, plan: &Plan<'_>, dir: &Path) -> Result<(), WeightError> {
    let Type { dtype, scale, .. } = &param.ty;
    let plain_float = |dtype: DType| matches!(dtype, DType::F32 | DType::Bf16);
    let dtype_fits =
        plan.layout.dtype == *dtype || plain_float(plan.layout.dtype) && plain_float(*dtype);
    if !dtype_fits {
        return Err(WeightError::WrongDtype {
            what: param.name.clone(),
            file: dir.to_owned(),
            expected: dtype.to_string(),
            found: plan.layout.dtype.to_string(),
        });
    }
    let expected = param.ty.extents(&DimValues::new()).unwrap_or_default();
    if expected != plan.layout.shape {
        return Err(WeightError::WrongShape {
            what: param.name.clone(),
            file: dir.to_owned(),
            expected: format!("{expected:?}"),
            found: format!("{:?}", plan.layout.shape),
        });
    }
    if let Some(block) = scale
        && (u64::from(block.rows), u64::from(block.cols)) != (WEIGHT_BLOCK, WEIGHT_BLOCK)
    {
        return Err(WeightError::Recipe {
            param: param.name.clone(),
            what: format!(
                "the bundle wants scales of {} by {} blocks, checkpoints have {WEIGHT_BLOCK} by {WEIGHT_BLOCK}",
                block.rows, block.cols
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
