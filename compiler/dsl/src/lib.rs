//! What a model author imports: tensors with named dims, layers, whole models.
//!
//! In: ordinary Rust functions over [`Tensor`] handles. Out: a verified [`Module`] of graph IR, or
//! every mistake in shapes, element types and names with the author's own source line. Nothing is
//! computed here: an operation on a handle adds one op to the entry's graph.
//!
//! ```
//! use mcc_dsl::{Model, bf16, fp8_weight, layers, tensor};
//!
//! let m = Model::new("one-layer");
//! let t = m.dim("T", 1..=64);
//! let w = m.param("proj", fp8_weight((256, 512)), tensor("proj.weight"));
//! m.entry("forward", |e| {
//!     let x = e.input("x", bf16((&t, 512)));
//!     e.output("y", &layers::linear(&x, &w));
//! });
//! let module = m.finish()?;
//! assert_eq!(module.entries.len(), 1);
//! # Ok::<(), mcc_dsl::DslErrors>(())
//! ```
//!
//! After a first mistake everything computed from the wrong tensor stays silent, so that one
//! mistake is one message.

mod error;
pub mod layers;
mod model;
pub mod models;
mod tensor;
mod types;

pub use error::{DslError, DslErrors, Mistake};
pub use mcc_ir::kernel::NO_PROMOTION;
pub use mcc_ir::{DType, Dim, Freedom, Mesh, MeshError, Module, Name, Type, Yarn};
pub use model::{Entry, Model, Param, State};
pub use tensor::{Attention, Operand, Product, Routing, Tensor, attention, concat};
pub use types::{
    IntoShape, bf16, concat_rows, dequant, f32, fp8_activation, fp8_weight, i32, stack, tensor,
};
