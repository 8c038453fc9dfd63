//! The manifest: what to allocate, what to fill it with, and what to launch.
//!
//! In: written by the compiler from its program, one to one. Out: read by the runtime.
//! Holds after [`Manifest::validate`]: every index is in range, every view lies in its buffer for every value
//! that the named dims may take, and every launch expression has a value.

use serde::{Deserialize, Serialize};

use crate::expr::Expr;
use crate::types::{DType, Dim, DimDecl, DimValues, ParamSource, Type};

/// Version of the manifest's fields; a reader takes exactly its own.
pub const SCHEMA_VERSION: u32 = 2;

/// Index of a buffer in [`Manifest::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BufferId(pub u32);

/// Index of a kernel in [`Manifest::kernels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KernelId(pub u32);

/// Everything about a compiled model but the code itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema: u32,
    /// Version of the compiler, for people.
    pub compiler: String,
    /// What the kernels were compiled for.
    pub target: Target,
    /// The model's name, as its author gave it.
    pub model: String,
    /// The ranks that run it, all of them the same program; one where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<Mesh>,
    /// Named dims with their bounds.
    pub dims: Vec<DimDecl>,
    /// Weights, states, inputs, outputs and temporaries.
    pub buffers: Vec<Buffer>,
    /// Bytes that all temporaries share.
    pub arena_bytes: u64,
    /// The weight map: parameters, their recipes and their buffers.
    pub params: Vec<WeightParam>,
    /// Distinct kernels.
    pub kernels: Vec<Kernel>,
    /// Entry points, e.g. `prefill` and `decode`.
    pub entries: Vec<Entry>,
    /// Special tokens; the tokenizer itself is a section of its own.
    pub tokenizer: TokenizerInfo,
}

/// Ranks, one a GPU, numbered node by node, and what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Machines, joined by InfiniBand.
    pub nodes: u32,
    /// GPUs of a machine, joined by NVLink.
    pub gpus: u32,
    /// Ranks in a row that hold one copy of all experts.
    pub ep: u32,
    /// Ranks that share a projection.
    pub tp: u32,
    /// Groups of `tp` ranks with tokens of their own.
    pub dp: u32,
}

impl Mesh {
    /// How many ranks there are.
    #[must_use]
    pub const fn ranks(&self) -> u32 {
        self.nodes.saturating_mul(self.gpus)
    }
}

/// What the kernels were compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The target file's name: `h800`, `h100` or `h200`.
    pub name: String,
    /// `sm_90a`.
    pub arch: String,
    /// SMs of the device that the compiler planned for.
    pub sms: u32,
    /// PTX ISA version of the kernels, e.g. `8.0`.
    pub ptx_isa: String,
    /// The device's rates and capacities as the target file states them.
    pub hardware: Hardware,
}

/// Figures of the device that the compiler planned for, so that a host without the compiler can predict times
/// ([`Work`]). All are nominal: of data sheets, not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The clock at which the peak rates hold.
    pub clock_hz: u64,
    /// The clock that long matrix work settles at under the power limit.
    pub sustained_clock_hz: u64,
    /// Dense FP8 tensor-core peak.
    pub fp8_flops: u64,
    /// Dense BF16 tensor-core peak.
    pub bf16_flops: u64,
    /// FP32 peak of the CUDA cores.
    pub f32_flops: u64,
    /// Capacity of device memory.
    pub hbm_bytes: u64,
    /// Bandwidth of device memory.
    pub hbm_bytes_per_s: u64,
    /// Capacity of the second-level cache.
    pub l2_bytes: u64,
    /// Time from the end of one kernel to useful work of the next in the same stream.
    pub launch_ns: u64,
}

/// Special tokens of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// Begins a text.
    #[serde(default)]
    pub bos: Option<i32>,
    /// Any of these ends a text.
    #[serde(default)]
    pub eos: Vec<i32>,
}

/// One piece of device memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Lives inside one step, at this byte offset of the arena.
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
pub struct WeightParam {
    /// Name in the graph.
    pub name: String,
    /// Logical type; all dims are constant.
    pub ty: Type,
    /// Recipe over checkpoint tensors.
    pub source: ParamSource,
    /// Values (codes, when block-scaled), row-major and contiguous.
    pub data: BufferId,
    /// FP32 scales `[.., ceil(N / rows), ceil(K / cols)]`, row-major, when block-scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scales: Option<BufferId>,
}

