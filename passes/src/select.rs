//! Kernel selection: from graph ops to kernel steps over views.
//!
//! In: an optimised, verified module and the target. Out: a [`Selection`]: buffers without addresses, distinct
//! kernels, and for each entry its launches in order. Holds afterwards: every launch hands its kernel views
//! that the kernel can address ([`mcc_ir::kernel::OperandSpec`]); `slice` and `reshape` are gone; states are
//! written in place, and no launch reads a state's old value after that.
//!
//! One family of ops a file: [`rows`] (row-wise), [`gemm`], [`attention`], [`moe`]. An op that no kernel
//! computes as asked is a typed error that names the op and the value, never a silent fallback.

mod attention;
mod gemm;
mod moe;
mod pool;
mod rows;
mod schedule;
mod view;

use std::collections::BTreeMap;

use mcc_ir::kernel::KernelConfig;
use mcc_ir::program::{BufferId, Entry, Kernel, Port, ProgramParam, Step, View};
use mcc_ir::{Graph, Module, NodeId, Op, ValueId};

pub use self::pool::{Draft, Storage};
use self::pool::{Layouts, Pool};
use self::view::Placed;
use crate::error::{PassError, Unsupported};
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
        let mut lowering = Lowering::new(graph, module, target, options, &mut pool)?;
        entries.push(lowering.run()?);
        choices.append(&mut lowering.choices);
    }
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

/// An operand on its way to a kernel: the view, and the value it came from for errors.
struct Arg {
    view: View,
    value: ValueId,
}

