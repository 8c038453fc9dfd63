//! Cases of `rules/moe.rs`.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, F32, ScaleBlock, Type};

use super::{Case, EPS, Side};

const PRODUCT: Op = Op::GroupedMatmul {
    out: DType::BF16,
    promote: 128,
};

pub(super) const CASES: &[Case] = &[
    Case {
        rule: "weigh-before-down",
        left: weigh_at_combine,
        right: weigh_before_down,
    },
    Case {
        rule: "weigh-at-combine",
        left: weigh_before_down,
        right: weigh_at_combine,
    },
    Case {
        rule: "shared-as-routed",
        left: |s| {
            let e = experts(s);
            let (out, promote) = (DType::BF16, 128);
            let shared = s.op(Op::Quantize, &[e.x]);
            let shared = s.op(Op::Matmul { out, promote }, &[shared, e.shared_gate_up]);
            let shared = s.op(Op::Swiglu, &[shared]);
            let shared = s.op(Op::Quantize, &[shared]);
            let shared = s.op(Op::Matmul { out, promote }, &[shared, e.shared_down]);
            let rows = s.ops(Op::Dispatch { n_experts: EXPERTS }, &[e.x, e.experts]);
            let y = e.mlp(s, rows[0], rows[1], e.gate_up, e.down);
            let routed = s.op(Op::Combine, &[y, rows[2], e.weights]);
            vec![s.op(Op::Add, &[shared, routed])]
        },
        right: |s| {
            let e = experts(s);
            let weight = F32::new(1.0);
            let op = Op::AppendExpert {
                expert: EXPERTS,
                weight,
            };
            let all = s.ops(op, &[e.experts, e.weights]);
            let n_experts = EXPERTS + 1;
            let rows = s.ops(Op::Dispatch { n_experts }, &[e.x, all[0]]);
            let stacked = |s: &mut Side, one: ValueId, routed: ValueId| {
                let shape: Vec<Dim> = s.graph.ty(one).shape.clone();
                let one = s.reshape(one, std::iter::once(Dim::Const(1)).chain(shape));
                s.op(Op::Concat { axis: 0 }, &[routed, one])
            };
            let gate_up = stacked(s, e.shared_gate_up, e.gate_up);
            let down = stacked(s, e.shared_down, e.down);
            let y = e.mlp(s, rows[0], rows[1], gate_up, down);
            vec![s.op(Op::Combine, &[y, rows[2], all[1]])]
        },
    },
    Case {
        rule: "combine-add",
        left: |s| {
            let [y, slots, weights, r] = way_back(s);
            let y = s.op(Op::Combine, &[y, slots, weights]);
            vec![s.op(Op::Add, &[y, r])]
        },
        right: |s| {
            let operands = way_back(s);
            vec![s.op(Op::CombineAdd, &operands)]
        },
    },
    Case {
        rule: "add-combine",
        left: |s| {
            let [y, slots, weights, r] = way_back(s);
            let y = s.op(Op::Combine, &[y, slots, weights]);
            vec![s.op(Op::Add, &[r, y])]
        },
        right: |s| {
            let operands = way_back(s);
            vec![s.op(Op::CombineAdd, &operands)]
        },
    },
    Case {
        rule: "combine-add-norm-quantize",
        left: |s| {
            let operands = way_back(s);
            let norm = norm_of(s, operands[3]);
            let sum = s.op(Op::CombineAdd, &operands);
            let y = s.op(Op::RmsNorm { eps: EPS }, &[sum, norm]);
            vec![sum, y, s.op(Op::Quantize, &[y])]
        },
        right: |s| {
            let [y, slots, weights, r] = way_back(s);
            let norm = norm_of(s, r);
            let op = Op::CombineAddRmsNormQuantize { eps: EPS };
            s.ops(op, &[y, slots, weights, r, norm])
        },
    },
];

const EXPERTS: u32 = 3;

