//! Tensor maps (CUDA driver API, Tensor Map Object Management).
//!
//! In: what `cuTensorMapEncodeTiled` takes. Out: the simulator's 128 bytes; the hardware's are not published. The
//! preconditions are those of the documentation, most of them checked by the simulator's encoder.

use std::ffi::{c_uint, c_void};

use mcc_sim::{Swizzle, TensorElem, TensorMap};

use crate::abi::CUresult;
use crate::codes;
use crate::state::{INIT, call, given};

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    out: *mut [u8; 128],
    element: c_uint,
    rank: c_uint,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    box_dims: *const c_uint,
    element_strides: *const c_uint,
    interleave: c_uint,
    swizzle: c_uint,
    promotion: c_uint,
    fill: c_uint,
) -> CUresult {
    call(c"cuTensorMapEncodeTiled", INIT, |_| {
        given(out)?;
        given(dims)?;
        given(box_dims)?;
        given(element_strides)?;
        let elem = TensorElem::ALL.get(element as usize);
        let pattern = SWIZZLES.get(swizzle as usize);
        let (Some(&elem), Some(&swizzle), 1..=5) = (elem, pattern, rank) else {
            return Err(codes::INVALID_VALUE);
        };
        // Interleaved layouts are more than the simulator has; L2 promotion changes no result.
        if interleave != 0 || promotion > 3 || fill > 1 || !(out as usize).is_multiple_of(64) {
            return Err(codes::INVALID_VALUE);
        }
        let rank = rank as usize;
        if rank > 1 {
            given(strides)?;
        }
        // SAFETY: the caller's lists have `rank` entries, that of strides one less.
        let map = unsafe {
            TensorMap {
                elem,
                global_address: address as u64,
                dims: list(dims, rank),
                strides: list(strides, rank - 1),
                box_dims: list(box_dims, rank),
                elem_strides: list(element_strides, rank),
                swizzle,
                oob_nan: fill == 1,
            }
        };
        let encoded = map.encode().map_err(|_| codes::INVALID_VALUE)?;
        // SAFETY: the caller's place for the result.
        unsafe { out.write(encoded) };
        Ok(())
    })
}

/// # Safety
/// `from` points to `len` entries.
unsafe fn list<T: Copy>(from: *const T, len: usize) -> Vec<T> {
    // SAFETY: by the caller's promise.
    (0..len).map(|i| unsafe { from.add(i).read() }).collect()
}
