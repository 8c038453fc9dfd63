//! The program: what is left of a graph when every op has become a kernel launch over buffers.
//!
//! In: the optimised graph, through kernel selection and the memory plan (`mcc-passes`).
//! Out: JSON for people (`--emit program`), kernels for codegen, the manifest of the bundle.
//! Holds afterwards: every buffer has an offset and a size computed from the dims' upper bounds; every
//! launch names its operands as strided views; only the values of the named dims are open until run time.

mod json;
mod verify;
mod work;

use serde::{Deserialize, Serialize};

pub use self::json::ProgramError;
pub use self::verify::BUFFER_ALIGN;
use crate::kernel::KernelConfig;
use crate::mesh::Mesh;
use crate::module::{DimDecl, ParamSource};
use crate::types::{DType, Dim, Type};

/// Index of a buffer in [`Program::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BufferId(pub u32);

/// Index of a kernel in [`Program::kernels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KernelId(pub u32);

/// A whole model, lowered: what codegen compiles and the runtime executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The model's name, as its author gave it.
    pub model: String,
    /// The target file's name: `h800`, `h100` or `h200`.
    pub target: String,
    /// The ranks that run it, all of them the same program; one where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<Mesh>,
    /// Named dims with their bounds; the runtime checks a step's values against them.
    pub dims: Vec<DimDecl>,
    /// Weights, states, inputs, outputs and temporaries.
    pub buffers: Vec<Buffer>,
    /// Bytes of the arena that all temporaries share ([`BufferKind::Temp`] offsets point into it).
    pub arena_bytes: u64,
    /// Parameters and the buffers that hold them.
    pub params: Vec<ProgramParam>,
    /// Distinct kernels; launches with equal configs share one.
    pub kernels: Vec<Kernel>,
    /// Entry points, e.g. `prefill` and `decode`.
    pub entries: Vec<Entry>,
}

/// One piece of device memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// For people: the value's or parameter's name.
    pub name: String,
    /// Who owns it and how long it lives.
    pub kind: BufferKind,
    /// Size at the dims' upper bounds, a multiple of 256.
    pub bytes: u64,
}

/// Lifetime of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferKind {
    /// Filled once when weights are loaded.
    Weight,
    /// Lives from step to step (KV cache); zero when a sequence starts.
    State,
    /// Written by the host before a step.
    Input,
    /// Read by the host after a step.
    Output,
    /// Lives inside one step, at this byte offset of the arena; lifetimes that do not overlap share bytes.
    Temp {
        /// Byte offset, a multiple of 256.
        offset: u64,
    },
    /// What ranks write into each other's memory: as large on every rank, zero when a model is loaded, never cleared
    /// after. At most one.
    Exchange,
    /// Read by kernels, filled by the runtime when a model is loaded: which of the ranks that share the experts this one
    /// is, and where the exchange buffers of all of them are mapped.
    ///
    /// ```text
    /// u32 rank in the group | u32 ranks | u32 rank 0's PE | u32 0 | u64 address of each rank's buffer, 0 where not mapped
    /// ```
    World {
        /// Ranks of the group.
        ranks: u32,
    },
}

/// A parameter: its type, where its values come from, and its buffers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramParam {
    /// Name in the graph.
    pub name: String,
    /// Logical type; block-scaled types have a second buffer.
    pub ty: Type,
    /// Recipe over checkpoint tensors.
    pub source: ParamSource,
    /// Values (codes, when block-scaled), row-major and contiguous.
    pub data: BufferId,
    /// FP32 scales `[.., ceil(N/128), ceil(K/128)]`, row-major, when block-scaled.
    pub scales: Option<BufferId>,
}

/// A kernel to generate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name of the PTX entry, unique, made from family and config.
    pub name: String,
    /// Every choice that codegen needs.
    pub config: KernelConfig,
}

/// One entry point: launches in order, on one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `prefill`, `decode`.
    pub name: String,
    /// Host-written buffers by name.
    pub inputs: Vec<Port>,
    /// Host-read buffers by name.
    pub outputs: Vec<Port>,
    /// Launches in order.
    pub steps: Vec<Step>,
}

