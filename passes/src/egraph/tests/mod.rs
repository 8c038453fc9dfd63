//! Tests of the optimiser: each rule by itself, then whole graphs. Here is what they share: a small graph
//! builder with random sizes, and evaluation with comparison bit for bit.

mod ball;
mod cases;
mod freedom;
mod model;
mod random;
mod refused;
mod rules;

use std::collections::BTreeMap;

use mcc_ir::eval::{self, Data, Rng, Step, Tensor, Values};
use mcc_ir::graph::{Graph, ValueId};
use mcc_ir::module::{Module, Param, ParamSource};
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, F32, Name, Type};

pub(super) const EPS: F32 = F32::new(1e-6);

/// Builds one side of an equation. Sides built from one seed pick the same sizes as long as they pick in the
/// same order.
pub(super) struct Side {
    pub(super) graph: Graph,
    params: Vec<Param>,
    rng: Rng,
    /// Below what the integers of an input lie.
    limits: BTreeMap<Name, usize>,
}

impl Side {
    pub(super) fn new(name: &str, seed: u64) -> Side {
        Side {
            graph: Graph::new(name),
            params: Vec::new(),
            rng: Rng::new(seed),
            limits: BTreeMap::new(),
        }
    }

    /// One of the sizes.
    pub(super) fn pick(&mut self, sizes: &[u64]) -> u64 {
        sizes[self.rng.below(sizes.len())]
    }

    /// A size from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.rng.below((high - low + 1) as usize) as u64
    }

    /// A width with whole groups of 128, a partial one, or both.
    pub(super) fn width(&mut self) -> u64 {
        match self.between(0, 2) {
            0 => 128 * self.between(1, 3),
            1 => self.between(1, 127),
            _ => self.between(129, 300),
        }
    }

    /// A parameter, which is one tensor of the checkpoint.
    pub(super) fn param(&mut self, name: &str, ty: Type) -> ValueId {
        self.made_param(name, ty, ParamSource::Tensor(name.into()))
    }

    /// A parameter for each expert, stacked.
    pub(super) fn stack(&mut self, name: &str, ty: Type) -> ValueId {
        let experts = ty.shape[0].as_const().unwrap();
        let parts = (0..experts).map(|i| ParamSource::Tensor(format!("{name}.{i}")));
        self.made_param(name, ty, ParamSource::Stack(parts.collect()))
    }

    fn made_param(&mut self, name: &str, ty: Type, source: ParamSource) -> ValueId {
        let name = name.into();
        let param = Param { name, ty, source };
        let value = self.graph.param(&param);
        if self.params.iter().all(|known| known.name != param.name) {
            self.params.push(param);
        }
        value
    }

    pub(super) fn bf16<D: Into<Dim>>(
        &mut self,
        name: &str,
        shape: impl IntoIterator<Item = D>,
    ) -> ValueId {
        self.input(name, Type::new(DType::BF16, shape))
    }

    /// An input; the one of that name, if there is one.
    pub(super) fn input(&mut self, name: &str, ty: Type) -> ValueId {
        let known = self.graph.inputs().find(|(known, _)| *known == name);
        match known.map(|(_, value)| value) {
            Some(value) => value,
            None => self.graph.input(name, ty).unwrap(),
        }
    }

    /// An integer input with values below `limit`.
    pub(super) fn ints<D: Into<Dim>>(
        &mut self,
        name: &str,
        shape: impl IntoIterator<Item = D>,
        limit: usize,
    ) -> ValueId {
        self.limits.insert(name.into(), limit);
        self.input(name, Type::new(DType::I32, shape))
    }

    pub(super) fn ops(&mut self, op: Op, operands: &[ValueId]) -> Vec<ValueId> {
        self.graph.add(op, operands, None).unwrap()
    }

    pub(super) fn op(&mut self, op: Op, operands: &[ValueId]) -> ValueId {
        self.graph.add1(op, operands, None).unwrap()
    }

    pub(super) fn slice(&mut self, x: ValueId, axis: usize, start: u64, len: u64) -> ValueId {
        self.op(Op::Slice { axis, start, len }, &[x])
    }

    pub(super) fn reshape<D: Into<Dim>>(
        &mut self,
        x: ValueId,
        shape: impl IntoIterator<Item = D>,
    ) -> ValueId {
        self.op(
            Op::Reshape {
                shape: shape.into_iter().map(Into::into).collect(),
            },
            &[x],
        )
    }

    pub(super) fn finish(mut self, outputs: &[ValueId]) -> Self {
        for (at, value) in outputs.iter().enumerate() {
            self.graph.output(format!("out{at}"), *value);
        }
        self
    }

    /// Random parameters, smaller than activations as weights are.
    pub(super) fn params(&self, rng: &mut Rng) -> Values {
        let params = self.params.iter().map(|param| {
            let extents = param
                .ty
                .shape
                .iter()
                .map(|dim| dim.as_const().unwrap() as usize);
            let shape: Vec<usize> = extents.collect();
            let tensor = match param.ty.scale {
                Some(_) => rng.weight(&shape, 0.2),
                None => rng.bf16(&shape, 0.2),
            };
            (param.name.clone(), tensor.unwrap())
        });
        params.collect()
    }

    /// Random inputs for `tokens` tokens. `positions` are distinct, as the model's contract demands.
    pub(super) fn inputs(&self, rng: &mut Rng, tokens: u64) -> Values {
        let inputs = self.graph.inputs().map(|(name, value)| {
            let ty = self.graph.ty(value);
            let shape: Vec<usize> = ty
                .shape
                .iter()
                .map(|dim| dim.resolve(|_| Some(tokens)).unwrap() as usize)
                .collect();
            let limit = self.limits.get(name).copied().unwrap_or(1);
            let tensor = if name == "positions" {
                let first = rng.below(limit - shape[0] + 1) as i32;
                Tensor::i32(&shape, (first..).take(shape[0]).collect())
            } else {
                rng.tensor(ty.dtype, &shape, ty.scale, limit)
            };
            (name.clone(), tensor.unwrap())
        });
        inputs.collect()
    }
}

