//! Cases of `rules/attention.rs`.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, F32, ScaleBlock, Type};

use super::{Case, Side};

pub(super) const CASES: &[Case] = &[
    Case {
        rule: "absorb-fp8",
        left: |s| {
            let sizes = Sizes::random(s);
            expanded(s, sizes, true)
        },
        right: |s| {
            let sizes = Sizes::random(s);
            absorbed(s, sizes, true)
        },
    },
    Case {
        rule: "absorb-bf16",
        left: |s| {
            let sizes = Sizes::random(s);
            expanded(s, sizes, false)
        },
        right: |s| {
            let sizes = Sizes::random(s);
            absorbed(s, sizes, false)
        },
    },
    Case {
        rule: "expand-latents",
        left: |s| {
            let sizes = Sizes::random(s);
            absorbed(s, sizes, false)
        },
        right: |s| {
            let sizes = Sizes::random(s);
            expanded(s, sizes, false)
        },
    },
    Case {
        rule: "attention-of-one-head",
        left: |s| {
            let [q, q_rope, k, k_rope, v, positions] = one_head(s);
            let heads = s.graph.ty(q).shape[1].as_const().unwrap();
            let each = Op::Expand {
                axis: 1,
                len: heads,
            };
            let (k, v) = (s.op(each.clone(), &[k]), s.op(each, &[v]));
            vec![s.op(ATTENTION, &[q, q_rope, k, k_rope, v, positions])]
        },
        right: |s| {
            let operands = one_head(s);
            vec![s.op(ATTENTION, &operands)]
        },
    },
];

/// Positions in the cache.
const CONTEXT: u64 = 12;

const ATTENTION: Op = Op::Attention {
    scale: F32::new(0.05),
};

/// Operands of attention with one head of keys and values.
fn one_head(s: &mut Side) -> [ValueId; 6] {
    let (heads, dk, dr, dv) = (
        s.between(2, 4),
        s.between(1, 20),
        s.between(1, 8),
        s.between(1, 20),
    );
    let t = || Dim::sym("T");
    [
        s.bf16("q", [t(), heads.into(), dk.into()]),
        s.bf16("q_rope", [t(), heads.into(), dr.into()]),
        s.bf16("k", [CONTEXT, 1, dk]),
        s.bf16("k_rope", [CONTEXT, dr]),
        s.bf16("v", [CONTEXT, 1, dv]),
        s.ints("positions", ["T"], CONTEXT as usize),
    ]
}

/// Extents of multi-head latent attention.
#[derive(Clone, Copy)]
pub(in crate::egraph::tests) struct Sizes {
    pub(in crate::egraph::tests) heads: u64,
    /// Channels of keys, of values, of rotated keys, of latents.
    pub(in crate::egraph::tests) channels: [u64; 4],
    pub(in crate::egraph::tests) context: u64,
}

impl Sizes {
    fn random(s: &mut Side) -> Sizes {
        Sizes {
            heads: s.between(1, 3),
            channels: [
                s.between(1, 12),
                s.between(1, 12),
                s.between(1, 8),
                s.between(2, 150),
            ],
            context: CONTEXT,
        }
    }
}

/// Queries, the latent cache, and the projection from latents to keys and values.
struct Mla {
    q: ValueId,
    q_rope: ValueId,
    latents: ValueId,
    k_rope: ValueId,
    w: ValueId,
    positions: ValueId,
    heads: u64,
    dk: u64,
    dv: u64,
    latent: u64,
}

fn mla(s: &mut Side, sizes: Sizes, fp8: bool) -> Mla {
    let Sizes {
        heads,
        channels: [dk, dv, dr, latent],
        context,
    } = sizes;
    let rows = [heads * (dk + dv), latent];
    let w = if fp8 {
        Type::scaled(rows, ScaleBlock::WEIGHT)
    } else {
        Type::new(DType::BF16, rows)
    };
    Mla {
        q: s.bf16("q", ["T".into(), Dim::Const(heads), dk.into()]),
        q_rope: s.bf16("q_rope", ["T".into(), Dim::Const(heads), dr.into()]),
        latents: s.bf16("latents", [context, latent]),
        k_rope: s.bf16("k_rope", [context, dr]),
        w: s.param("w", w),
        positions: s.ints("positions", ["T"], context as usize),
        heads,
        dk,
        dv,
        latent,
    }
}

pub(in crate::egraph::tests) fn expanded(s: &mut Side, sizes: Sizes, fp8: bool) -> Vec<ValueId> {
    let m = mla(s, sizes, fp8);
    let latents = if fp8 {
        s.op(Op::Quantize, &[m.latents])
    } else {
        m.latents
    };
    let product = Op::Matmul {
        out: DType::BF16,
        promote: 128,
    };
    let kv = s.op(product, &[latents, m.w]);
    let kv = s.reshape(kv, [sizes.context, m.heads, m.dk + m.dv]);
    let (k, v) = (s.slice(kv, 2, 0, m.dk), s.slice(kv, 2, m.dk, m.dv));
    vec![s.op(ATTENTION, &[m.q, m.q_rope, k, m.k_rope, v, m.positions])]
}

pub(in crate::egraph::tests) fn absorbed(s: &mut Side, sizes: Sizes, fp8: bool) -> Vec<ValueId> {
    let m = mla(s, sizes, fp8);
    let w = if fp8 {
        s.op(Op::Dequantize, &[m.w])
    } else {
        m.w
    };
    let w = s.reshape(w, [m.heads, m.dk + m.dv, m.latent]);
    let (wk, wv) = (s.slice(w, 1, 0, m.dk), s.slice(w, 1, m.dk, m.dv));
    let wk = s.op(Op::Transpose { a: 1, b: 2 }, &[wk]);
    let by_head = Op::BatchedMatmul { out: DType::BF16 };
    let q = s.op(by_head.clone(), &[m.q, wk]);
    let latents = s.reshape(m.latents, [sizes.context, 1, m.latent]);
    let operands = [q, m.q_rope, latents, m.k_rope, latents, m.positions];
    let out = s.op(ATTENTION, &operands);
    vec![s.op(by_head, &[out, wv])]
}
