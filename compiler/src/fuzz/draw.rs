//! What a seed stands for: a small well-typed model, the tensors of its checkpoint, and the steps to run.
//!
//! Models have two to five of the layers that model authors use over `[T, 256]`, with residuals between them. Extents are
//! few, so that the same kernels come again in model after model. Models with attention have two entries over one cache:
//! `prefill` takes several tokens, `decode` the one behind them.

use std::collections::BTreeMap;

use mcc_dsl::layers::{
    Experts, LatentAttention, LatentShape, Mlp, Query, Rotation, latent_attention, linear, mlp,
    routed_experts,
};
use mcc_dsl::{
    Dim, Entry, Freedom, Model as Draft, Module, Param, Routing, Tensor as Value, bf16, f32,
    fp8_weight, i32, stack, tensor,
};
use mcc_ir::eval::{Data, Dims, Rng, Tensor, Values, scale_shape};
use mcc_ir::{DType, ParamSource, Type};
use safetensors::tensor::{TensorView, serialize};
use safetensors::{Dtype, SafeTensorError};

use super::bug;
use crate::error::Error;

/// Channels of the residual stream.
pub(super) const WIDTH: u64 = 256;
/// Tokens of a step at most.
const TOKENS: u64 = 16;
/// Of `prefill`. Few: those behind a token whose experts are open are not compared (`spread.rs`).
const PREFILL: u64 = 8;
/// Positions at most.
const CONTEXT: u64 = TOKENS + 1;
/// Rows that the last product takes, at most.
const ROWS: u64 = 4;
const EPS: f32 = 1e-6;
const HEADS: u64 = 2;
/// Channels of a head's key without rotation, and of the rotated part.
const NOPE: u64 = 64;
const ROPE: u64 = 32;
/// Channels of a head's value, and of the cached latent.
const V: u64 = 64;
const LATENT: u64 = 128;

/// A model with everything that it needs to run.
pub(super) struct Drawn {
    pub module: Module,
    /// Tensors of the checkpoint, by name.
    pub checkpoint: BTreeMap<String, Tensor>,
    /// In order; they share the states.
    pub steps: Vec<Step>,
}

/// One run of an entry.
pub(super) struct Step {
    pub entry: &'static str,
    pub dims: Dims,
    pub inputs: Values,
    /// Tokens whose rows the output `taken` has.
    pub rows: Vec<usize>,
}

/// Draws what the seed stands for; `bank` has normal numbers, of which tensors are cut.
pub(super) fn draw(seed: u64, bank: &[f32]) -> Result<Drawn, Error> {
    let mut rng = Rng::new(seed);
    let m = Draft::new(&format!("fuzz-{seed}"));
    if rng.below(2) == 1 {
        m.allow(Freedom::ALL);
    }
    let dims = ["T", "C", "R"]
        .into_iter()
        .zip([TOKENS, CONTEXT, ROWS])
        .map(|(name, most)| m.dim(name, 1..=most));
    let dims: Vec<Dim> = dims.collect();
    let [t, c, r] = &dims[..] else {
        return Err(bug("three dims were declared".to_owned()));
    };
    let shape = LatentShape {
        tokens: t.clone(),
        context: c.clone(),
        heads: HEADS,
        nope: NOPE,
        rope: ROPE,
        v: V,
        latent: LATENT,
        eps: EPS,
        scale: ((NOPE + ROPE) as f32).sqrt().recip(),
    };
    let layers = 2 + rng.below(4);
    let layers = (0..layers).map(|layer| Placed::draw(&mut rng, &Scope { m: &m, layer }, c));
    let layers: Vec<Placed> = layers.collect();
    let head = (rng.below(3) == 0).then(|| {
        let norm = m.param("head.norm", bf16((WIDTH,)), tensor("head.norm"));
        (
            norm,
            m.param("head", fp8_weight((WIDTH, WIDTH)), tensor("head")),
        )
    });
    let tapped = 1 + rng.below(layers.len());
    let has_attention = layers
        .iter()
        .any(|placed| matches!(placed.layer, Layer::Attention(_)));
    let table = has_attention.then(|| {
        let source = ParamSource::RopeTable {
            dim: ROPE,
            theta: 10_000.0,
            positions: CONTEXT,
            yarn: None,
        };
        m.param("rope", f32((CONTEXT, ROPE / 2, 2)), source)
    });
    let entries: &[&str] = if has_attention {
        &["prefill", "decode"]
    } else {
        &["run"]
    };
    for name in entries {
        m.entry(name, |e| {
            let x = e.input("x", bf16((t, WIDTH)));
            let at = table
                .as_ref()
                .map(|table| (table, e.input("positions", i32((t,)))));
            let mut values = vec![x];
            for placed in &layers {
                let at = at
                    .as_ref()
                    .map(|(table, positions)| Rotation { positions, table });
                values.push(placed.apply(e, &values, &shape, at));
            }
            e.output("y", &values[values.len() - 1]);
            e.output("tapped", &values[tapped]);
            if let Some((norm, head)) = &head {
                let rows = e.input("rows", i32((r,)));
                let rows = values[values.len() - 1].rms_norm(norm, EPS).gather(&rows);
                e.output("taken", &linear(&rows, head));
            }
        });
    }
    let module = m.finish().map_err(Error::from)?;
    let checkpoint = checkpoint(&module, &mut Rng::new(seed ^ 0xc0de), bank)?;
    let steps = steps(entries, head.is_some(), &mut Rng::new(seed ^ 0x5eed), bank)?;
    Ok(Drawn {
        module,
        checkpoint,
        steps,
    })
}