/// A module with one named dim, `T`, and these entries, whose parameters of one name are the same.
pub(super) fn module<'a>(sides: impl IntoIterator<Item = &'a Side>) -> Module {
    let mut module = Module::new("test");
    module.add_dim("T", 1, 8).unwrap();
    for side in sides {
        for param in &side.params {
            if module.param(&param.name).is_none() {
                let Param { name, ty, source } = param.clone();
                module.add_param(name, ty, source).unwrap();
            }
        }
        module.add_entry(side.graph.clone()).unwrap();
    }
    mcc_ir::verify::verify(&module).unwrap();
    module
}

/// A module of entries without parameters.
pub(super) fn module_of(entries: impl IntoIterator<Item = Graph>) -> Module {
    let mut module = module([]);
    for entry in entries {
        module.add_entry(entry).unwrap();
    }
    mcc_ir::verify::verify(&module).unwrap();
    module
}

/// Values of all parameters of an optimised module, from those of the module before: what was folded is made anew by
/// its recipe, over tensors that have the names of parameters, or of those of their experts.
pub(super) fn derived(after: &Module, before: &Module, params: &Values) -> Values {
    let lookup = |name: &str| {
        let whole = params.get(name).cloned();
        let of_expert = || {
            let (stack, expert) = name.rsplit_once('.')?;
            let (all, expert) = (params.get(stack)?, expert.parse().ok()?);
            let one = all.rows(expert, 1)?;
            one.reshaped(&all.shape()[1..])
        };
        whole.or_else(of_expert)
    };
    let made = after.params.iter().map(|param| {
        let known = before
            .param(&param.name)
            .and(params.get(&param.name))
            .cloned();
        let tensor = known.unwrap_or_else(|| eval::materialize(&param.source, &lookup).unwrap());
        (param.name.clone(), tensor)
    });
    made.collect()
}

/// Runs an entry without states.
pub(super) fn evaluate(module: &Module, entry: &str, inputs: &Values, params: &Values) -> Values {
    let dims = BTreeMap::new();
    eval::run(
        Step {
            module,
            entry,
            dims: &dims,
            inputs,
            params,
        },
        &mut Values::new(),
    )
    .unwrap()
}

/// The shape and the bits of a tensor, so that equality tells -0 from 0 and knows NaN.
pub(super) fn bits(tensor: &Tensor) -> (Vec<usize>, Vec<u32>, Vec<u8>) {
    let floats = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    let (words, codes) = match tensor.data() {
        Data::F32(values) | Data::Bf16(values) => (floats(values), Vec::new()),
        Data::I32(values) => (
            values.iter().map(|value| *value as u32).collect(),
            Vec::new(),
        ),
        Data::Scaled(scaled) => (floats(&scaled.scales), scaled.codes.clone()),
    };
    (tensor.shape().to_vec(), words, codes)
}

/// Fails unless two results are equal bit for bit.
pub(super) fn assert_same(left: &Values, right: &Values, what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    for ((name, a), (_, b)) in left.iter().zip(right) {
        assert!(bits(a) == bits(b), "{what}: `{name}` differs");
    }
}
