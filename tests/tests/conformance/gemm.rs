//! Matrix products: block-scaled bit for bit, BF16 within the tensor core's accumulation error.

mod bf16;
mod fp8;
