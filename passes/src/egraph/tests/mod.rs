//! Tests of the optimiser: each rule by itself, then whole graphs. Here is what they share: a small graph
//! builder with random sizes, and evaluation with comparison bit for bit.

mod model;
mod random;
mod refused;
mod rules;

use std::collections::BTreeMap;

use mcc_ir::eval::{self, Data, Rng, Step, Tensor, Values};
use mcc_ir::graph::{Graph, ValueId};
use mcc_ir::module::Module;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, F32, Name, Type};

pub(super) const EPS: F32 = F32::new(1e-6);

/// Builds one side of an equation. Sides built from one seed pick the same sizes as long as they pick in the
/// same order.
pub(super) struct Side {
    pub(super) graph: Graph,
    rng: Rng,
    /// Below what the integers of an input lie.
    limits: BTreeMap<Name, usize>,
}

impl Side {
    pub(super) fn new(name: &str, seed: u64) -> Side {
        Side {
            graph: Graph::new(name),
            rng: Rng::new(seed),
            limits: BTreeMap::new(),
        }
    }

    /// One of the sizes.
    pub(super) fn pick(&mut self, sizes: &[u64]) -> u64 {
        sizes[self.rng.below(sizes.len())]
    }

    pub(super) fn bf16<D: Into<Dim>>(
        &mut self,
        name: &str,
        shape: impl IntoIterator<Item = D>,
    ) -> ValueId {
        self.input(name, Type::new(DType::BF16, shape))
    }

    pub(super) fn input(&mut self, name: &str, ty: Type) -> ValueId {
        self.graph.input(name, ty).unwrap()
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

/// A module with one named dim, `T`, and these entries.
pub(super) fn module(entries: impl IntoIterator<Item = Graph>) -> Module {
    let mut module = Module::new("test");
    module.add_dim("T", 1, 8).unwrap();
    for entry in entries {
        module.add_entry(entry).unwrap();
    }
    mcc_ir::verify::verify(&module).unwrap();
    module
}

/// Runs an entry without parameters and states.
pub(super) fn evaluate(module: &Module, entry: &str, inputs: &Values) -> Values {
    let (dims, params) = (BTreeMap::new(), Values::new());
    eval::run(
        Step {
            module,
            entry,
            dims: &dims,
            inputs,
            params: &params,
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
