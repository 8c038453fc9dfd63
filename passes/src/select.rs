//! Kernel selection: from graph ops to kernel steps over views.
//!
//! In: an optimised, verified module and the target. Out: a [`Selection`]: buffers without addresses, distinct
//! kernels, and for each entry its launches in order. Holds afterwards: every launch hands its kernel views
//! that the kernel can address ([`mcc_ir::kernel::OperandSpec`]); `slice` and `reshape` are gone; states are
//! written in place, and no launch reads a state's old value after that.
//!
//! One family of ops a file: `rows` (row-wise), `gemm`, `attention`, `moe`, `exchange`. An op that no kernel
//! computes as asked is a typed error that names the op and the value, never a silent fallback.

mod attention;
mod exchange;
mod gemm;
mod moe;
mod operands;
mod pool;
mod ports;
mod rows;
mod schedule;
mod view;
mod wording;

use std::collections::BTreeMap;

use mcc_ir::kernel::{Epilogue, GemmForm};
use mcc_ir::program::{BufferId, Entry, Kernel, ProgramParam, Step};
use mcc_ir::{Graph, Module, NodeId, Op, ValueId};

use self::operands::Arg;
use self::pool::Pool;
pub use self::pool::{Draft, Storage};
use self::view::Placed;
use crate::error::PassError;
use crate::target::Target;

/// What is known beyond the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Extents to expect at run time, where the upper bound would mislead the heuristics. They change which
    /// tiles are chosen, never what is legal or how large a buffer is.
    pub hints: Vec<DimHint>,
}

/// The extent that a named dim usually has in an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimHint {
    /// The entry.
    pub entry: String,
    /// The named dim.
    pub dim: String,
    /// Its usual extent.
    pub usual: u64,
}

impl Default for Options {
    /// `decode` steps a handful of sequences by a token each, though its dims have the bounds of `prefill`.
    fn default() -> Self {
        let decode = |dim: &str| DimHint {
            entry: "decode".into(),
            dim: dim.into(),
            usual: 32,
        };
        Self {
            hints: vec![decode("T"), decode("R")],
        }
    }
}

/// A lowered module before its temporaries have addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// All buffers; a [`BufferId`] is an index here.
    pub buffers: Vec<Draft>,
    /// Parameters and their buffers.
    pub params: Vec<ProgramParam>,
    /// Distinct kernels.
    pub kernels: Vec<Kernel>,
    /// Launches of each entry.
    pub entries: Vec<Entry>,
    /// Why each kernel with a choice got its tile.
    pub choices: Vec<Choice>,
}

/// The explanation of one heuristic choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The entry.
    pub entry: String,
    /// Label of the step.
    pub step: String,
    /// The candidates with their scores, the chosen one marked.
    pub table: String,
}

/// Selects kernels for all entries of a module.
///
/// # Errors
/// [`PassError::Unsupported`] for an op that no kernel computes as asked, [`PassError::TooLarge`] for a value
/// that no memory holds at the dims' upper bounds.
pub fn select(module: &Module, target: &Target, options: &Options) -> Result<Selection, PassError> {
    let mut pool = Pool::new(module)?;
    let mut entries = Vec::with_capacity(module.entries.len());
    let mut choices = Vec::new();
    for graph in &module.entries {
        let mut lowering = Lowering::new(graph, module, target, options, &mut pool);
        entries.push(lowering.run()?);
        choices.append(&mut lowering.choices);
    }
    pool.finish_exchange()?;
    let Pool {
        drafts,
        params,
        kernels,
        ..
    } = pool;
    Ok(Selection {
        buffers: drafts,
        params,
        kernels,
        entries,
        choices,
    })
}

/// Where ops without a kernel of their own are supported.
const ABSORBED: &str = "it is supported where the rewrite to `mla_cache_write` absorbs it: run the \
    e-graph, and write cache_write(rope(concat(rms_norm(slice), slice)))";

/// The state of lowering one entry.
struct Lowering<'a> {
    graph: &'a Graph,
    module: &'a Module,
    target: &'a Target,
    options: &'a Options,
    pool: &'a mut Pool,
    /// Where each value lives.
    values: BTreeMap<ValueId, Placed>,
    /// Buffers of values that an entry output names, by the value that a kernel writes.
    outputs: BTreeMap<ValueId, BufferId>,
    /// Routings that were already planned, by experts value and number of experts.
    plans: BTreeMap<(ValueId, u32), moe::Planned>,
    /// Part of the model that the last step with a parameter belongs to, for labels.
    scope: String,
    steps: Vec<Step>,
    choices: Vec<Choice>,
}