/// A layer with what it reads and what is added to it.
struct Placed {
    layer: Layer,
    norm: Param,
    /// Reads the value before the last one.
    skips: bool,
    /// Reads its input through the norm.
    normed: bool,
    residual: Residual,
}

enum Residual {
    None,
    /// The entry's input behind the layer.
    Input,
    /// The layer's input in front of it, or behind.
    Before,
    Behind,
}

enum Layer {
    Norm,
    Linear(Param),
    /// Two products of one value; the columns of the first are cut in two.
    Cut(Param, Param),
    Mlp(Mlp),
    Experts(Experts),
    /// A shared expert beside routed ones.
    Both(Mlp, Experts),
    Attention(LatentAttention),
}

impl Placed {
    fn draw(rng: &mut Rng, scope: &Scope<'_>, context: &Dim) -> Self {
        let fp8 = rng.below(4) > 0;
        Self {
            layer: Layer::draw(rng, scope, fp8, context),
            norm: scope.norm("norm", WIDTH),
            skips: rng.below(2) == 1,
            normed: rng.below(4) > 0,
            residual: match rng.below(4) {
                0 => Residual::None,
                1 => Residual::Input,
                2 => Residual::Before,
                _ => Residual::Behind,
            },
        }
    }

    fn apply(
        &self,
        e: &Entry,
        values: &[Value],
        shape: &LatentShape,
        at: Option<Rotation<'_>>,
    ) -> Value {
        let back = usize::from(self.skips && values.len() > 1);
        let x = &values[values.len() - 1 - back];
        let normed = x.rms_norm(&self.norm, EPS);
        let h = if self.normed { &normed } else { x };
        let y = match (&self.layer, at) {
            (Layer::Norm, _) => normed,
            (Layer::Linear(w), _) => linear(h, w),
            (Layer::Cut(wide, other), _) => {
                let wide = linear(h, wide);
                let (a, b) = (wide.slice(1, 0..WIDTH), wide.slice(1, WIDTH..2 * WIDTH));
                a.rms_norm(&self.norm, EPS) + b + linear(h, other)
            }
            (Layer::Mlp(w), _) => mlp(h, w),
            (Layer::Experts(w), _) => routed_experts(h, w),
            (Layer::Both(shared, routed), _) => mlp(h, shared) + routed_experts(h, routed),
            // Scores of rows that no norm has seen could be of any size.
            (Layer::Attention(w), Some(at)) => latent_attention(e, &normed, w, shape, at),
            (Layer::Attention(_), None) => normed,
        };
        match self.residual {
            Residual::None => y,
            Residual::Input => y + &values[0],
            Residual::Before => x.clone() + y,
            Residual::Behind => y + x,
        }
    }
}

