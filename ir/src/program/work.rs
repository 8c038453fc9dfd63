//! What a launch of each kernel family has to do: tensor-core operations and bytes of device memory.
//!
//! In: a [`KernelConfig`]. Out: a [`Work`], whose expressions are over the extents of the launch's operands.
//! Holds: the counts are of the op, not of a kernel's making of it: no tile's padding, no second reading.
//! Where data decide (which rows a table is asked for, which experts have rows), as many as can be are counted
//! as distinct.

use super::{Expr, Unit, Work};
use crate::kernel::{Attention, Extent, GemmForm, KernelConfig};

impl Work {
    /// The work of one launch of a kernel with this config.
    #[must_use]
    pub fn of(config: &KernelConfig) -> Self {
        let (unit, flops) = products(config);
        Self {
            unit,
            flops,
            bytes: bytes(config),
        }
    }
}

/// Tensor-core operations: two for each multiply-add.
fn products(config: &KernelConfig) -> (Unit, Expr) {
    match config {
        KernelConfig::GemmFp8(c) => (Unit::Fp8, multiply_adds(c.form, 2, c.n, c.k)),
        KernelConfig::GemmBf16(c) => (Unit::Bf16, multiply_adds(c.form, 1, c.n, c.k)),
        KernelConfig::AttentionPrefill(c) | KernelConfig::AttentionDecode(c) => {
            let channels = u64::from(c.dk) + u64::from(c.dr) + u64::from(c.dv);
            (
                Unit::Bf16,
                scaled(visible_pairs(), &[2, u64::from(c.heads), channels]),
            )
        }
        _ => (Unit::None, Expr::Const(0)),
    }
}

/// Of a GEMM whose B is operand `b`. Of a masked one all rows are counted: how many there are is on the device.
fn multiply_adds(form: GemmForm, b: usize, n: u32, k: u32) -> Expr {
    let (n, k) = (u64::from(n), u64::from(k));
    match form {
        GemmForm::Dense | GemmForm::Grouped { .. } => scaled(extent(0, 0), &[2, n, k]),
        GemmForm::Batched { heads } => scaled(extent(0, 0), &[2, u64::from(heads), n, k]),
        GemmForm::Masked { groups } => scaled(extent(0, 1), &[2, u64::from(groups), n, k]),
        // All groups together have the whole of K.
        GemmForm::KGrouped { .. } => {
            Expr::Mul(vec![extent(0, 0), extent(b, 1), Expr::Const(2 * n)])
        }
    }
}

/// Pairs of query and key that causal attention looks at: the `T` queries are the last of `C` positions, so that
/// query `t` sees `C - T + t + 1` keys; in total `T C - T (T - 1) / 2`.
fn visible_pairs() -> Expr {
    let (tokens, context) = (|| extent(0, 0), extent(2, 0));
    let before = Expr::Sub(Box::new(tokens()), Box::new(Expr::Const(1)));
    // One of two neighbours is even: the quotient is exact.
    let hidden = Expr::CeilDiv(Box::new(Expr::Mul(vec![tokens(), before])), 2);
    Expr::Sub(
        Box::new(Expr::Mul(vec![tokens(), context])),
        Box::new(hidden),
    )
}

/// Bytes of all operands, each once.
fn bytes(config: &KernelConfig) -> Expr {
    let specs = config.operand_specs();
    let mut constant = 0;
    let mut terms = Vec::new();
    for (operand, spec) in specs.iter().enumerate() {
        let mut fixed = spec.decl.dtype.bytes();
        let mut open = Vec::new();
        for (axis, e) in spec.extents.iter().enumerate() {
            match touched(config, spec.decl.name, axis) {
                Some(touched) => open.push(touched),
                None => match e {
                    Extent::Fixed(n) => fixed *= n,
                    Extent::Free(_) | Extent::Times(..) => open.push(extent(operand, axis)),
                },
            }
        }
        if shares_latent(config, spec.decl.name) {
            continue;
        }
        if open.is_empty() {
            constant += fixed;
        } else {
            open.push(Expr::Const(fixed));
            terms.push(Expr::Mul(open));
        }
    }
    if constant > 0 {
        terms.push(Expr::Const(constant));
    }
    Expr::Add(terms)
}

