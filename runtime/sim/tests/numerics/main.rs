//! Arithmetic of the simulated device, through PTX, against exact arithmetic
//! that shares nothing with the simulator.
//!
//! ```text
//!   inputs ──PTX on the simulator──▶ bits ─┐
//!     └────── exact numbers, rounded ──────┴▶ equal, or within PTX's bound
//! ```
//!
//! `exact` is the judge, `lanes` runs one instruction on many inputs; the
//! other modules are the tests. Runs over all 2^32 operands are ignored by
//! default; `cargo test --release -p mcc-sim --test numerics -- --ignored`.

#[path = "../common/mod.rs"]
mod common;

mod approximate;
mod arithmetic;
mod conversions;
mod exact;
mod lanes;
mod tensor_core;
