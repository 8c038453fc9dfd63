//! What a kernel takes: for each operand the extents of its view and the strides that the code can address.
//!
//! In: a [`KernelConfig`]. Out: one [`OperandSpec`] for each [`OperandDecl`], in the same order.
//! Kernel selection asks here before it hands a view to a kernel, and `Program::verify` asks again, so that
//! codegen may rely on every rule below without checking it.

use std::fmt;

use super::{Epilogue, GemmForm, KernelConfig, Normed, OperandDecl};
use crate::exchange::{ExpertGroup, TwoHopRecord, direct_record_words};

/// One axis of an operand's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Fixed by the config.
    Fixed(u64),
    /// Open until launch; the same symbol has the same extent in all operands of a launch.
    Free(&'static str),
    /// A multiple of an open extent, e.g. expert rows: `k * T`.
    Times(u64, &'static str),
}

/// Which strides and offsets a kernel can address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Innermost stride 1; the offset and all other strides are multiples of 16 bytes. That is what TMA can
    /// address (CUDA driver API, `cuTensorMapEncodeTiled`: `globalAddress`, `globalStrides`) and what a
    /// 16-byte load needs.
    Rows,
    /// Row-major without gaps, the offset a multiple of 16 bytes.
    Dense,
    /// Scales of activations, `[M, ceil(K/128)]` or `[G, M, ceil(K/128)]`: the stride of `M` is 1, all others and the
    /// offset are multiples of 16 bytes.
    Scales,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rows => "innermost stride 1, offset and other strides multiples of 16 bytes",
            Self::Dense => "row-major without gaps at a multiple of 16 bytes",
            Self::Scales => "row stride 1, offset and group stride multiples of 16 bytes",
        })
    }
}

/// The rules for one operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperandSpec {
    /// Name, element type, rank, direction.
    pub decl: OperandDecl,
    /// One for each axis.
    pub extents: Vec<Extent>,
    /// Strides that the kernel can address.
    pub layout: Layout,
}

impl OperandSpec {
    /// The extents of its axes, where `open` has those that are open until launch.
    pub fn extents_with(&self, open: impl Fn(&str) -> u64) -> Vec<u64> {
        let value = |extent: &Extent| match *extent {
            Extent::Fixed(n) => n,
            Extent::Free(name) => open(name),
            Extent::Times(factor, name) => factor.saturating_mul(open(name)),
        };
        self.extents.iter().map(value).collect()
    }

    /// Strides of an operand with these extents that leave no gap but those which the layout asks for.
    #[must_use]
    pub fn tight_strides(&self, extents: &[u64]) -> Vec<u64> {
        let unit = match self.layout {
            Layout::Dense => 1,
            Layout::Rows | Layout::Scales => STRIDE_BYTES / self.decl.dtype.bytes(),
        };
        // From the innermost axis on.
        let mut order: Vec<usize> = (0..extents.len()).rev().collect();
        if self.layout == Layout::Scales && order.len() > 1 {
            order.swap(0, 1);
        }
        let mut strides = vec![1; extents.len()];
        for pair in order.windows(2) {
            strides[pair[1]] = (strides[pair[0]] * extents[pair[0]]).next_multiple_of(unit);
        }
        strides
    }
}

/// What strides other than the innermost are multiples of, see [`Layout`].
const STRIDE_BYTES: u64 = 16;

/// Elements that share one scale along K (arXiv 2412.19437, section 3.3.2).
const SCALE_BLOCK: u64 = 128;

impl KernelConfig {
    /// The operands with their extents and layouts, in the order of [`KernelConfig::operands`].
    #[must_use]
    pub fn operand_specs(&self) -> Vec<OperandSpec> {
        self.operands()
            .into_iter()
            .zip(self.axes())
            .map(|(decl, (layout, extents))| OperandSpec {
                decl,
                extents,
                layout,
            })
            .collect()
    }