/// How much of an operand's axis a launch can touch, where that is not all of it.
fn touched(config: &KernelConfig, operand: &str, axis: usize) -> Option<Expr> {
    if axis != 0 {
        return None;
    }
    let groups = |groups: u32| Expr::Min(vec![Expr::Const(u64::from(groups)), extent(0, 0)]);
    let grouped = |form| match form {
        GemmForm::Grouped { groups: g } => Some(groups(g)),
        _ => None,
    };
    match (config, operand) {
        // A group without rows needs no weights.
        (KernelConfig::GemmFp8(c), "b" | "b_scales") => grouped(c.form),
        (KernelConfig::GemmBf16(c), "b") => grouped(c.form),
        (KernelConfig::Gather(_), "table") => Some(Expr::Min(vec![extent(0, 0), extent(1, 0)])),
        (KernelConfig::Gather(_), "table_codes" | "table_scales") => {
            Some(Expr::Min(vec![extent(0, 0), extent(2, 0)]))
        }
        (KernelConfig::Rope(_), "table") => Some(Expr::Min(vec![extent(2, 0), extent(0, 0)])),
        (KernelConfig::MlaCacheWrite(_), "table") => {
            Some(Expr::Min(vec![extent(3, 0), extent(0, 0)]))
        }
        // Rings and inboxes: what passes through them is counted where it comes from and where it goes.
        (c, "exchange") if c.exchange().is_some() => Some(Expr::Const(0)),
        // The new tokens' rows.
        (KernelConfig::MlaCacheWrite(_), "cache") => Some(extent(0, 0)),
        _ => None,
    }
}

/// With one key head for all, key and value are the same latent rows of the cache: the wider one counts.
fn shares_latent(config: &KernelConfig, operand: &str) -> bool {
    match config {
        KernelConfig::AttentionPrefill(c) | KernelConfig::AttentionDecode(c) => {
            let narrower = |c: &Attention| if c.dk < c.dv { "k" } else { "v" };
            c.kv_heads == 1 && operand == narrower(c)
        }
        _ => false,
    }
}

fn extent(operand: usize, axis: usize) -> Expr {
    Expr::Extent { operand, axis }
}