/// Rows of experts: `y[k*T, D]`, `slots`, `weights`, and a residual `[T, D]`.
fn way_back(s: &mut Side) -> [ValueId; 4] {
    let (d, k) = (s.width(), s.between(1, 3));
    let t = Dim::sym("T");
    let x = s.bf16("x", [t.clone(), d.into()]);
    let experts = s.ints("experts", [t.clone(), k.into()], EXPERTS as usize);
    let rows = s.ops(Op::Dispatch { n_experts: EXPERTS }, &[x, experts]);
    let weights = s.input("weights", Type::new(DType::F32, [t.clone(), k.into()]));
    let r = s.bf16("r", [t, d.into()]);
    [rows[0], rows[2], weights, r]
}

fn norm_of(s: &mut Side, row: ValueId) -> ValueId {
    let width = s.graph.ty(row).last().cloned().unwrap();
    s.bf16("norm", [width])
}

/// What comes before and behind the down projection.
struct Down {
    h: ValueId,
    w: ValueId,
    offsets: ValueId,
    slots: ValueId,
    weights: ValueId,
}

fn down(s: &mut Side) -> Down {
    let (inner, d, k) = (s.between(1, 150), s.between(1, 40), s.between(1, 3));
    let t = Dim::sym("T");
    let x = s.bf16("x", [t.clone(), 4.into()]);
    let experts = s.ints("experts", [t.clone(), k.into()], EXPERTS as usize);
    let rows = s.ops(Op::Dispatch { n_experts: EXPERTS }, &[x, experts]);
    Down {
        h: s.bf16("h", [t.times(k).unwrap(), inner.into()]),
        w: s.stack(
            "w",
            Type::scaled([EXPERTS.into(), d, inner], ScaleBlock::WEIGHT),
        ),
        offsets: rows[1],
        slots: rows[2],
        weights: s.input("weights", Type::new(DType::F32, [t, k.into()])),
    }
}

fn weigh_at_combine(s: &mut Side) -> Vec<ValueId> {
    let d = down(s);
    let h = s.op(Op::Quantize, &[d.h]);
    let y = s.op(PRODUCT, &[h, d.w, d.offsets]);
    vec![s.op(Op::Combine, &[y, d.slots, d.weights])]
}

fn weigh_before_down(s: &mut Side) -> Vec<ValueId> {
    let d = down(s);
    let weights = s.op(Op::RowWeights, &[d.slots, d.weights]);
    let h = s.op(Op::ScaleRows, &[d.h, weights]);
    let h = s.op(Op::Quantize, &[h]);
    let y = s.op(PRODUCT, &[h, d.w, d.offsets]);
    vec![s.op(Op::CombineSum, &[y, d.slots])]
}

/// A layer of routed experts and a shared one.
struct Experts {
    x: ValueId,
    experts: ValueId,
    weights: ValueId,
    gate_up: ValueId,
    down: ValueId,
    shared_gate_up: ValueId,
    shared_down: ValueId,
}

fn experts(s: &mut Side) -> Experts {
    let (d, inner, k) = (s.between(1, 140), s.between(1, 20), s.between(1, 2));
    let t = Dim::sym("T");
    let stack = |n: u64, k: u64| Type::scaled([EXPERTS.into(), n, k], ScaleBlock::WEIGHT);
    Experts {
        x: s.bf16("x", [t.clone(), d.into()]),
        experts: s.ints("experts", [t.clone(), k.into()], EXPERTS as usize),
        weights: s.input("weights", Type::new(DType::F32, [t, k.into()])),
        gate_up: s.stack("gate_up", stack(2 * inner, d)),
        down: s.stack("down", stack(d, inner)),
        shared_gate_up: s.param("sg", Type::scaled([2 * inner, d], ScaleBlock::WEIGHT)),
        shared_down: s.param("sd", Type::scaled([d, inner], ScaleBlock::WEIGHT)),
    }
}

impl Experts {
    fn mlp(
        &self,
        s: &mut Side,
        rows: ValueId,
        offsets: ValueId,
        gate_up: ValueId,
        down: ValueId,
    ) -> ValueId {
        let h = s.op(Op::Quantize, &[rows]);
        let h = s.op(PRODUCT, &[h, gate_up, offsets]);
        let h = s.op(Op::Swiglu, &[h]);
        let h = s.op(Op::Quantize, &[h]);
        s.op(PRODUCT, &[h, down, offsets])
    }
}