    /// Layout and extents of each operand, in the order of [`KernelConfig::operands`].
    fn axes(&self) -> Vec<(Layout, Vec<Extent>)> {
        use Extent::{Free, Times};
        use Layout::{Dense, Rows, Scales};
        let (m, t, c, r) = (Free("M"), Free("T"), Free("C"), Free("R"));
        match self {
            Self::GemmFp8(g) => {
                let (k, group) = (fixed(g.k), g.scale_group());
                let along_k = |k: u32| Extent::Fixed(u64::from(k.div_ceil(group)));
                let (n, blocks) = (fixed(g.n), along_k(g.k));
                let n_blocks = self::blocks(g.n);
                let product = |form| gemm(form, g.epilogue, g.n, k);
                let [a, b] = product(g.form).factors;
                let scales = match g.form {
                    // Both sides have the scales of activations: one for each row and 128 of K.
                    GemmForm::KGrouped { .. } => {
                        let blocks = Free("KB");
                        [(Scales, vec![m, blocks]), (Scales, vec![n, blocks])]
                    }
                    GemmForm::Masked { groups } => [
                        (Scales, vec![fixed(groups), m, blocks]),
                        (Dense, vec![fixed(groups), n_blocks, blocks]),
                    ],
                    GemmForm::Grouped { groups } => [
                        (Scales, vec![m, blocks]),
                        (Dense, vec![fixed(groups), n_blocks, blocks]),
                    ],
                    GemmForm::Dense | GemmForm::Batched { .. } => {
                        [(Scales, vec![m, blocks]), (Dense, vec![n_blocks, blocks])]
                    }
                };
                let [a_scales, b_scales] = scales;
                let mut v = vec![a, a_scales, b, b_scales];
                v.extend(product(g.form).rest);
                if matches!(g.epilogue, Epilogue::SwigluQuantize { .. }) {
                    let mut rows = v.last().map(|(_, d)| d.clone()).unwrap_or_default();
                    rows.pop();
                    rows.push(self::blocks(g.n / 2));
                    v.push((Scales, rows));
                }
                v
            }
            Self::GemmBf16(g) => {
                let product = gemm(g.form, g.epilogue, g.n, fixed(g.k));
                let mut v = product.factors.to_vec();
                v.extend(product.rest);
                v
            }
            Self::AttentionPrefill(a) | Self::AttentionDecode(a) => {
                let (h, hk) = (fixed(a.heads), fixed(a.kv_heads));
                let (dk, dr, dv) = (fixed(a.dk), fixed(a.dr), fixed(a.dv));
                vec![
                    (Rows, vec![t, h, dk]),
                    (Rows, vec![t, h, dr]),
                    (Rows, vec![c, hk, dk]),
                    (Rows, vec![c, dr]),
                    (Rows, vec![c, hk, dv]),
                    (Dense, vec![t]),
                    (Rows, vec![t, h, dv]),
                ]
            }
            Self::RmsNorm(n) => {
                let row = vec![m, fixed(n.width)];
                let mut v = vec![(Rows, row.clone())];
                if n.residual {
                    v.push((Rows, row.clone()));
                }
                v.extend(normed(n.normed(), m, n.width));
                v
            }
            Self::Quantize(q) => {
                let row = vec![m, fixed(q.width)];
                vec![
                    (Rows, row.clone()),
                    (Rows, row),
                    (Scales, vec![m, blocks(q.width)]),
                ]
            }
            Self::Swiglu(s) => {
                let mut v = vec![
                    (Rows, vec![m, Extent::Fixed(2 * u64::from(s.width))]),
                    (Rows, vec![m, fixed(s.width)]),
                ];
                if s.quant {
                    v.push((Scales, vec![m, blocks(s.width)]));
                }
                v
            }
            Self::Rope(p) => {
                let row = vec![t, fixed(p.heads), fixed(p.width)];
                vec![
                    (Rows, row.clone()),
                    (Dense, vec![t]),
                    table(p.dim),
                    (Dense, row),
                ]
            }
            Self::MlaCacheWrite(w) => {
                let width = Extent::Fixed(u64::from(w.latent) + u64::from(w.rope));
                vec![
                    (Rows, vec![t, width]),
                    (Dense, vec![fixed(w.latent)]),
                    (Dense, vec![t]),
                    table(w.rope),
                    (Rows, vec![c, width]),
                ]
            }
            Self::Add(a) => vec![(Rows, vec![m, fixed(a.width)]); 3],
            Self::ScaleRows(x) => vec![
                (Rows, vec![m, fixed(x.width)]),
                (Dense, vec![m]),
                (Rows, vec![m, fixed(x.width)]),
            ],
            Self::Gather(g) => {
                let (n, w) = (Free("N"), fixed(g.width));
                if g.quant {
                    let groups = blocks(g.width);
                    return vec![
                        (Rows, vec![n, w]),
                        (Scales, vec![n, groups]),
                        (Dense, vec![r]),
                        (Rows, vec![r, w]),
                        (Scales, vec![r, groups]),
                    ];
                }
                vec![(Rows, vec![n, w]), (Dense, vec![r]), (Rows, vec![r, w])]
            }
            Self::Route(g) => {
                let (e, k) = (fixed(g.experts), fixed(g.top_k));
                vec![
                    (Rows, vec![t, e]),
                    (Dense, vec![e]),
                    (Dense, vec![t, k]),
                    (Dense, vec![t, k]),
                ]
            }
            Self::MoePlan(p) => vec![
                (Dense, vec![t, fixed(p.top_k)]),
                (Dense, vec![Extent::Fixed(u64::from(p.experts) + 1)]),
                (Dense, vec![t, fixed(p.top_k)]),
                (Dense, vec![Times(u64::from(p.top_k), "T")]),
            ],
            Self::Expand(x) => {
                let (w, rows) = (fixed(x.width), Times(u64::from(x.top_k), "T"));
                if x.quant {
                    let g = blocks(x.width);
                    vec![
                        (Rows, vec![t, w]),
                        (Scales, vec![t, g]),
                        (Dense, vec![rows]),
                        (Rows, vec![rows, w]),
                        (Scales, vec![rows, g]),
                    ]
                } else {
                    vec![
                        (Rows, vec![t, w]),
                        (Dense, vec![rows]),
                        (Rows, vec![rows, w]),
                    ]
                }
            }
            Self::Combine(x) => {
                let (w, k) = (fixed(x.width), fixed(x.top_k));
                let mut v = vec![
                    (Rows, vec![Times(u64::from(x.top_k), "T"), w]),
                    (Dense, vec![t, k]),
                ];
                if x.weighted {
                    v.push((Dense, vec![t, k]));
                }
                if x.residual {
                    v.push((Rows, vec![t, w]));
                }
                match x.norm {
                    Some(norm) => v.extend(normed(norm, t, x.width)),
                    None => v.push((Rows, vec![t, w])),
                }
                v
            }
            Self::RowWeights(w) => vec![
                (Dense, vec![t, fixed(w.top_k)]),
                (Dense, vec![t, fixed(w.top_k)]),
                (Dense, vec![Times(u64::from(w.top_k), "T")]),
            ],
            Self::AppendExpert(a) => {
                let more = Extent::Fixed(u64::from(a.top_k) + 1);
                let few = (Dense, vec![t, fixed(a.top_k)]);
                let all = (Dense, vec![t, more]);
                vec![few.clone(), few, all.clone(), all]
            }
            Self::DirectDispatchSend(d) => {
                let mut v = payload(d.quant, &[t], d.width);
                v.extend(routing(&d.group));
                v.extend(self.meeting());
                v
            }
            Self::DirectDispatchReceive(d) => {
                let (local, rows) = (fixed(d.group.local()), fixed(d.rows()));
                let mut v = self.meeting();
                v.extend(payload(d.quant, &[local, rows], d.width));
                v.extend([
                    (Dense, vec![local]),
                    (Dense, vec![local, rows]),
                    (Dense, vec![Extent::Fixed(direct_record_words(&d.group))]),
                ]);
                v
            }
            Self::DirectCombineSend(x) => {
                let g = &x.group;
                let (local, rows) = (fixed(g.local()), fixed(g.ranks() * g.tokens));
                let mut v = vec![
                    (Rows, vec![local, rows, fixed(x.width)]),
                    (Dense, vec![local]),
                    (Dense, vec![Extent::Fixed(direct_record_words(g))]),
                    (Dense, vec![Extent::Fixed(u64::from(g.experts) + 1)]),
                ];
                v.extend(self.meeting());
                v
            }
            Self::DirectCombineReceive(x) => {
                let pairs = vec![t, fixed(x.group.top_k)];
                let mut v = vec![(Dense, pairs.clone()), (Dense, pairs)];
                v.extend(self.meeting());
                v.push((Rows, vec![t, fixed(x.width)]));
                v
            }
            Self::TwoHopDispatch(d) => {
                let record = TwoHopRecord::new(&d.group, d.channels);
                let rows = fixed(d.capacity);
                let mut v = payload(d.quant, &[t], d.width);
                v.extend(routing(&d.group));
                v.extend(self.meeting());
                v.extend(payload(d.quant, &[rows], d.width));
                v.extend([
                    (Dense, vec![Extent::Fixed(u64::from(d.group.local()) + 1)]),
                    (Dense, vec![rows]),
                    (Dense, vec![Extent::Fixed(record.words)]),
                ]);
                v
            }
            Self::TwoHopCombine(x) => {
                let record = TwoHopRecord::new(&x.group, x.channels);
                let rows = fixed(x.capacity);
                let mut v = vec![
                    (Rows, vec![rows, fixed(x.width)]),
                    (Dense, vec![rows]),
                    (Dense, vec![t, fixed(x.group.top_k)]),
                    (Dense, vec![Extent::Fixed(record.words)]),
                ];
                v.extend(self.meeting());
                v.push((Rows, vec![t, fixed(x.width)]));
                v
            }
            Self::Sample(s) => vec![
                (Rows, vec![r, fixed(s.vocab)]),
                (Dense, vec![r]),
                (Dense, vec![r]),
                (Dense, vec![r]),
                (Dense, vec![r]),
            ],
        }
    }
}