fn scaled(value: Expr, factors: &[u64]) -> Expr {
    Expr::Mul(vec![value, Expr::Const(factors.iter().product())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::*;
    use crate::types::DType;

    /// The value over these extents; the bundle has the evaluation that may meet anything.
    fn eval(expr: &Expr, extents: &[Vec<u64>]) -> u64 {
        let value = |e: &Expr| eval(e, extents);
        match expr {
            Expr::Const(n) => *n,
            Expr::Extent { operand, axis } => extents[*operand][*axis],
            Expr::Sms => panic!("work depends on the number of SMs"),
            Expr::CeilDiv(e, n) => value(e).div_ceil(*n),
            Expr::Add(terms) => terms.iter().map(value).sum(),
            Expr::Sub(a, b) => value(a).saturating_sub(value(b)),
            Expr::Mul(terms) => terms.iter().map(value).product(),
            Expr::Min(terms) => terms.iter().map(value).min().expect("not empty"),
        }
    }

    /// The extents of a launch in which `Free` axes have these values.
    fn extents(config: &KernelConfig, free: &[(&str, u64)]) -> Vec<Vec<u64>> {
        let of = |name: &str| {
            free.iter()
                .find(|(n, _)| *n == name)
                .expect("every open extent is given")
                .1
        };
        let axis = |e: &Extent| match e {
            Extent::Fixed(n) => *n,
            Extent::Free(name) => of(name),
            Extent::Times(factor, name) => factor * of(name),
        };
        config
            .operand_specs()
            .iter()
            .map(|spec| spec.extents.iter().map(axis).collect())
            .collect()
    }

    fn check(config: &KernelConfig, free: &[(&str, u64)], unit: Unit, flops: u64, bytes: u64) {
        let work = Work::of(config);
        let extents = extents(config, free);
        assert_eq!(work.unit, unit, "{config:?}");
        assert_eq!(eval(&work.flops, &extents), flops, "flops of {config:?}");
        assert_eq!(eval(&work.bytes, &extents), bytes, "bytes of {config:?}");
    }

    fn gemm(form: GemmForm) -> KernelConfig {
        KernelConfig::GemmFp8(GemmFp8 {
            n: 192,
            k: 256,
            form,
            epilogue: Epilogue::Store,
            out: DType::BF16,
            promote: 128,
            tile: GemmTile::new(64, 64, 4),
        })
    }

    #[test]
    fn a_product_counts_its_operands_once() {
        let (m, n, k) = (100, 192, 256);
        let bytes = m * k + m * 2 * 4 + n * k + 2 * 2 * 4 + m * n * 2;
        let dense = gemm(GemmForm::Dense);
        check(&dense, &[("M", m)], Unit::Fp8, 2 * m * n * k, bytes);
        let batched = KernelConfig::GemmBf16(GemmBf16 {
            n: 64,
            k: 32,
            form: GemmForm::Batched { heads: 3 },
            epilogue: Epilogue::Store,
            out: DType::F32,
            tile: GemmTile::new(64, 64, 4),
        });
        let bytes = m * 3 * 32 * 2 + 3 * 64 * 32 * 2 + m * 3 * 64 * 4;
        check(
            &batched,
            &[("M", m)],
            Unit::Bf16,
            2 * m * 3 * 64 * 32,
            bytes,
        );
    }

    #[test]
    fn a_grouped_product_needs_no_more_groups_than_rows() {
        let (n, k) = (192, 256);
        for (m, groups) in [(100, 8), (3, 3), (0, 0)] {
            let weights = groups * (n * k + 2 * 2 * 4);
            let bytes = m * k + m * 2 * 4 + weights + 9 * 4 + m * n * 2;
            let flops = 2 * m * n * k;
            let grouped = gemm(GemmForm::Grouped { groups: 8 });
            check(&grouped, &[("M", m)], Unit::Fp8, flops, bytes);
        }
    }

    fn attention(kv_heads: u32, dk: u32, dv: u32) -> Attention {
        Attention {
            heads: 4,
            kv_heads,
            dk,
            dr: 32,
            dv,
            scale: 0.125,
            tile_kv: 64,
            stages: 2,
        }
    }

    #[test]
    fn attention_counts_the_pairs_that_it_sees() {
        let config = KernelConfig::AttentionPrefill(attention(4, 64, 48));
        for (t, c) in [(5_u64, 5_u64), (7, 20), (1, 9)] {
            let pairs: u64 = (0..t).map(|i| c - t + i + 1).sum();
            let flops = 2 * 4 * pairs * (64 + 32 + 48);
            let q = t * 4 * (64 + 32) * 2;
            let kv = c * 4 * 64 * 2 + c * 32 * 2 + c * 4 * 48 * 2;
            let bytes = q + kv + t * 4 + t * 4 * 48 * 2;
            check(&config, &[("T", t), ("C", c)], Unit::Bf16, flops, bytes);
        }
    }

    #[test]
    fn absorbed_attention_reads_its_latent_rows_once() {
        let config = KernelConfig::AttentionDecode(attention(1, 128, 128));
        let c = 40;
        let bytes = 4 * (128 + 32) * 2 + c * (128 + 32) * 2 + 4 + 4 * 128 * 2;
        let flops = 2 * 4 * c * (128 + 32 + 128);
        check(&config, &[("T", 1), ("C", c)], Unit::Bf16, flops, bytes);
    }

    #[test]
    fn tables_and_caches_count_the_rows_of_the_step() {
        let gather = |width, quant| KernelConfig::Gather(Gather { width, quant });
        let free = [("N", 1000), ("R", 3)];
        let bytes = 3 * 32 + 3 * 4 + 3 * 32;
        check(&gather(16, false), &free, Unit::None, 0, bytes);
        let bytes = 3 * (256 + 2 * 4) + 3 * 4 + 3 * (256 + 2 * 4);
        check(&gather(256, true), &free, Unit::None, 0, bytes);
        let write = KernelConfig::MlaCacheWrite(MlaCacheWrite {
            latent: 128,
            rope: 32,
            eps: 1e-6,
        });
        let bytes = 2 * 160 * 2 + 128 * 2 + 2 * 4 + 2 * 32 * 4 + 2 * 160 * 2;
        let free = [("T", 2), ("C", 500), ("P", 4096)];
        check(&write, &free, Unit::None, 0, bytes);
    }
}
