//! The kernel bundle: one `.mccb` file that holds all a host needs to run a compiled model, but the weights.
//!
//! In: what the compiler made (a manifest, PTX, perhaps cubins, the tokenizer, the graph and program texts).
//! Out: a file; and, on the other side, a [`Bundle`] whose every hash and index was checked.
//! Holds afterwards: equal bundles give equal bytes, on any machine; a file that [`Bundle::from_bytes`] accepts
//! names no buffer, kernel, operand or byte that is not there.
//!
//! ```text
//! manifest    what to allocate, fill and launch (JSON)          manifest.rs, checked by validate.rs
//! expr        integers known at launch: grids, extents          expr.rs
//! container   header, section table, compressed sections        container.rs
//! ```
//!
//! The structures of the manifest mirror the program of `mcc-ir` one to one. They are defined here a second
//! time so that a host which only runs bundles builds without the compiler.

mod bundle;
mod container;
mod error;
mod expr;
mod manifest;
mod types;
mod validate;

pub use bundle::{Bundle, sha256_hex};
pub use container::{FORMAT_VERSION, MAGIC, Section};
pub use error::{BundleError, ManifestError};
pub use expr::{Expr, ExprError, MAX_EXPR_DEPTH};
pub use manifest::{
    Buffer, BufferId, BufferKind, Entry, Hardware, Kernel, KernelId, LaunchSpec, Manifest, MapAxes,
    Mesh, Operand, Param, Port, Resources, SCHEMA_VERSION, Step, Target, TokenizerInfo, Unit, View,
    WeightParam, Work,
};
pub use types::{DType, Dim, DimDecl, DimValues, ParamSource, ScaleBlock, Type, Yarn};