impl KernelConfig {
    /// The range of the `Exchange` buffer and the `World` buffer, of kernels that have them.
    fn meeting(&self) -> Vec<(Layout, Vec<Extent>)> {
        let words = |words: u64| (Layout::Dense, vec![Extent::Fixed(words)]);
        self.exchange().map_or_else(Vec::new, |range| {
            vec![words(range.bytes() / 4), words(range.group().world_words())]
        })
    }
}

/// What a norm of rows of that width reads and writes.
fn normed(norm: Normed, rows: Extent, width: u32) -> Vec<(Layout, Vec<Extent>)> {
    let row = || (Layout::Rows, vec![rows, fixed(width)]);
    let mut v = vec![(Layout::Dense, vec![fixed(width)])];
    if norm.emit_sum {
        v.push(row());
    }
    if norm.emit_norm {
        v.push(row());
    }
    if norm.emit_quant {
        v.push(row());
        v.push((Layout::Scales, vec![rows, blocks(width)]));
    }
    v
}

/// Rows that travel, `rows` of them.
fn payload(quant: bool, rows: &[Extent], width: u32) -> Vec<(Layout, Vec<Extent>)> {
    let with = |last: Extent| rows.iter().copied().chain([last]).collect::<Vec<_>>();
    let mut v = vec![(Layout::Rows, with(fixed(width)))];
    if quant {
        v.push((Layout::Scales, with(blocks(width))));
    }
    v
}