impl Layer {
    fn draw(rng: &mut Rng, scope: &Scope<'_>, fp8: bool, context: &Dim) -> Self {
        match rng.below(7) {
            0 => Self::Norm,
            1 => Self::Linear(scope.weight("w", WIDTH, WIDTH, fp8)),
            2 => Self::Cut(
                scope.weight("wide", 2 * WIDTH, WIDTH, fp8),
                scope.weight("other", WIDTH, WIDTH, fp8),
            ),
            3 => Self::Mlp(scope.mlp(rng, fp8)),
            4 => Self::Experts(scope.experts(rng, fp8)),
            5 => Self::Both(scope.mlp(rng, fp8), scope.experts(rng, fp8)),
            _ => Self::Attention(scope.attention(rng, fp8, context)),
        }
    }
}

/// Where a layer declares its parameters.
struct Scope<'a> {
    m: &'a Draft,
    layer: usize,
}

impl Scope<'_> {
    fn param(&self, name: &str, ty: Type, source: impl Fn(&str) -> ParamSource) -> Param {
        let name = format!("l{}.{name}", self.layer);
        self.m.param(&name, ty, source(&name))
    }

    fn norm(&self, name: &str, width: u64) -> Param {
        self.param(name, bf16((width,)), |name| tensor(name))
    }

    fn weight(&self, name: &str, n: u64, k: u64, fp8: bool) -> Param {
        let ty = if fp8 {
            fp8_weight((n, k))
        } else {
            bf16((n, k))
        };
        self.param(name, ty, |name| tensor(name))
    }

    fn mlp(&self, rng: &mut Rng, fp8: bool) -> Mlp {
        let inner = 128 * (1 + rng.below(2) as u64);
        Mlp {
            gate: self.weight("gate", inner, WIDTH, fp8),
            up: self.weight("up", inner, WIDTH, fp8),
            down: self.weight("down", WIDTH, inner, fp8),
        }
    }

    fn experts(&self, rng: &mut Rng, fp8: bool) -> Experts {
        let (experts, inner) = (8, 128);
        let stacked = |name: &str, n: u64, k: u64| {
            let shape = (experts, n, k);
            let ty = if fp8 { fp8_weight(shape) } else { bf16(shape) };
            let each = |name: &str| stack((0..experts).map(|e| tensor(format!("{name}.{e}"))));
            self.param(name, ty, each)
        };
        Experts {
            router: self.weight("router", experts, WIDTH, false),
            bias: self.param("bias", f32((experts,)), |name| tensor(name)),
            mlp: Mlp {
                gate: stacked("experts.gate", inner, WIDTH),
                up: stacked("experts.up", inner, WIDTH),
                down: stacked("experts.down", WIDTH, inner),
            },
            n_experts: experts as u32,
            routing: Routing {
                top_k: 2,
                n_group: 2,
                topk_group: 1 + rng.below(2) as u32,
                scaling: 1.5,
                normalize: rng.below(2) == 1,
            },
        }
    }

    fn attention(&self, rng: &mut Rng, fp8: bool, context: &Dim) -> LatentAttention {
        let queries = HEADS * (NOPE + ROPE);
        let rank = 128;
        let q = if rng.below(2) == 1 {
            Query::LowRank {
                a: self.weight("q_a", rank, WIDTH, fp8),
                norm: self.norm("q_norm", rank),
                b: self.weight("q_b", queries, rank, fp8),
            }
        } else {
            Query::Full(self.weight("q", queries, WIDTH, fp8))
        };
        let cache = bf16((context, LATENT + ROPE));
        LatentAttention {
            q,
            kv_a: self.weight("kv_a", LATENT + ROPE, WIDTH, fp8),
            kv_a_norm: self.norm("kv_norm", LATENT),
            kv_b: self.weight("kv_b", HEADS * (NOPE + V), LATENT, fp8),
            o: self.weight("o", WIDTH, HEADS * V, fp8),
            cache: self.m.state(&format!("l{}.cache", self.layer), cache),
        }
    }
}

/// Numbers from anywhere in the bank, times `deviation`.
fn cut(bank: &[f32], rng: &mut Rng, shape: &[usize], deviation: f32) -> Vec<f32> {
    let from = rng.below(bank.len());
    let numbers = bank.iter().cycle().skip(from);
    let numbers = numbers.take(shape.iter().product());
    numbers.map(|x| x * deviation).collect()
}

