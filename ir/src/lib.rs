//! Graph IR: ops, types, text form, verifier and reference evaluator.
//!
//! A [`Module`] is a model: named dims, parameters with recipes over checkpoint tensors, states, and entry
//! [`Graph`]s that share them. Everything about an op starts from its row in [`op`]: result types
//! ([`infer`]), text ([`print`](mod@print), [`parse`]), checks ([`verify`](mod@verify)), docs. [`program`] and [`kernel`] describe what a
//! graph becomes: launches of generated kernels over buffers.

pub mod attr;
pub mod docs;
pub mod eval;
pub mod exchange;
mod expand;
pub mod graph;
pub mod infer;
pub mod kernel;
pub mod marks;
pub mod mesh;
pub mod module;
pub mod numerics;
pub mod op;
pub mod parse;
pub mod print;
pub mod program;
pub mod types;
pub mod verify;

pub use expand::ExpandError;
pub use graph::{Graph, Node, NodeId, SourceLoc, ValueId};
pub use marks::{Freedom, Marks};
pub use mesh::{Mesh, MeshError};
pub use module::{DimDecl, Module, ModuleError, Param, ParamSource, State, Yarn};
pub use op::{Op, OpRow, TypeError};
pub use parse::ParseError;
pub use types::{DType, Dim, F32, Name, ScaleBlock, Type};
pub use verify::{VerifyError, verify};