/// `experts`, `weights`, `offsets_all`, `slots` of this rank's tokens.
fn routing(group: &ExpertGroup) -> [(Layout, Vec<Extent>); 4] {
    let pairs = (Layout::Dense, vec![Extent::Free("T"), fixed(group.top_k)]);
    let bounds = (
        Layout::Dense,
        vec![Extent::Fixed(u64::from(group.experts) + 1)],
    );
    [pairs.clone(), pairs.clone(), bounds, pairs]
}

/// Operands of a GEMM: A and B, and what comes behind them up to D.
struct Product {
    factors: [(Layout, Vec<Extent>); 2],
    rest: Vec<(Layout, Vec<Extent>)>,
}

fn gemm(form: GemmForm, epilogue: Epilogue, columns: u32, k: Extent) -> Product {
    use Layout::{Dense, Rows};
    let (m, n) = (Extent::Free("M"), fixed(columns));
    let offsets = |groups: u32| (Dense, vec![Extent::Fixed(u64::from(groups) + 1)]);
    // D's axes before its columns.
    let (factors, bounds, rows) = match form {
        GemmForm::Dense => ([vec![m, k], vec![n, k]], None, vec![m]),
        GemmForm::Batched { heads } => {
            let h = fixed(heads);
            ([vec![m, h, k], vec![h, n, k]], None, vec![m, h])
        }
        GemmForm::Grouped { groups } => (
            [vec![m, k], vec![fixed(groups), n, k]],
            Some(offsets(groups)),
            vec![m],
        ),
        GemmForm::Masked { groups } => {
            let g = fixed(groups);
            let counts = (Dense, vec![g]);
            ([vec![g, m, k], vec![g, n, k]], Some(counts), vec![g, m])
        }
        GemmForm::KGrouped { groups } => {
            let k = Extent::Free("K");
            let rows = vec![fixed(groups), m];
            ([vec![m, k], vec![n, k]], Some(offsets(groups)), rows)
        }
    };
    let with = |last: Extent| rows.iter().copied().chain([last]).collect::<Vec<_>>();
    let mut rest: Vec<_> = bounds.into_iter().collect();
    let width = match epilogue {
        Epilogue::Store | Epilogue::Accumulate => n,
        Epilogue::Add => {
            rest.push((Rows, with(n)));
            n
        }
        Epilogue::SwigluQuantize { weighted } => {
            if weighted {
                rest.push((Dense, rows.clone()));
            }
            Extent::Fixed(u64::from(columns) / 2)
        }
    };
    rest.push((Rows, with(width)));
    Product {
        factors: factors.map(|axes| (Rows, axes)),
        rest,
    }
}