impl<'a> Lowering<'a> {
    fn new(
        graph: &'a Graph,
        module: &'a Module,
        target: &'a Target,
        options: &'a Options,
        pool: &'a mut Pool,
    ) -> Self {
        Self {
            graph,
            module,
            target,
            options,
            pool,
            values: BTreeMap::new(),
            outputs: BTreeMap::new(),
            plans: BTreeMap::new(),
            scope: String::new(),
            steps: Vec::new(),
            choices: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<Entry, PassError> {
        let order = schedule::order(self.graph).map_err(|late| {
            self.unsupported(
                late.reader,
                late.old,
                format!(
                    "it is read here after `{}` overwrote it in place",
                    self.graph.op(late.writer)
                ),
                "let every op that needs the old value run without the new one",
            )
        })?;
        let inputs = self.inputs()?;
        let outputs = self.outputs()?;
        for node in order {
            self.node(node)?;
        }
        self.check_updates()?;
        self.check_outputs(&outputs)?;
        let name = self.graph.name.to_string();
        Ok(Entry {
            name,
            inputs,
            outputs,
            steps: std::mem::take(&mut self.steps),
        })
    }

    /// One op: a place for a leaf, a view for a movement of no data, a launch for the rest.
    fn node(&mut self, node: NodeId) -> Result<(), PassError> {
        self.enter_scope(node);
        match self.graph.op(node) {
            // Inputs were placed before all steps.
            Op::Input { .. } => Ok(()),
            Op::Param { name } => {
                let placed = self.pool.param(name)?;
                self.place(ValueId { node, result: 0 }, placed);
                Ok(())
            }
            Op::State { name } => {
                let data = self.pool.state(name)?;
                self.place(ValueId { node, result: 0 }, Placed { data, scales: None });
                Ok(())
            }
            Op::Slice { axis, start, len } => self.slice(node, *axis, *start, *len),
            Op::Reshape { shape } => self.reshape(node, shape),

            Op::Gather => self.gather(node),
            Op::Add => self.add(node),
            Op::ScaleRows => self.scale_rows(node),
            Op::RmsNorm { eps }
            | Op::RmsNormQuantize { eps }
            | Op::AddRmsNorm { eps }
            | Op::AddRmsNormQuantize { eps } => self.rms_norm(node, eps.get()),
            Op::Quantize => self.quantize(node),
            Op::Swiglu => self.swiglu(node, false),
            Op::SwigluQuantize => self.swiglu(node, true),
            Op::Rope { start } => self.rope(node, *start),
            Op::Sample => self.sample(node),

            Op::Matmul { out, promote } => {
                self.product(node, GemmForm::Dense, Epilogue::Store, *out, *promote)
            }
            Op::MatmulAdd { out, promote } => {
                self.product(node, GemmForm::Dense, Epilogue::Add, *out, *promote)
            }
            Op::GroupedMatmul { out, promote } => {
                self.product(node, self.grouped(node)?, Epilogue::Store, *out, *promote)
            }
            Op::MaskedMatmul { out, promote } => {
                self.product(node, self.masked(node)?, Epilogue::Store, *out, *promote)
            }
            Op::BatchedMatmul { out } => self.batched_matmul(node, *out),
            Op::MatmulSwigluQuantize { promote }
            | Op::GroupedMatmulSwigluQuantize { promote }
            | Op::MaskedMatmulSwigluQuantize { promote } => {
                self.gated_matmul(node, false, *promote)
            }
            Op::MatmulSwigluScaleQuantize { promote }
            | Op::GroupedMatmulSwigluScaleQuantize { promote }
            | Op::MaskedMatmulSwigluScaleQuantize { promote } => {
                self.gated_matmul(node, true, *promote)
            }
            Op::WeightGrad { promote } => self.weight_grad(node, *promote),

            Op::Attention { scale } => self.attention(node, scale.get()),
            Op::MlaCacheWrite { eps } => self.mla_cache_write(node, eps.get()),

            Op::Route {
                top_k,
                n_group,
                topk_group,
                scaling,
                normalize,
            } => self.route(
                node,
                *top_k,
                *n_group,
                *topk_group,
                scaling.get(),
                *normalize,
            ),
            Op::Dispatch { n_experts } => match self.module.mesh.filter(|mesh| mesh.ep > 1) {
                None => self.dispatch(node, *n_experts),
                Some(mesh) => Err(PassError::Mesh {
                    mesh,
                    why: "its experts are all on every rank".into(),
                    how: "spread them with `distribute` before kernels are selected".into(),
                }),
            },
            Op::Combine => self.combine(node, true, false),
            Op::CombineSum => self.combine(node, false, false),
            Op::CombineAdd => self.combine(node, true, true),
            Op::CombineAddRmsNormQuantize { eps } => self.combine_norm(node, eps.get()),
            Op::RowWeights => self.row_weights(node),
            Op::AppendExpert { expert, weight } => self.append_expert(node, *expert, weight.get()),
            Op::DispatchTwoHop {
                capacity, channels, ..
            } => self.dispatch_two_hop(node, *capacity, *channels),
            Op::CombineTwoHop {
                capacity,
                channels,
                weighted,
                ..
            } => self.combine_two_hop(node, *capacity, *channels, *weighted),
            Op::DispatchDirect { .. } => self.dispatch_direct(node),
            Op::CombineDirect { weighted, .. } => self.combine_direct(node, *weighted),

            Op::Concat { .. } => Err(self.no_kernel(node, "no kernel joins values", ABSORBED)),
            Op::Transpose { .. } => Err(self.no_kernel(
                node,
                "no kernel turns activations",
                "use a parameter made by `transpose(..)`, or of other values what was there before",
            )),
            Op::Expand { .. } => Err(self.no_kernel(
                node,
                "no kernel repeats values",
                "`attention` takes one key head for all query heads as it is",
            )),
            Op::CacheWrite => {
                Err(self.no_kernel(node, "no kernel writes a cache by itself", ABSORBED))
            }
            Op::Replica | Op::CountExperts => Err(self.no_kernel(
                node,
                "no kernel chooses copies of experts or counts choices",
                "dispatch to the experts that `route` chose",
            )),
            Op::QuantizePow2 => Err(self.no_kernel(
                node,
                "no kernel rounds scales to powers of two",
                "use `quantize`, whose scales are exact",
            )),
            Op::QuantizeWide { .. } => Err(self.no_kernel(
                node,
                "no kernel quantizes in groups longer than 128",
                "use `quantize`, and promote products of it every 32, 64 or 128",
            )),
            Op::Dequantize => Err(self.no_kernel(
                node,
                "no kernel dequantizes activations",
                "use the BF16 value before `quantize`, or a parameter made by `dequant(..)`",
            )),
        }
    }
}
