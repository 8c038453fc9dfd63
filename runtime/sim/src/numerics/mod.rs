//! Arithmetic of the device, apart from any machine state.
//!
//! In: bit patterns and values. Out: the bit patterns that a Hopper SM gives.
//!
//! * [`convert`]: encoding and decoding of every small float with every
//!   rounding mode; integer conversions.
//! * [`rounding`]: addition, multiplication and fused multiply-add of `f32`
//!   with directed rounding, and of the 16-bit floats.
//! * [`double`]: the same of `f64`.
//! * [`approx`]: the `.approx` functions.
//! * [`wgmma`]: the fused sums of the tensor core.

pub mod approx;
pub mod convert;
pub mod double;
mod elements;
pub mod rounding;
pub mod wgmma;