impl<'a> Lowering<'a> {
    fn new(
        graph: &'a Graph,
        module: &'a Module,
        target: &'a Target,
        options: &'a Options,
        pool: &'a mut Pool,
    ) -> Result<Self, PassError> {
        Ok(Self {
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
        })
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

            Op::Gather {} => self.gather(node),
            Op::Add {} => self.add(node),
            Op::RmsNorm { eps }
            | Op::RmsNormQuantize { eps }
            | Op::AddRmsNorm { eps }
            | Op::AddRmsNormQuantize { eps } => self.rms_norm(node, eps.get()),
            Op::Quantize {} => self.quantize(node),
            Op::Swiglu {} => self.swiglu(node, false),
            Op::SwigluQuantize {} => self.swiglu(node, true),
            Op::Rope { start } => self.rope(node, *start),
            Op::Sample {} => self.sample(node),

            Op::Matmul { out, promote } => self.matmul(node, *out, *promote),
            Op::GroupedMatmul { out, promote } => self.grouped_matmul(node, *out, *promote),
            Op::BatchedMatmul { out } => self.batched_matmul(node, *out),

            Op::Attention { scale } => self.attention(node, scale.get()),
            Op::MlaCacheWrite { eps } => self.mla_cache_write(node, eps.get()),

            Op::Route { top_k, n_group, topk_group, scaling, normalize } => {
                self.route(node, *top_k, *n_group, *topk_group, scaling.get(), *normalize)
            }
            Op::Dispatch { n_experts } => self.dispatch(node, *n_experts),
            Op::Combine {} => self.combine(node),

            Op::Concat { .. } => Err(self.no_kernel(
                node,
                "no kernel joins values",
                "`concat` is supported where the rewrite to `mla_cache_write` absorbs it: run the e-graph, and \
                 write the cache as cache_write(rope(concat(rms_norm(slice), slice)))",
            )),
            Op::CacheWrite { .. } => Err(self.no_kernel(
                node,
                "no kernel writes a cache by itself",
                "`cache_write` is supported where the rewrite to `mla_cache_write` absorbs it: run the e-graph, \
                 and write the cache as cache_write(rope(concat(rms_norm(slice), slice)))",
            )),
            Op::Dequantize {} => Err(self.no_kernel(
                node,
                "no kernel dequantizes activations",
                "use the BF16 value before `quantize`, or a parameter with the source `dequant(..)`",
            )),
        }
    }

    fn slice(&mut self, node: NodeId, axis: usize, start: u64, len: u64) -> Result<(), PassError> {
        let x = self.operand(node, 0)?;
        let from = self.placed(x)?.clone();
        let scales = match (&from.scales, self.graph.ty(x).scale) {
            (Some(scales), Some(block)) => {
                let cut = match scales.shape.len() - axis {
                    1 => u64::from(block.cols),
                    2 => u64::from(block.rows),
                    _ => 1,
                };
                Some(view::slice(scales, axis, start / cut, len.div_ceil(cut)))
            }
            _ => None,
        };
        let data = view::slice(&from.data, axis, start, len);
        self.place_view(node, x, data, scales)
    }

    fn reshape(&mut self, node: NodeId, shape: &[mcc_ir::Dim]) -> Result<(), PassError> {
        let x = self.operand(node, 0)?;
        let from = self.placed(x)?.clone();
        let scale_shape = self.graph.ty(ValueId { node, result: 0 }).scale_shape();
        let scales = from
            .scales
            .as_ref()
            .map(|s| scale_shape.and_then(|shape| view::reshape(s, &shape)));
        let data = view::reshape(&from.data, shape);
        self.place_view(node, x, data, scales)
    }

    fn place_view(
        &mut self,
        node: NodeId,
        x: ValueId,
        data: Option<View>,
        scales: Option<Option<View>>,
    ) -> Result<(), PassError> {
        let placed = match (data, scales) {
            (Some(data), None) => Placed { data, scales: None },
            (Some(data), Some(Some(scales))) => Placed {
                data,
                scales: Some(scales),
            },
            _ => {
                let strides = self.placed(x)?.data.strides.clone();
                return Err(self.unsupported(
                    node,
                    x,
                    format!(
                        "it has the strides {strides:?}, under which no view has the new shape"
                    ),
                    "views never copy: reshape before the slice, or slice another axis",
                ));
            }
        };
        self.place(ValueId { node, result: 0 }, placed);
        Ok(())
    }

    fn inputs(&mut self) -> Result<Vec<Port>, PassError> {
        let mut ports = Vec::new();
        for (name, value) in self.graph.inputs() {
            let ty = self.graph.ty(value);
            if ty.scale.is_some() {
                return Err(self.unsupported(
                    value.node,
                    value,
                    "it is an entry input",
                    "pass BF16 and quantize",
                ));
            }
            let view = self.pool.port(&self.graph.name, name, ty, Storage::Input)?;
            ports.push(Port {
                name: name.to_string(),
                ty: ty.clone(),
                buffer: view.buffer,
            });
            self.values.insert(
                value,
                Placed {
                    data: view,
                    scales: None,
                },
            );
        }
        Ok(ports)
    }

    /// Makes the output buffers and remembers which kernel results go straight into them.
    fn outputs(&mut self) -> Result<Vec<Port>, PassError> {
        let mut ports = Vec::new();
        for (name, value) in &self.graph.outputs {
            let ty = self.graph.ty(*value);
            let root = self.root(*value);
            let why = match self.graph.op(root.node) {
                _ if ty.scale.is_some() => Some("it is block-scaled, and an output has one buffer"),
                op if op.is_leaf() => Some("no kernel computes it, and there is none to copy it"),
                Op::Slice { .. } => {
                    Some("it is a part of another value, and no kernel copies it out")
                }
                Op::MlaCacheWrite { .. } => Some("it is a state, which is written in place"),
                _ => None,
            };
            if let Some(why) = why {
                let supported = "name a whole, unscaled result of an op";
                return Err(self.unsupported(
                    value.node,
                    *value,
                    format!("output `{name}`: {why}"),
                    supported,
                ));
            }
            let buffer = match self.outputs.get(&root) {
                Some(buffer) => *buffer,
                None => {
                    self.pool
                        .port(&self.graph.name, name, ty, Storage::Output)?
                        .buffer
                }
            };
            self.outputs.insert(root, buffer);
            ports.push(Port {
                name: name.to_string(),
                ty: ty.clone(),
                buffer,
            });
        }
        Ok(ports)
    }

    /// The value that a kernel writes: the one before all reshapes.
    fn root(&self, mut value: ValueId) -> ValueId {
        while let (Op::Reshape { .. }, Some(x)) = (
            self.graph.op(value.node),
            self.graph.operands(value.node).first(),
        ) {
            value = *x;
        }
        value
    }

    fn check_outputs(&self, ports: &[Port]) -> Result<(), PassError> {
        for (port, (name, value)) in ports.iter().zip(&self.graph.outputs) {
            let data = &self.placed(*value)?.data;
            if data.buffer != port.buffer || !view::is_dense_whole(data) {
                return Err(self.unsupported(
                    value.node,
                    *value,
                    format!("output `{name}`: its kernel cannot write it without gaps"),
                    "make its rows a multiple of 16 bytes",
                ));
            }
        }
        Ok(())
    }

    /// Every state ends as its update says, and no state changes without one.
    fn check_updates(&self) -> Result<(), PassError> {
        for (state, value) in &self.graph.updates {
            let own = self.pool.state(state)?;
            if self.placed(*value)?.data != own {
                return Err(self.unsupported(
                    value.node,
                    *value,
                    format!("it becomes the state `{state}`, but was not written in place over it"),
                    "update a state with the `mla_cache_write` of that state",
                ));
            }
        }
        for node in self.graph.topo() {
            if schedule::overwritten(self.graph, node).is_none() {
                continue;
            }
            let result = ValueId { node, result: 0 };
            let replaced = self
                .graph
                .users(result)
                .iter()
                .any(|user| schedule::overwritten(self.graph, user.node) == Some(result));
            if !replaced && !self.graph.updates.iter().any(|(_, value)| *value == result) {
                return Err(self.unsupported(
                    node,
                    result,
                    "it overwrites a state, but no update of the entry says so",
                    "add the update: without it the old value would have to be kept in a copy",
                ));
            }
        }
        Ok(())
    }

    // What the op families build on.

    fn operand(&self, node: NodeId, index: usize) -> Result<ValueId, PassError> {
        self.graph
            .operands(node)
            .get(index)
            .copied()
            .ok_or_else(|| PassError::Internal {
                pass: "select",
                what: format!("`{}` has no operand {index}", self.graph.op(node)),
            })
    }

    fn placed(&self, value: ValueId) -> Result<&Placed, PassError> {
        self.values.get(&value).ok_or_else(|| PassError::Internal {
            pass: "select",
            what: format!("{} is used before it is placed", self.describe(value)),
        })
    }

    fn place(&mut self, value: ValueId, placed: Placed) {
        self.values.insert(value, placed);
    }

    /// An operand as it is.
    fn whole(&self, node: NodeId, index: usize) -> Result<Arg, PassError> {
        let value = self.operand(node, index)?;
        Ok(Arg {
            view: self.placed(value)?.data.clone(),
            value,
        })
    }

    /// An operand as `[M, W]`.
    fn rows(&self, node: NodeId, index: usize) -> Result<Arg, PassError> {
        let value = self.operand(node, index)?;
        let view = self.merged(node, value, &self.placed(value)?.data)?;
        Ok(Arg { view, value })
    }

    /// The scales of an operand as `[M, ceil(K/128)]`.
    fn scales(&self, node: NodeId, index: usize) -> Result<Arg, PassError> {
        let value = self.operand(node, index)?;
        Ok(Arg {
            view: self.merged(node, value, self.scales_of(value)?)?,
            value,
        })
    }

    fn scales_of(&self, value: ValueId) -> Result<&View, PassError> {
        self.placed(value)?
            .scales
            .as_ref()
            .ok_or_else(|| PassError::Internal {
                pass: "select",
                what: format!("{} has no scales", self.describe(value)),
            })
    }

    fn merged(&self, node: NodeId, value: ValueId, view: &View) -> Result<View, PassError> {
        view::rows(view).ok_or_else(|| {
            let why = format!(
                "its leading axes have the strides {:?} and do not merge into rows",
                view.strides
            );
            self.unsupported(
                node,
                value,
                why,
                "views never copy: let another op produce these rows",
            )
        })
    }

    /// Makes room for a result: in an output buffer, or in a new temporary.
    fn result(
        &mut self,
        node: NodeId,
        result: usize,
        layout: Layouts,
    ) -> Result<Placed, PassError> {
        let value = ValueId { node, result };
        let ty = self.graph.ty(value);
        let name = format!("{}.{value}", self.graph.name);
        let placed = match self.outputs.get(&value) {
            Some(buffer) => Placed {
                data: self.pool.view_of(*buffer, ty)?,
                scales: None,
            },
            None => self.pool.temp(&name, ty, layout)?,
        };
        self.place(value, placed.clone());
        Ok(placed)
    }

    /// A result that a kernel writes as it is.
    fn out(&mut self, node: NodeId, result: usize, layout: Layouts) -> Result<Arg, PassError> {
        let view = self.result(node, result, layout)?.data;
        Ok(Arg {
            view,
            value: ValueId { node, result },
        })
    }

    /// A result that a kernel writes as `[M, W]`, and its scales if it has any.
    fn out_rows(&mut self, node: NodeId, result: usize) -> Result<Vec<Arg>, PassError> {
        let placed = self.result(node, result, Layouts::Rows)?;
        let value = ValueId { node, result };
        let mut args = vec![Arg {
            view: self.merged(node, value, &placed.data)?,
            value,
        }];
        if let Some(scales) = &placed.scales {
            args.push(Arg {
                view: self.merged(node, value, scales)?,
                value,
            });
        }
        Ok(args)
    }

    /// Whether an op, an update or an output reads the value.
    fn is_used(&self, value: ValueId) -> bool {
        let named = self
            .graph
            .updates
            .iter()
            .chain(&self.graph.outputs)
            .any(|(_, v)| *v == value);
        named || !self.graph.users(value).is_empty()
    }

    /// A constant extent that a config holds.
    fn extent(&self, node: NodeId, value: ValueId, axis: usize) -> Result<u32, PassError> {
        let extent = self
            .graph
            .ty(value)
            .shape
            .get(axis)
            .and_then(mcc_ir::Dim::as_const);
        extent.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
            let why = format!("kernels are made for one extent of its axis {axis}, below 2^32");
            self.unsupported(node, value, why, "use a constant dim")
        })
    }

    /// The innermost extent.
    fn width(&self, node: NodeId, value: ValueId) -> Result<u32, PassError> {
        self.extent(node, value, self.graph.ty(value).rank().saturating_sub(1))
    }

    /// Rows to expect of a value in this entry: its leading axes with the hints, at most the upper bounds.
    fn usual_rows(&self, value: ValueId) -> Result<u64, PassError> {
        let shape = &self.graph.ty(value).shape;
        shape[..shape.len().saturating_sub(1)]
            .iter()
            .try_fold(1_u64, |rows, dim| {
                let extent = dim.resolve(|name| {
                    let max = self.module.dim(name)?.max;
                    let entry = self.graph.name.as_str();
                    let hint = self
                        .options
                        .hints
                        .iter()
                        .find(|h| h.entry == entry && h.dim == name);
                    Some(hint.map_or(max, |h| h.usual.min(max)))
                });
                extent
                    .and_then(|n| rows.checked_mul(n))
                    .ok_or_else(|| PassError::TooLarge {
                        what: self.describe(value),
                    })
            })
    }

    /// Adds a launch after checking that the kernel can take each operand.
    fn launch(
        &mut self,
        node: NodeId,
        config: KernelConfig,
        args: Vec<Arg>,
    ) -> Result<(), PassError> {
        let specs = config.operand_specs();
        if specs.len() != args.len() {
            return Err(PassError::Internal {
                pass: "select",
                what: format!(
                    "`{}` got {} operands, takes {}",
                    config.name(),
                    args.len(),
                    specs.len()
                ),
            });
        }
        for (spec, arg) in specs.iter().zip(&args) {
            spec.check_view(&arg.view).map_err(|why| {
                let why = format!(
                    "as operand `{}` of `{}`: {why}",
                    spec.decl.name,
                    config.family()
                );
                self.unsupported(
                    node,
                    arg.value,
                    why,
                    "views never copy: let another op produce it in that form",
                )
            })?;
        }
        let kernel = self.pool.kernel(config);
        let label = self.label(node);
        self.steps.push(Step {
            kernel,
            label,
            operands: args.into_iter().map(|a| a.view).collect(),
        });
        Ok(())
    }

    /// Keeps the table of a heuristic for `mcc explain`.
    fn explain(&mut self, node: NodeId, table: String) {
        let (entry, step) = (self.graph.name.to_string(), self.label(node));
        self.choices.push(Choice { entry, step, table });
    }

    /// `layers.1.q_a matmul` for an op with a parameter, `layers.1 attention` for those after it.
    fn label(&self, node: NodeId) -> String {
        let place = self.own_param(node).unwrap_or_else(|| self.scope.clone());
        let op = self.graph.op(node).mnemonic();
        if place.is_empty() {
            op.to_owned()
        } else {
            format!("{place} {op}")
        }
    }

    fn enter_scope(&mut self, node: NodeId) {
        if self.graph.op(node).is_leaf() {
            return;
        }
        if let Some(param) = self.own_param(node) {
            self.scope = param
                .rsplit_once('.')
                .map_or(String::new(), |(scope, _)| scope.to_owned());
        }
    }

    /// The first parameter or state among the operands that belongs to some part of the model.
    fn own_param(&self, node: NodeId) -> Option<String> {
        self.graph
            .operands(node)
            .into_iter()
            .find_map(|value| match self.graph.op(value.node) {
                Op::Param { name } | Op::State { name } if name.contains('.') => {
                    Some(name.to_string())
                }
                _ => None,
            })
    }

    fn describe(&self, value: ValueId) -> String {
        let ty = self.graph.ty(value);
        let op = self.graph.op(value.node);
        if op.is_leaf() {
            return format!("`{op}`: {ty}");
        }
        match op.row().and_then(|row| row.results.get(value.result)) {
            Some(result) => format!("`{result}` of `{}`: {ty}", op.mnemonic()),
            None => format!("result of `{}`: {ty}", op.mnemonic()),
        }
    }

    fn unsupported(
        &self,
        node: NodeId,
        value: ValueId,
        why: impl Into<String>,
        supported: impl Into<String>,
    ) -> PassError {
        PassError::Unsupported(Box::new(Unsupported {
            loc: self.graph.node(node).loc.clone(),
            entry: self.graph.name.to_string(),
            op: self.graph.op(node).to_string(),
            value: self.describe(value),
            why: why.into(),
            supported: supported.into(),
        }))
    }

    fn no_kernel(&self, node: NodeId, why: &str, supported: &str) -> PassError {
        self.unsupported(node, ValueId { node, result: 0 }, why, supported)
    }
}