fn fixed(extent: u32) -> Extent {
    Extent::Fixed(u64::from(extent))
}

fn blocks(extent: u32) -> Extent {
    Extent::Fixed(u64::from(extent).div_ceil(SCALE_BLOCK))
}

/// `[P, dim/2, 2]`: cosine and sine for each position and pair of channels.
fn table(dim: u32) -> (Layout, Vec<Extent>) {
    (
        Layout::Dense,
        vec![
            Extent::Free("P"),
            Extent::Fixed(u64::from(dim) / 2),
            Extent::Fixed(2),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::*;
    use crate::types::DType;

    /// One of each family, with every optional operand on and off.
    fn samples() -> Vec<KernelConfig> {
        let fp8 = GemmFp8 {
            n: 192,
            k: 144,
            form: GemmForm::Dense,
            epilogue: Epilogue::Store,
            out: DType::F32,
            promote: 128,
            tile: GemmTile::new(64, 64, 4),
        };
        let bf16 = GemmBf16 {
            n: 64,
            k: 72,
            form: GemmForm::Dense,
            epilogue: Epilogue::Store,
            out: DType::BF16,
            tile: GemmTile::new(64, 64, 4),
        };
        let forms = [
            GemmForm::Grouped { groups: 8 },
            GemmForm::Masked { groups: 8 },
            GemmForm::KGrouped { groups: 8 },
        ];
        let grouped = |form| {
            [
                KernelConfig::GemmFp8(GemmFp8 {
                    form,
                    ..fp8.clone()
                }),
                KernelConfig::GemmBf16(GemmBf16 {
                    form,
                    ..bf16.clone()
                }),
            ]
        };
        let fused = [
            Epilogue::Add,
            Epilogue::SwigluQuantize { weighted: false },
            Epilogue::SwigluQuantize { weighted: true },
        ]
        .map(|epilogue| {
            KernelConfig::GemmFp8(GemmFp8 {
                epilogue,
                ..fp8.clone()
            })
        });
        let attention = Attention {
            heads: 4,
            kv_heads: 4,
            dk: 64,
            dr: 32,
            dv: 64,
            scale: 0.125,
            tile_kv: 64,
            stages: 2,
        };
        let norm = RmsNorm {
            width: 200,
            eps: 1e-6,
            residual: true,
            emit_sum: true,
            emit_norm: true,
            emit_quant: true,
        };
        let combine = Combine {
            width: 200,
            top_k: 4,
            weighted: true,
            residual: false,
            norm: None,
        };
        let gemms = forms.into_iter().flat_map(grouped).chain(fused);
        let others = vec![
            KernelConfig::GemmFp8(fp8.clone()),
            KernelConfig::GemmBf16(bf16.clone()),
            KernelConfig::GemmBf16(GemmBf16 {
                form: GemmForm::Batched { heads: 4 },
                ..bf16.clone()
            }),
            KernelConfig::AttentionPrefill(attention.clone()),
            KernelConfig::AttentionDecode(Attention {
                kv_heads: 1,
                ..attention
            }),
            KernelConfig::RmsNorm(norm.clone()),
            KernelConfig::RmsNorm(RmsNorm {
                residual: false,
                emit_sum: false,
                emit_norm: true,
                emit_quant: false,
                ..norm.clone()
            }),
            KernelConfig::Quantize(Quantize { width: 200 }),
            KernelConfig::Swiglu(Swiglu {
                width: 128,
                quant: false,
            }),
            KernelConfig::Swiglu(Swiglu {
                width: 128,
                quant: true,
            }),
            KernelConfig::Rope(Rope {
                heads: 4,
                width: 96,
                start: 64,
                dim: 32,
            }),
            KernelConfig::MlaCacheWrite(MlaCacheWrite {
                latent: 128,
                rope: 32,
                eps: 1e-6,
            }),
            KernelConfig::Add(Add { width: 256 }),
            KernelConfig::ScaleRows(ScaleRows { width: 256 }),
            KernelConfig::Gather(Gather {
                width: 256,
                quant: false,
            }),
            KernelConfig::Gather(Gather {
                width: 256,
                quant: true,
            }),
            KernelConfig::Route(Route {
                experts: 16,
                top_k: 4,
                n_group: 4,
                topk_group: 2,
                scaling: 2.5,
                normalize: true,
            }),
            KernelConfig::MoePlan(MoePlan {
                experts: 16,
                top_k: 4,
            }),
            KernelConfig::Expand(Expand {
                width: 256,
                top_k: 4,
                quant: false,
            }),
            KernelConfig::Expand(Expand {
                width: 256,
                top_k: 4,
                quant: true,
            }),
            KernelConfig::Combine(combine.clone()),
            KernelConfig::Combine(Combine {
                weighted: false,
                ..combine.clone()
            }),
            KernelConfig::Combine(Combine {
                residual: true,
                ..combine.clone()
            }),
            KernelConfig::Combine(Combine {
                residual: true,
                norm: Some(norm.normed()),
                ..combine
            }),
            KernelConfig::RowWeights(RowWeights { top_k: 4 }),
            KernelConfig::AppendExpert(AppendExpert {
                top_k: 4,
                expert: 16,
                weight: 1.0,
            }),
            KernelConfig::Sample(Sample { vocab: 1024 }),
        ];
        gemms.chain(others).collect()
    }

    #[test]
    fn every_operand_has_a_spec_of_its_rank() {
        for config in samples() {
            let (decls, axes) = (config.operands(), config.axes());
            assert_eq!(decls.len(), axes.len(), "{config:?}");
            for (decl, (_, extents)) in decls.iter().zip(&axes) {
                assert_eq!(decl.rank, extents.len(), "{} of {config:?}", decl.name);
            }
        }
    }

    #[test]
    fn names_are_distinct_ptx_identifiers() {
        let names: Vec<String> = samples().iter().map(KernelConfig::name).collect();
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        for name in &names {
            assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "{name}");
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{name}"
            );
        }
    }

    #[test]
    fn multiples_refer_to_an_extent_that_another_operand_gives() {
        for config in samples() {
            let axes: Vec<Extent> = config
                .axes()
                .into_iter()
                .flat_map(|(_, extents)| extents)
                .collect();
            for extent in &axes {
                if let Extent::Times(_, name) = extent {
                    assert!(axes.contains(&Extent::Free(name)), "{name} of {config:?}");
                }
            }
        }
    }
}
