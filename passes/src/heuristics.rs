//! Tile and stage choices of kernels, apart from the mechanism that uses them.
//!
//! In: a problem's shape and the target. Out: all candidates with their scores, the best marked, so that a
//! choice can be printed and argued with. Holds: a choice depends on nothing else, so equal inputs give
//! equal kernels.

pub mod attention;
pub mod gemm;
