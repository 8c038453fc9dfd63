//! Tensor maps of the hardware (CUDA driver API, "Tensor Map Object Management").
//!
//! In: a tiled tensor. Out: the 128 bytes that a kernel takes, or which rule of the hardware the tensor breaks.
//! Holds: reads beyond the tensor give zero; L2 fetches 256 bytes at a time.

use core::ptr;

use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType as Type, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle as Swizzle,
};
use mcc_bundle::DType;

use super::CudaDevice;
use super::failure::{INVALID_VALUE, call};
use crate::device::TensorMapSpec;
use crate::error::DeviceError;

/// Most axes of a tensor map.
const AXES: usize = 5;

impl CudaDevice {
    pub(super) fn tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError> {
        let rank = spec.dims.len();
        let swizzle = match spec.swizzle {
            0 => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            other => {
                return Err(DeviceError::TensorMap(format!(
                    "there is no swizzle of {other} bytes"
                )));
            }
        };
        let whole = (1..=AXES).contains(&rank)
            && spec.strides.len() == rank - 1
            && spec.box_dims.len() == rank;
        if !whole {
            return Err(DeviceError::TensorMap(format!(
                "{rank} extents, {} strides and {} extents of a box do not make a tensor of 1 to {AXES} axes",
                spec.strides.len(),
                spec.box_dims.len()
            )));
        }
        let dtype = match spec.dtype {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            // TMA moves FP8 as bytes.
            DType::E4m3 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
        };
        let element_strides = [1_u32; AXES];
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: `map` is aligned as its type says; every array has as many entries as the rank asks for, of which
        // the strides are one less; the address is only encoded.
        let encoded = unsafe {
            call!(
                self.context.api(),
                cuTensorMapEncodeTiled(
                    &raw mut map,
                    dtype,
                    rank as u32,
                    ptr::without_provenance_mut(spec.address as usize),
                    spec.dims.as_ptr(),
                    spec.strides.as_ptr(),
                    spec.box_dims.as_ptr(),
                    element_strides.as_ptr(),
                    CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                    swizzle,
                    CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                    CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                )
            )
        };
        encoded.map_err(|failure| match (failure.code, broken_rule(spec)) {
            (INVALID_VALUE, Some(rule)) => DeviceError::TensorMap(rule),
            _ => self.failed(failure),
        })?;
        let mut bytes = [0; 128];
        for (to, word) in bytes.chunks_exact_mut(8).zip(map.opaque) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(bytes)
    }
}

/// The documented rule that a tensor breaks; the driver only says that there is one.
fn broken_rule(spec: &TensorMapSpec) -> Option<String> {
    if !spec.address.is_multiple_of(16) {
        return Some(format!(
            "the address {:#x} is not a multiple of 16",
            spec.address
        ));
    }
    if let Some(extent) = spec
        .dims
        .iter()
        .find(|&&extent| extent == 0 || extent > 1 << 32)
    {
        return Some(format!("an extent of {extent}, it must be 1 to 2^32"));
    }
    if let Some(stride) = spec
        .strides
        .iter()
        .find(|&&stride| !stride.is_multiple_of(16) || stride >= 1 << 40)
    {
        return Some(format!(
            "a stride of {stride} bytes, it must be a multiple of 16 and less than 2^40"
        ));
    }
    if let Some(extent) = spec
        .box_dims
        .iter()
        .find(|&&extent| extent == 0 || extent > 256)
    {
        return Some(format!(
            "a box of {extent} elements along one axis, it must be 1 to 256"
        ));
    }
    let inner = u64::from(*spec.box_dims.first()?) * spec.dtype.bytes();
    if !inner.is_multiple_of(16) {
        return Some(format!(
            "a box's row of {inner} bytes, it must be a multiple of 16"
        ));
    }
    if spec.swizzle != 0 && inner > u64::from(spec.swizzle) {
        return Some(format!(
            "a box's row of {inner} bytes, a swizzle of {0} bytes takes at most {0}",
            spec.swizzle
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> TensorMapSpec {
        TensorMapSpec {
            dtype: DType::Bf16,
            address: 0x1000,
            dims: vec![64, 8],
            strides: vec![128],
            box_dims: vec![64, 8],
            swizzle: 128,
        }
    }

    #[test]
    fn each_rule_is_named() {
        assert_eq!(broken_rule(&sound()), None);
        let broken = |change: fn(&mut TensorMapSpec), rule: &str| {
            let mut spec = sound();
            change(&mut spec);
            let said = broken_rule(&spec).unwrap_or_default();
            assert!(said.contains(rule), "{said:?} instead of {rule:?}");
        };
        broken(|spec| spec.address = 8, "the address 0x8");
        broken(|spec| spec.dims[1] = 0, "an extent of 0");
        broken(|spec| spec.strides[0] = 120, "a stride of 120");
        broken(|spec| spec.box_dims[1] = 257, "a box of 257");
        broken(|spec| spec.box_dims[0] = 4, "a box's row of 8 bytes");
        broken(
            |spec| spec.swizzle = 64,
            "a box's row of 128 bytes, a swizzle of 64",
        );
    }
}
