//! Graph to program: e-graph rewriting, kernel selection, memory plan.
//!
//! In comes a verified [`mcc_ir`] module, out goes a program of kernel launches. The stages are in order:
//!
//! ```text
//! Module ── egraph ──► Module ── select ──► kernel steps ── memory ──► Program
//!           exact        verified  heuristics   over views    buffers
//!           rewrites     again     pick tiles
//! ```
//!
//! Each stage is a function of its input and the [`target`] alone: same input, same bytes.
//! Only [`egraph`] knows egg.

pub mod egraph;
pub mod error;
pub mod heuristics;
pub mod lower;
pub mod memory;
pub mod select;
pub mod target;

pub use error::PassError;
pub use lower::{Lowered, lower, lower_explained};
