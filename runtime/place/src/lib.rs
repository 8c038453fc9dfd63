//! Redundant experts: where they lie, and which replica a token takes.
//!
//! In: how many tokens each expert of each layer got ([`Statistics`]), and what there is to hold them ([`Shape`]). Out: a
//! [`Placement`]: the expert in every slot of every GPU. Holds: every expert has a slot; GPUs have equal numbers of
//! slots; equal input gives equal output on every host.
//!
//! ```text
//! router kernels ─ counts ─► statistics.json ─ mcc place ─► placement.json ─► weights by rank, replica by token
//! ```
//!
//! The algorithm is DeepSeek's EPLB (`docs/placement.md`); `eplb.rs` has its steps.

pub mod cli;
mod eplb;
mod files;
mod placement;

pub use files::FileError;
pub use placement::{Balance, Layer, PlaceError, Placement, Policy, Shape, Slot, Statistics};