/// A named input or output of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// Type with named dims.
    pub ty: Type,
    /// Its buffer, contiguous.
    pub buffer: BufferId,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which kernel.
    pub kernel: KernelId,
    /// For people: the graph op(s) this step computes, e.g. `layers.1.add_rms_norm_quantize`.
    pub label: String,
    /// In the order of [`KernelConfig::operands`]; an operand that the config switches off is absent there too.
    pub operands: Vec<View>,
}

/// A strided view of a buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The memory.
    pub buffer: BufferId,
    /// Byte offset into the buffer.
    pub offset: u64,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; named dims are resolved at launch.
    pub shape: Vec<Dim>,
    /// Element strides, one an axis, outermost first.
    pub strides: Vec<u64>,
}

/// How to launch a compiled kernel: made by codegen beside the PTX, evaluated by the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Grid, x y z.
    pub grid: [Expr; 3],
    /// Threads a block.
    pub block: u32,
    /// Cluster shape; `[1, 1, 1]` for none.
    pub cluster: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub smem_bytes: u32,
    /// Kernel parameters in order.
    pub params: Vec<Param>,
    /// Whether the kernel waits by itself for the launches before it to end, before it touches what they touch
    /// (PTX ISA "griddepcontrol"), so that the driver may start its blocks early.
    #[serde(default, skip_serializing_if = "is_false")]
    pub programmatic: bool,
    /// What a launch has to do, for predictions and for measured ratios.
    pub work: Work,
}

/// What a launch has to do at the least, whatever the kernel does beyond: the figures to hold a time against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Which peak rate `flops` are held against.
    pub unit: Unit,
    /// Floating-point operations of the tensor cores, two for each multiply-add. Pairs that causal attention
    /// masks are not counted.
    pub flops: Expr,
    /// Bytes of device memory: operands read once, results written once; of a table or of grouped weights only
    /// what the rows can touch.
    pub bytes: Expr,
}

/// The tensor cores' kind of product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// No tensor-core work.
    #[default]
    None,
    /// E4M3 operands.
    Fp8,
    /// BF16 operands.
    Bf16,
}

/// For `skip_serializing_if`.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For `skip_serializing_if`, which passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(value: &bool) -> bool {
    !*value
}

/// The axes of a tensor map, innermost first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapAxes {
    /// The view's, reversed: its last axis is innermost.
    #[default]
    Rows,
    /// The view's, reversed, but for the last two, which trade places: the scales of activations, whose rows are
    /// neighbours in memory.
    Columns,
    /// As `Rows`, with the last axis but one twice: a box of `R` rows at `(column, R - n, row + n)` has the `n` rows
    /// from `row` on and nothing else, so that a store ends anywhere. For that the map's first row is `R` rows before
    /// the view's.
    Ragged,
}

/// One kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Param {
    /// 64-bit device address of the operand's view.
    Pointer {
        /// Operand index.
        operand: usize,
    },
    /// 128-byte tensor map over the operand's view.
    TensorMap {
        /// Operand index.
        operand: usize,
        /// Box extents, innermost first, one for each axis of the view.
        box_dims: Vec<u32>,
        /// Swizzle span in bytes: 0, 32, 64 or 128.
        swizzle: u32,
        /// How the view's axes become the map's.
        #[serde(default, skip_serializing_if = "is_default")]
        axes: MapAxes,
    },
    /// `u32`: run-time extent of an axis of the operand's view.
    Extent {
        /// Operand index.
        operand: usize,
        /// Axis, outermost is 0.
        axis: usize,
    },
    /// `u32`: element stride of an axis of the operand's view.
    Stride {
        /// Operand index.
        operand: usize,
        /// Axis, outermost is 0.
        axis: usize,
    },
}

/// An integer known at launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// A constant.
    Const(u64),
    /// Run-time extent of an operand's axis.
    Extent {
        /// Operand index.
        operand: usize,
        /// Axis, outermost is 0.
        axis: usize,
    },
    /// Number of SMs of the device.
    Sms,
    /// `ceil(value / divisor)`.
    CeilDiv(Box<Expr>, u64),
    /// Sum.
    Add(Vec<Expr>),
    /// Difference, zero where it would be negative.
    Sub(Box<Expr>, Box<Expr>),
    /// Product.
    Mul(Vec<Expr>),
    /// Smallest.
    Min(Vec<Expr>),
}