/// A compiled kernel. Its code is the section `ptx/<name>.ptx`, and `cubin/<name>.cubin` where there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name of the PTX entry, unique; letters, digits and underscores.
    pub name: String,
    /// Kernel family, for people.
    pub family: String,
    /// Every choice of the kernel's making, for people.
    pub config: serde_json::Value,
    /// What a launch passes, in order.
    pub operands: Vec<Operand>,
    /// How to launch it.
    pub launch: LaunchSpec,
    /// What `ptxas` reported, when it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// SHA-256 of the PTX text, hexadecimal.
    pub ptx_sha256: String,
    /// SHA-256 of the cubin, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cubin_sha256: Option<String>,
}

/// One operand of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operand {
    /// Name in the kernel family's operand table.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Axes of its view.
    pub rank: usize,
    /// Whether the kernel writes it.
    pub written: bool,
}

/// What `ptxas` said about a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of spill stores and loads.
    pub spill_bytes: u32,
    /// Static shared memory, bytes.
    pub static_smem_bytes: u32,
}

/// How to launch a kernel.
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

impl Default for Work {
    /// None.
    fn default() -> Self {
        Self {
            unit: Unit::None,
            flops: Expr::Const(0),
            bytes: Expr::Const(0),
        }
    }
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

impl Param {
    /// Size and alignment in the kernel's parameter space: PTX ISA "Kernel Function Parameters"; a tensor map is
    /// an opaque 128-byte object aligned to 64 ("Tensor-map").
    #[must_use]
    pub const fn size_align(&self) -> (usize, usize) {
        match self {
            Self::Pointer { .. } => (8, 8),
            Self::TensorMap { .. } => (128, 64),
            Self::Extent { .. } | Self::Stride { .. } => (4, 4),
        }
    }

    /// The operand that the parameter speaks of.
    #[must_use]
    pub const fn operand(&self) -> usize {
        match self {
            Self::Pointer { operand }
            | Self::TensorMap { operand, .. }
            | Self::Extent { operand, .. }
            | Self::Stride { operand, .. } => *operand,
        }
    }
}

impl LaunchSpec {
    /// Byte offset of each parameter, and the bytes of all of them.
    #[must_use]
    pub fn param_offsets(&self) -> (Vec<usize>, usize) {
        let mut end = 0_usize;
        let offsets = self
            .params
            .iter()
            .map(|param| {
                let (size, align) = param.size_align();
                let offset = end.next_multiple_of(align);
                end = offset + size;
                offset
            })
            .collect();
        (offsets, end)
    }
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
    /// For people: the graph op(s) this step computes.
    pub label: String,
    /// One view for each of the kernel's operands.
    pub operands: Vec<View>,
}

/// A strided view of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl View {
    /// Bytes of the buffer up to the end of the view's last element; `None` when a dim has no value or the size
    /// does not fit. A view of no elements ends where it starts.
    #[must_use]
    pub fn end(&self, dims: &DimValues) -> Option<u64> {
        let mut last = 0_u64;
        for (dim, stride) in self.shape.iter().zip(&self.strides) {
            match dim.resolve(dims)? {
                0 => return Some(self.offset),
                extent => last = last.checked_add((extent - 1).checked_mul(*stride)?)?,
            }
        }
        last.checked_add(1)?
            .checked_mul(self.dtype.bytes())?
            .checked_add(self.offset)
    }
}

impl Manifest {
    /// The buffer of an id, `None` when out of range.
    #[must_use]
    pub fn buffer(&self, id: BufferId) -> Option<&Buffer> {
        self.buffers.get(id.0 as usize)
    }

    /// The kernel of an id, `None` when out of range.
    #[must_use]
    pub fn kernel(&self, id: KernelId) -> Option<&Kernel> {
        self.kernels.get(id.0 as usize)
    }

    /// The entry point of this name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The declaration of a named dim.
    #[must_use]
    pub fn dim(&self, name: &str) -> Option<&DimDecl> {
        self.dims.iter().find(|dim| dim.name == name)
    }
}