/// A tensor for each that the model's parameters are made of.
fn checkpoint(
    module: &Module,
    rng: &mut Rng,
    bank: &[f32],
) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut tensors = BTreeMap::new();
    for param in &module.params {
        let extents = param.ty.shape.iter().filter_map(mcc_ir::Dim::as_const);
        let shape: Vec<usize> = extents.map(|n| n as usize).collect();
        let (names, shape): (Vec<&String>, &[usize]) = match &param.source {
            ParamSource::Tensor(name) => (vec![name], &shape),
            ParamSource::Stack(parts) => {
                let names = parts.iter().filter_map(|part| match part {
                    ParamSource::Tensor(name) => Some(name),
                    _ => None,
                });
                (names.collect(), &shape[1..])
            }
            _ => continue,
        };
        for name in names {
            let made = match param.ty.dtype {
                DType::E4M3 => Tensor::quantized_weight(shape, &cut(bank, rng, shape, 0.1)),
                DType::F32 => Tensor::f32(shape, cut(bank, rng, shape, 0.1)),
                _ if shape.len() == 1 => Tensor::bf16(shape, cut(bank, rng, shape, 1.0)),
                _ => Tensor::bf16(shape, cut(bank, rng, shape, 0.1)),
            };
            tensors.insert(name.clone(), made.map_err(|e| bug(e.to_string()))?);
        }
    }
    Ok(tensors)
}

/// A step of each entry; tokens of the next one follow those of the one before.
fn steps(
    entries: &[&'static str],
    has_head: bool,
    rng: &mut Rng,
    bank: &[f32],
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    let mut context = 0;
    for entry in entries {
        let most = match *entry {
            "decode" => 1,
            "prefill" => PREFILL,
            _ => TOKENS,
        };
        let tokens = 1 + rng.below(most as usize);
        let made = |tensor: Result<Tensor, mcc_ir::eval::TensorError>| {
            tensor.map_err(|e| bug(e.to_string()))
        };
        let shape = [tokens, WIDTH as usize];
        let x = made(Tensor::bf16(&shape, cut(bank, rng, &shape, 1.0)))?;
        let mut inputs = Values::from([("x".into(), x)]);
        let positions = context..context + tokens;
        context = positions.end;
        if entries.len() > 1 {
            let positions: Vec<i32> = positions.map(|p| p as i32).collect();
            inputs.insert("positions".into(), made(Tensor::i32(&[tokens], positions))?);
        }
        let rows: Vec<usize> = (0..1 + rng.below(ROWS as usize))
            .map(|_| rng.below(tokens))
            .collect();
        if has_head {
            let index: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
            inputs.insert("rows".into(), made(Tensor::i32(&[rows.len()], index))?);
        }
        let dims = [("T", tokens), ("C", context), ("R", rows.len())];
        steps.push(Step {
            entry,
            dims: dims.map(|(name, n)| (name.into(), n as u64)).into(),
            inputs,
            rows,
        });
    }
    Ok(steps)
}

/// Little-endian bytes of a tensor's elements, without scales.
pub(super) fn bytes(value: &Tensor) -> Vec<u8> {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    match value.data() {
        Data::F32(v) => floats(v),
        // BF16 is the upper half of FP32.
        Data::Bf16(v) => {
            let halves = v.iter().map(|v| (v.to_bits() >> 16) as u16);
            halves.flat_map(u16::to_le_bytes).collect()
        }
        Data::I32(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Data::Scaled(s) => s.codes.clone(),
    }
}

/// The checkpoint in the safetensors format, as published ones are: scales of FP8 codes beside them.
pub(super) fn safetensors(
    checkpoint: &BTreeMap<String, Tensor>,
) -> Result<Vec<u8>, SafeTensorError> {
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, value) in checkpoint {
        let shape = value.shape().to_vec();
        let dtype = match value.data() {
            Data::F32(_) => Dtype::F32,
            Data::Bf16(_) => Dtype::BF16,
            Data::I32(_) => Dtype::I32,
            Data::Scaled(s) => {
                let of_scales = scale_shape(&shape, s.block);
                let scales = s.scales.iter().flat_map(|v| v.to_le_bytes()).collect();
                tensors.push((format!("{name}_scale_inv"), Dtype::F32, of_scales, scales));
                Dtype::F8_E4M3
            }
        };
        tensors.push((name.clone(), dtype, shape, bytes(value)));
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?))
        })
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    serialize(views, None)
}
