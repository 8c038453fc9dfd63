//! Graph to program: e-graph rewriting, kernel selection, memory plan.
//!
//! In comes a verified [`mcc_ir`] module, out goes a program of kernel launches. The stages are in order:
//!
//! ```text
//! Module ── egraph ──► Module ── distribute ──► Module ── select ──► kernel steps ── memory ──► Program
//!           exact        verified  rows travel    of a      heuristics   over views    buffers
//!           rewrites     again     between ranks  rank      pick tiles
//! ```
//!
//! Each stage is a function of its input and the [`target`] alone: same input, same bytes.
//! Only [`egraph`] knows egg.

pub mod distribute;
pub mod egraph;
pub mod error;
pub mod heuristics;
pub mod lower;
pub mod memory;
pub mod select;
pub mod target;

pub use distribute::distribute;
pub use error::PassError;
pub use lower::{Lowered, lower, lower_explained};
